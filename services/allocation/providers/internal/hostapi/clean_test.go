package hostapi_test

import (
	"strings"
	"testing"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// What a host repeats of what it was sent is not passed on.
func TestCleanHidesSecrets(t *testing.T) {
	secret := strings.Repeat("eyJhbGciOi", 10)
	got := hostapi.Clean("invalid\n\tpayload \x00 {\"game\": \"" + secret + "\"} " + strings.Repeat("word ", 200))
	if strings.Contains(got, secret[:40]) || strings.ContainsAny(got, "\n\t\x00") || len(got) > 310 || !strings.HasPrefix(got, "invalid payload") {
		t.Errorf("got %q", got)
	}
}

const (
	jwt    = "eyJhbGciOiJSUzI1NiIsImtpZCI6Ims3In0.eyJzdWIiOiJnYW1lIiwiaWF0IjoxNzkwMDAwMDAwfQ.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
	digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// What may be a secret is hidden, wherever it stands. When in doubt it is.
func TestCleanHides(t *testing.T) {
	for name, c := range map[string]struct{ said, secret string }{
		"a JWT":                           {"token " + jwt + " has expired", jwt[:20]},
		"a JWT after a registry":          {"registry.example.com/" + jwt, jwt[:20]},
		"a JWT as a tag":                  {"registry.example.com/studio/shooter:" + jwt, jwt[:20]},
		"a JWT as a password":             {"robot:" + jwt + "@registry.example.com/studio/shooter", jwt[:20]},
		"an API key of Berth's":           {"berth_0123456789abcdefghijABCDEFGHIJ0123456789abcdefghi is unknown", "berth_0123"},
		"an AWS secret":                   {"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalr"},
		"a short bearer token":            {"refused: Authorization: Bearer a1b2c3d4e5f6a7b8", "a1b2c3"},
		"a bearer token of letters":       {"Bearer abcdefghijKLMNOPQRST is refused", "abcdef"},
		"basic credentials":               {"refused: Basic dXNlcjpwYXNz=", "dXNlcj"},
		"hex":                             {"key " + digest, digest[:20]},
		"hex after a registry":            {"registry.example.com/studio/" + digest, digest[:20]},
		"hex with a digest's name":        {"the key has sha256:" + digest, digest[:20]},
		"hex as a digest of no image":     {"user@sha256:" + digest, digest[:20]},
		"more than a digest":              {"registry.example.com/studio/shooter@sha256:" + digest + digest, digest[:20]},
		"a commit as a tag":               {"registry.example.com/studio/shooter:" + digest[:40], digest[:20]},
		"a UUID in an address":            {"hooks.example.com/services/6c1f9a52-6f3e-4c64-9d5c-3f0d6f3f5a10", "6c1f9a52"},
		"a code with hyphens":             {"hooks.example.com/codes/1a2b-3c4d-5e6f-7a8b-9c0d-1e2f", "1a2b"},
		"a code with hyphens, of letters": {"hooks.example.com/codes/qwertzuiopasdfghjklyxcvbn-mnbvcxy", "qwertz"},
		"base64 with slashes":             {"c2VjcmV0/c2VjcmV0/c2VjcmV0/c2VjcmV0/c2VjcmV0", "c2Vj"},
		"base64 before a name":            {"c2VjcmV0c2VjcmV0c2Vj/registry.example.com/studio/shooter", "c2Vj"},
		"base64 after a name":             {"registry.example.com/studio/shooter=c2VjcmV0c2VjcmV0", "c2Vj"},
		"what a name is a part of":        {"c2VjcmV0c2VjcmV0.registry.example.com/studio/shooter", "c2Vj"},
		"a query":                         {"https://example.com/?X-Amz-Signature=" + digest, digest[:20]},
		"JSON":                            {`{"payload":"` + strings.Repeat("eyJhbGciOi", 10) + `"}`, "eyJhbGciOi"},
	} {
		if got := hostapi.Clean(c.said); strings.Contains(got, c.secret) || !strings.Contains(got, "…") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// Without the image's name nobody finds out why it is not pulled: it is shown however long it is.
func TestCleanShowsImages(t *testing.T) {
	for _, said := range []string{
		"registry.example.com/studio/shooter-server-for-europe",
		"registry.example.com/a-studio-with-a-name/shooter-server:1.4.2-rc1",
		"registry.example.com/studio/shooter-server@sha256:" + digest,
		"registry.example.com/shooter:1.4@sha256:" + digest,
		"registry.example.com:5000/studio/team_two/shooter.server:live",
		"123456789012.dkr.ecr.eu-central-1.amazonaws.com/studio/shooter-server:2026-11-28",
		"europe-west1-docker.pkg.dev/studio-123456/servers/shooter:latest",
		`Back-off pulling image "registry.example.com/a-studio-with-a-name/shooter-server:1": not found`,
		"image registry.example.com/a-studio-with-a-name/shooter-server: access denied",
		"There is no registry.example.com/a-studio-with-a-name/shooter-server.",
		"Bearer authentication is needed", "Basic authorization failed",
	} {
		if got := hostapi.Clean(said); got != said {
			t.Errorf("%q: %q", said, got)
		}
	}
}
