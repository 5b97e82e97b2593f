package hostapi

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
)

// minSecret is how long a credential is at least: what is shorter is in many words.
const minSecret = 8

// ownHeaders are on every request, and are no secrets.
var ownHeaders = []string{"Accept", "Content-Type", "User-Agent"}

// credentials are the secrets that Authorize put on a request, in each form in which a host may repeat them, the longest first. Many do not look like secrets,
// such as a key that is a UUID.
func credentials(r *http.Request) []string {
	var all []string
	for name, values := range r.Header {
		if slices.Contains(ownHeaders, name) {
			continue
		}
		for _, value := range values {
			_, bare, _ := strings.Cut(value, " ") // without a scheme, such as Bearer
			all = append(all, value, bare)
		}
	}
	if _, password, ok := r.BasicAuth(); ok {
		all = append(all, password)
	}
	all = slices.DeleteFunc(all, func(secret string) bool { return len(secret) < minSecret })
	slices.SortFunc(all, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return all
}

// without returns the text without the secrets.
func without(text string, secrets []string) string {
	for _, secret := range secrets {
		text = strings.ReplaceAll(text, secret, hidden)
	}
	return text
}
