package gamelift_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/berth-dev/berth/services/allocation/providers/gamelift"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	gamelifthost "github.com/berth-dev/berth/test/hosts/gamelift"
)

// chain has credentials come from an endpoint, as those of containers do.
func chain(t *testing.T, url string) (*gamelifthost.Host, *gamelift.Provider) {
	t.Helper()
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
	t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", secretKey)
	host, cfg := single(t, gamelift.Build{Fleet: fleet}, gamelift.Region{Region: "eu-central-1"})
	cfg.CredentialsFile = ""
	return host, open(t, cfg)
}

// credentialsEndpoint has credentials after some refusals, or with a negative number for ever none.
func credentialsEndpoint(t *testing.T, refusals int32, status int, body string) string {
	t.Helper()
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n := asked.Add(1); refusals < 0 || n <= refusals {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
			return
		}
		_, _ = io.WriteString(w, `{"AccessKeyId": "`+accessKey+`", "SecretAccessKey": "`+secretKey+`", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}`)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// An endpoint of credentials that is away once holds up nothing.
func TestCredentialsThatComeLate(t *testing.T) {
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusTooManyRequests} {
		_, p := chain(t, credentialsEndpoint(t, 1, status, "away"))
		if _, err := p.Allocate(t.Context(), order()); err != nil {
			t.Errorf("after %d: %v", status, err)
		}
	}
}

// Credentials that cannot be had just now are not ones that are wrong; the message says why there are none.
func TestCredentialsThatDoNotCome(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // nobody listens there any more
	for name, c := range map[string]struct{ url, reason, text string }{
		"503":            {credentialsEndpoint(t, -1, 503, `{"code": "Away", "message": "come back later"}`), "UNAVAILABLE", "come back later"},
		"no connection":  {"http://" + l.Addr().String(), "UNAVAILABLE", "connection refused"},
		"403":            {credentialsEndpoint(t, -1, 403, `{"code": "Forbidden", "message": "no role"}`), "UNAUTHENTICATED", "no role"},
		"404":            {credentialsEndpoint(t, -1, 404, ""), "UNAUTHENTICATED", "404"},
		"half an answer": {credentialsEndpoint(t, -1, 200, `{"AccessKeyId": "`), "UNAUTHENTICATED", "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			host, p := chain(t, c.url)
			_, err := p.Allocate(t.Context(), order())
			failsWith(t, err, c.reason, c.text)
			if !strings.Contains(err.Error(), "there are no credentials") || host.Calls("CreateGameSession") != 0 {
				t.Errorf("%v", err)
			}
		})
	}
}

// What an endpoint or STS answers says whether to come back.
func TestWhyThereAreNoCredentials(t *testing.T) {
	for status, c := range map[int]struct{ code, reason string }{
		500: {"", "UNAVAILABLE"}, 429: {"", "UNAVAILABLE"}, 400: {"Throttling", "UNAVAILABLE"}, 403: {"AccessDenied", "UNAUTHENTICATED"}, 401: {"", "UNAUTHENTICATED"},
	} {
		cause := errors.New("said so")
		if c.code != "" {
			cause = &smithy.GenericAPIError{Code: c.code, Message: "said so"}
		}
		answered := &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}}, Err: cause}
		failsWith(t, gamelift.NoCredentials(hostapi.Read("look", 0), fmt.Errorf("no credentials: %w", answered)), c.reason, "said so")
	}
}
