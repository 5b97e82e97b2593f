package auth_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// issuer answers LookupApiKey without a network, so that time can be false.
type issuer struct {
	grpc.ClientConnInterface
	keys  map[string]*tokenv1.ApiKey
	away  bool
	asked int
}

func (i *issuer) Invoke(_ context.Context, _ string, req, reply any, _ ...grpc.CallOption) error {
	i.asked++
	if i.away {
		return errors.New("away")
	}
	reply.(*tokenv1.LookupApiKeyResponse).ApiKey = i.keys[req.(*tokenv1.LookupApiKeyRequest).GetSha256()]
	return nil
}

func TestIssuedKeysAreLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, hash := apikey.Generate()
		i := &issuer{keys: map[string]*tokenv1.ApiKey{hash: {Name: "lobby", Role: typev1.Role_ROLE_SERVICE, Namespaces: []string{"a"}}}}
		a, err := auth.New(auth.Config{InternalKey: internalKey}, nil, auth.NewIssuedKeys(i))
		if err != nil {
			t.Fatal(err)
		}
		show := func(key string) (auth.Principal, errs.Reason) {
			p, err := a.Authenticate(t.Context(), metadata.Pairs("authorization", "Bearer "+key))
			return p, errs.ReasonOf(err)
		}
		known := func(when string, asked int) {
			t.Helper()
			if p, refused := show(key.Reveal()); refused != "" || p.Role != auth.RoleService || p.Name != "lobby" || fmt.Sprint(p.Namespaces) != "[a]" || i.asked != asked {
				t.Errorf("%s: %+v, %q, asked %d times, want %d", when, p, refused, i.asked, asked)
			}
		}
		known("at first", 1)
		known("at once again", 1)
		time.Sleep(6 * time.Second)
		known("later", 2)

		i.away = true
		time.Sleep(6 * time.Second)
		known("while token-issuer is away", 3)
		if _, refused := show(must(apikey.Generate())); refused != errs.ServiceUnavailable {
			t.Errorf("another key meanwhile: %q", refused)
		}
		time.Sleep(time.Minute)
		if _, refused := show(key.Reveal()); refused != errs.ServiceUnavailable {
			t.Errorf("while it is away for long: %q", refused)
		}

		i.away, i.keys = false, nil
		if _, refused := show(key.Reveal()); refused != errs.CredentialsInvalid {
			t.Errorf("revoked: %q", refused)
		}
		asked := i.asked
		if show(key.Reveal()); i.asked != asked {
			t.Error("that there is no such key was asked twice at once")
		}
		// What has no checksum is not worth a question.
		if _, refused := show(apikey.Prefix + "guess"); refused != errs.CredentialsInvalid || i.asked != asked {
			t.Errorf("a guess: %q, asked %d times more", refused, i.asked-asked)
		}
	})
}

// What is kept of answers is bounded, whoever asks for what.
func TestLookupsAreBounded(t *testing.T) {
	i := &issuer{}
	keys := auth.NewIssuedKeys(i)
	for n := range 5000 {
		if _, ok, err := keys.LookupKey(t.Context(), fmt.Sprint(n)); ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if _, _, err := keys.LookupKey(t.Context(), "0"); err != nil || i.asked != 5001 {
		t.Errorf("asked %d times: the first answer of 5000 is still kept", i.asked)
	}
}

func must[S fmt.Stringer](key S, _ string) string {
	return any(key).(interface{ Reveal() string }).Reveal()
}
