package hostapi_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// What a host repeats of the credentials that it was sent is in no message, however it looks.
func TestNoMessageHasTheCredentials(t *testing.T) {
	const secret = "5d7f1a66-4f7e-4c1b/9d59+0a1b2c3d"
	for name, authorize := range map[string]func(*http.Request){
		"a bearer":   func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secret) },
		"a scheme":   func(r *http.Request) { r.Header.Set("Authorization", "token "+secret) },
		"a password": func(r *http.Request) { r.SetBasicAuth("key-id", secret) },
		"a header":   func(r *http.Request) { r.Header.Set("X-Secret", secret) },
	} {
		for _, answer := range []http.HandlerFunc{
			says(401, `{"message": "secret `+secret+` is not that of the key"}`),
			says(401, `{"message": "secret `+strings.ReplaceAll(secret, "/", `\/`)+` is not that of the key"}`),
			says(403, `secret `+secret+` is not that of the key`),
			says(500, strings.Repeat("it is long ", 25)+secret), // which is cut off in the middle of the secret
			says(200, `"secret `+secret+` is not that of the key"`),
			says(400, `{"code": 17}`),
		} {
			srv := httptest.NewServer(answer)
			c := client(t, hostapi.Config{
				Host: "Host", URL: srv.URL, Authorize: func(_ context.Context, r *http.Request) error { authorize(r); return nil },
				Explain: func(r hostapi.Refusal) error {
					if r.Status == http.StatusBadRequest {
						return r.Failure(r.Reason(), "the key is "+secret)
					}
					return nil
				},
			})
			err := c.Do(t.Context(), hostapi.Call{Operation: hostapi.Write("start a server", 0), Method: http.MethodPost, In: "x", Out: new(struct{})})
			srv.Close()
			if err == nil || strings.Contains(err.Error(), secret[:8]) || strings.Contains(err.Error(), "application/json") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// What is too short to be a secret hides no words.
func TestShortCredentialsHideNothing(t *testing.T) {
	srv := httptest.NewServer(says(401, `{"message": "the key is not known"}`))
	defer srv.Close()
	c := client(t, hostapi.Config{Host: "Host", URL: srv.URL, Authorize: func(_ context.Context, r *http.Request) error { r.SetBasicAuth("a", "key"); return nil }})
	err := c.Do(t.Context(), hostapi.Call{Operation: hostapi.Read("look", 0), Method: http.MethodGet})
	if err == nil || !strings.Contains(err.Error(), "the key is not known") {
		t.Errorf("got %v", err)
	}
}
