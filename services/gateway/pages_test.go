package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"

	"github.com/berth-dev/berth/services/gateway"
	"github.com/berth-dev/berth/services/gateway/internal/door"
)

const tools = "https://tools.example.com"

// preflight asks whether a page may call.
func (w *world) preflight(addr, origin string) *http.Response {
	w.tb.Helper()
	resp, _ := w.ask("OPTIONS", "http://"+addr+instancePath, "", func(h http.Header) {
		h.Del("Authorization")
		h.Set("Origin", origin)
		h.Set("Access-Control-Request-Method", "POST")
		h.Set("Access-Control-Request-Headers", "authorization,content-type")
	})
	return resp
}

func TestPagesOfListedOriginsMayCallTheAPIAndNoOthers(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.CORS.AllowedOrigins = []string{tools, "http://localhost:5173"} })
	allowed := func(r *http.Response) string { return r.Header.Get("Access-Control-Allow-Origin") }
	for origin, want := range map[string]string{
		tools: tools, "http://localhost:5173": "http://localhost:5173",
		"https://evil.example": "", "http://tools.example.com": "", tools + ".evil.example": "", tools + ":8443": "", "http://localhost": "", "null": "",
	} {
		resp := w.preflight(w.api, origin)
		if got := allowed(resp); got != want || !strings.Contains(strings.Join(resp.Header.Values("Vary"), ","), "Origin") {
			t.Errorf("preflight of %s: %v", origin, resp.Header)
		}
		if want != "" {
			methods, headers := resp.Header.Get("Access-Control-Allow-Methods"), strings.ToLower(resp.Header.Get("Access-Control-Allow-Headers"))
			if resp.StatusCode != http.StatusNoContent || methods != "POST" || !strings.Contains(headers, "authorization") || !strings.Contains(headers, "content-type") {
				t.Errorf("preflight of %s: %d %v", origin, resp.StatusCode, resp.Header)
			}
		}
		for what, change := range map[string]func(http.Header){"a call": func(http.Header) {}, "a refusal": func(h http.Header) { h.Del("Authorization") }} {
			resp, _ := w.ask("GET", "http://"+w.api+instancePath, "", func(h http.Header) { h.Set("Origin", origin); change(h) })
			if got := allowed(resp); got != want || !strings.Contains(strings.Join(resp.Header.Values("Vary"), ","), "Origin") {
				t.Errorf("%s from %s: %v", what, origin, resp.Header)
			}
			if resp.Header.Get("Access-Control-Allow-Credentials") != "" { // that is for cookies
				t.Errorf("%s from %s: %v", what, origin, resp.Header)
			}
		}
	}
	if resp := w.preflight(w.edge, tools); allowed(resp) != "" {
		t.Errorf("the edge answers a page: %v", resp.Header)
	}
	if resp, _ := w.ask("GET", "http://"+w.edge+"/.well-known/jwks.json", "", func(h http.Header) { h.Set("Origin", tools) }); allowed(resp) != "" {
		t.Errorf("the edge answers a page: %v", resp.Header)
	}
	if other := start(t, nil); allowed(other.preflight(other.api, tools)) != "" {
		t.Error("pages are answered by default")
	}
}

func TestOriginsAreListedExactly(t *testing.T) {
	for _, origin := range []string{"*", "https://*.example.com", "https://example.com/", "https://example.com/x", "example.com", "null", "https://EXAMPLE.com", "ftp://example.com", ""} {
		cfg := gateway.Default()
		cfg.Auth.InternalKey, cfg.CORS.AllowedOrigins = internalKey, []string{tools, origin}
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "cors.allowed_origins (BERTH_CORS_ALLOWED_ORIGINS)") || strings.Contains(err.Error(), tools+`" is`) {
			t.Errorf("%q: %v", origin, err)
		}
	}
}

