package hostapi

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/berth-dev/berth/sdk/go/provider"
)

// maxSecret is how long a secret may be, in bytes.
const maxSecret = 16 << 10

// SecretFile is the path of a file with a secret, such as an API key. It is read for each use, so that a new one needs no restart.
type SecretFile string

// Read returns the secret, without space around it.
func (f SecretFile) Read() (string, error) {
	if f == "" {
		return "", errors.New("is needed: the path of a file with the secret")
	}
	raw, err := os.ReadFile(string(f))
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(raw))
	switch {
	case secret == "":
		return "", fmt.Errorf("%s is empty", f)
	case len(secret) > maxSecret || strings.ContainsAny(secret, "\r\n\x00"):
		return "", fmt.Errorf("%s has more than a secret of one line", f)
	}
	return secret, nil
}

// Use returns the secret for a call, or a failure that names the setting.
func (f SecretFile) Use(setting string) (string, error) {
	secret, err := f.Read()
	if err != nil {
		return "", provider.Failure(provider.Unauthenticated, "%s: %v", setting, err)
	}
	return secret, nil
}