// A page can have its own name resolved to this machine's address, but not send another name.
func TestWhoCallsByAnotherNameIsRefusedAtEveryDoor(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.AllowedHosts = []string{"localhost"} })
	plain := w.http
	as := func(name string) *http.Client {
		return &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			r.Host = name
			return plain.Transport.RoundTrip(r)
		})}
	}
	for _, url := range []string{w.api + instancePath, w.api + "/openapi.json", w.api + "/nonsense", w.edge + "/.well-known/jwks.json", w.edge + "/v1/game-server/tokens:refresh"} {
		for name, ok := range map[string]bool{"localhost:1": true, "127.0.0.1": true, "rebound.evil.example": false} {
			w.http = as(name)
			resp, raw := w.ask("GET", "http://"+url, "", nil)
			if (resp.StatusCode != http.StatusForbidden) != ok {
				t.Errorf("%s as %s: %d %s", url, name, resp.StatusCode, raw)
			}
			if ok {
				continue
			}
			if e := decodeError(t, raw); e.Details[0].Reason != string(errs.RoleRequired) || !strings.Contains(e.Message, "allowed_hosts") {
				t.Errorf("%s as %s: %s", url, name, raw)
			}
		}
	}
	w.http = plain
	for name, ok := range map[string]bool{"localhost": true, "rebound.evil.example": false} {
		conn, err := grpc.NewClient(w.edge, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(name))
		if err != nil {
			t.Fatal(err)
		}
		_, err = gameserverv1.NewGameServerServiceClient(conn).UpdateGameData(t.Context(), gameData())
		if err := rpc.FromStatus(err); errs.Is(err, errs.CredentialsMissing) != ok || errs.Is(err, errs.RoleRequired) == ok {
			t.Errorf("gRPC as %s: %v", name, err)
		}
		_ = conn.Close()
		w.http = as(name)
		_, resp, err := w.dial(w.backend.issuer.pair(t), nil)
		if (err == nil) != ok {
			t.Errorf("the link as %s: %v", name, err)
		}
		if !ok && (resp.StatusCode != http.StatusForbidden || refusal(t, resp).Reason != string(errs.RoleRequired)) {
			t.Errorf("the link as %s: %v", name, resp)
		}
		w.http = plain
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Tokens belong into headers: what is in a query ends up in the logs of proxies.
func TestATokenInTheQueryIsRefusedOnEveryPath(t *testing.T) {
	w, _ := startLimited(t, door.Rates{})
	_, raw := w.ask("GET", "http://"+w.api+"/openapi.json", "", nil)
	var doc struct {
		Paths map[string]map[string]any
	}
	if err := json.Unmarshal(raw, &doc); err != nil || len(doc.Paths) == 0 {
		t.Fatal(err)
	}
	doc.Paths["/openapi.json"] = map[string]any{"get": nil}
	doc.Paths["/.well-known/jwks.json"] = map[string]any{"get": nil}
	asked := 0
	for path, calls := range doc.Paths {
		filled := strings.NewReplacer("{namespace}", "default", "{", "", "}", "").Replace(path)
		for method := range calls {
			for _, name := range []string{"access_token", "token", "key", "api_key", "apiKey", "authorization", "game", "social", "berth-social-token", "jwt", "code"} {
				for _, addr := range []string{w.api, w.edge} {
					resp, raw := w.ask(strings.ToUpper(method), fmt.Sprintf("http://%s%s?%s=%s", addr, filled, name, apiKey), `{}`, nil)
					e := decodeError(t, raw)
					elsewhere := resp.StatusCode == http.StatusNotFound && e.Details[0].Reason == string(errs.PathUnknown) // it is on the other port
					if refused := resp.StatusCode == http.StatusBadRequest && strings.Contains(e.Message, name); !refused && !elsewhere || strings.Contains(string(raw), apiKey) {
						t.Errorf("%s %s with %s: %d %s", method, addr+filled, name, resp.StatusCode, raw)
					} else if refused {
						asked++
					}
				}
			}
		}
	}
	if asked < 11*len(doc.Paths) {
		t.Errorf("only %d were refused for it", asked)
	}
}

// What is no path of ours is answered as every other error is, and never with a redirect to what somebody may have meant.
func TestEveryPathIsAnsweredInTheOneForm(t *testing.T) {
	w := start(t, nil)
	for _, addr := range []string{w.api, w.edge} {
		for _, path := range []string{"//", "//evil.example/", "/v1/../openapi.json", "/./openapi.json", "/v1//providers", "/.well-known/jwks.json/", "/v1/link/", "/v1/link/..", "/%2e%2e/x", "/%ff"} {
			resp, raw := w.ask("GET", "http://"+addr+path, "", nil)
			if e := decodeError(t, raw); resp.StatusCode != http.StatusNotFound || len(e.Details) != 1 || e.Details[0].Reason != string(errs.PathUnknown) {
				t.Errorf("%s: %d %s", addr+path, resp.StatusCode, raw)
			}
		}
	}
}
