package rest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/services/gateway/internal/door"
	"github.com/berth-dev/berth/services/gateway/internal/rest"
)

// silent is a stream that ends at once.
type silent struct {
	grpc.ClientStream
	ctx context.Context
}

func (silent) Header() (metadata.MD, error) { return metadata.MD{}, nil }
func (silent) Trailer() metadata.MD         { return nil }
func (silent) CloseSend() error             { return nil }
func (silent) SendMsg(any) error            { return nil }
func (silent) RecvMsg(any) error            { return io.EOF }
func (s silent) Context() context.Context   { return s.ctx }

// NewStream implements grpc.ClientConnInterface.
func (s *service) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return silent{ctx: ctx}, nil
}

type keys struct{}

func (keys) Document() ([]byte, error) { return []byte(`{"keys":[]}`), nil }
func (keys) MaxAge() time.Duration     { return time.Minute }

// bothPorts returns the handlers of both ports, in front of services that answer everything with nothing.
func bothPorts(tb testing.TB) (api, edge http.Handler) {
	tb.Helper()
	d, err := door.New(door.Config{TrustedProxies: []string{"192.0.2.0/24"}, AllowedHosts: []string{"berth.example"}, Rates: door.Rates{}})
	if err != nil {
		tb.Fatal(err)
	}
	s := &service{}
	cfg := rest.Config{
		GameInstance: s, Allocation: s, TokenIssuer: s, Keys: keys{}, Link: http.NotFoundHandler(), Log: slog.New(slog.DiscardHandler), Stopping: tb.Context(),
		Door: d, AllowedOrigins: []string{"https://tools.example.com"},
	}
	if api, err = rest.API(cfg); err != nil {
		tb.Fatal(err)
	}
	e, err := rest.NewEdge(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return api, e
}

// reasonOf returns the reason of an answer in the one form of errors.
func reasonOf(raw []byte) (string, error) {
	var e struct {
		Code    int
		Message string
		Details []struct {
			Type   string `json:"@type"`
			Domain string
			Reason string
		}
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return "", err
	}
	if e.Code == 0 || e.Message == "" || len(e.Details) == 0 || e.Details[0].Domain != "berth.dev" || e.Details[0].Reason == "" {
		return "", fmt.Errorf("no form of an error: %+v", e)
	}
	return e.Details[0].Reason, nil
}

// Whatever is sent, it is no defect of ours, and errors have the one form.
func FuzzREST(f *testing.F) {
	for _, seed := range []struct{ method, target, headers, body string }{
		{"GET", instances, "Authorization: Bearer x", ""},
		{"GET", instances + "?filter.states=STATE_RUNNING&filter.labels[a]=b&pageSize=3", "", ""},
		{"GET", instances + "?filter.labels[\xff]=b", "", ""},
		{"GET", instances + "?filter.labels[a]=%ff&page_size=99999999999999999999", "", ""},
		{"POST", instances, "Content-Type: application/json", `{"players":[{"id":"ann"}],"settings":{"a":[1,2,{"b":null}]}}`},
		{"POST", instances, "", "{\"requestId\":\"\xff\"}"},
		{"POST", instances, "", "\xff\xfe"},
		{"POST", instances, "", `{"\ud800":1}`},
		{"POST", instances, "", `{"requestId":"\ud800"}`},
		{"POST", instances, "", strings.Repeat("[", 20_000)},
		{"POST", instances, "", `{"timeouts":{"link":"99999999999999s"}}`},
		{"POST", instances, "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"},
		{"GET", instances + "/x:watch", "Accept: text/event-stream", ""},
		{"GET", instances + "/%ff", "", ""},
		{"GET", instances + "/\xff", "", ""},
		{"GET", "/\xff\xfe", "", ""},
		{"GET", "/v1/%", "", ""},
		{"POST", instances + "/x/players/%2F%ff:connect", "", ""},
		{"GET", "//evil.example/..", "", ""},
		{"GET", "http://other.example/v1/providers", "", ""},
		{"OPTIONS", "*", "", ""},
		{"CONNECT", "berth.example:443", "", ""},
		{"OPTIONS", instances, "Origin: https://tools.example.com\r\nAccess-Control-Request-Method: POST", ""},
		{"HEAD", "/openapi.json", "", ""},
		{"POST", "/.well-known/jwks.json", "", ""},
		{"GET", "/.well-known/jwks.json", "If-None-Match: *\r\nRange: bytes=0-1,0-1", ""},
		{"GET", "/.well-known/jwks.json", "Range: bytes=900-", ""},
		{"GET", "/.well-known/jwks.json", "If-Match: \"x\"", ""},
		{"POST", "/v1/game-server/tokens:refresh", "Authorization: Bearer \xff\r\nBerth-Social-Token: x", `{"resumeKey":"k"}`},
		{"POST", "/v1/game-server/instances/x:updateGameData", "Traceparent: \xff\r\nX-Forwarded-For: 1.2.3.4, \xff", `{"gameData":{"binary":"!"}}`},
		{"X-METHOD", instances, "X-HTTP-Method-Override: DELETE", ""},
	} {
		f.Add(seed.method, seed.target, seed.headers, seed.body)
	}
	api, edge := bothPorts(f)
	f.Fuzz(func(t *testing.T, method, target, headers, body string) {
		if headers != "" {
			headers += "\r\n"
		}
		if !strings.Contains(strings.ToLower(headers), "transfer-encoding") {
			headers += fmt.Sprintf("Content-Length: %d\r\n", len(body))
		}
		for name, port := range map[string]http.Handler{"api": api, "edge": edge} {
			r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: berth.example\r\n" + headers + "\r\n" + body)))
			if err != nil {
				return // net/http answers that
			}
			r.RemoteAddr = "192.0.2.1:5"
			w := httptest.NewRecorder()
			port.ServeHTTP(w, r)
			raw := w.Body.Bytes()
			switch {
			case r.URL.Path == "/v1/link" && name == "edge":
			case w.Code >= 500 && w.Code != http.StatusNotImplemented:
				t.Fatalf("%s: %q %q: %d %s", name, method, target, w.Code, raw)
			case w.Code >= 400:
				if _, err := reasonOf(raw); err != nil || w.Header().Get("Content-Type") != "application/json" {
					t.Fatalf("%s: %q %q: %d %s %q: %v", name, method, target, w.Code, w.Header().Get("Content-Type"), raw, err)
				}
			case w.Code >= 300 && w.Code != http.StatusNotModified:
				t.Fatalf("%s: %q %q: %d to %s", name, method, target, w.Code, w.Header().Get("Location"))
			}
		}
	})
}

// Such a path, or body, was answered with 500: its text came into a message, which JSON could not have.
func TestWhatIsNotUTF8IsTheCallersMistake(t *testing.T) {
	srv := api(t, &service{}, slog.New(slog.DiscardHandler))
	for name, c := range map[string]struct {
		method, path, body, reason string
		status                     int
	}{
		"an unknown path":  {"GET", "/\xff", "", "PATH_UNKNOWN", 404},
		"an id":            {"GET", instances + "/\xff", "", "MALFORMED", 400},
		"a query's name":   {"GET", instances + "?\xff=1", "", "MALFORMED", 400},
		"a body":           {"POST", instances, "\xff", "MALFORMED", 400},
		"a field's name":   {"POST", instances, "{\"\xff\": 1}", "MALFORMED", 400},
		"a field's value":  {"POST", instances, "{\"requestId\": \"\xff\"}", "MALFORMED", 400},
		"half a surrogate": {"POST", instances, `{"requestId": "\ud800"}`, "MALFORMED", 400},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), c.method, srv.URL, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			path, query, _ := strings.Cut(c.path, "?")
			req.URL = &url.URL{Scheme: "http", Host: req.URL.Host, Path: path, RawQuery: query}
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			raw, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if reason, err := reasonOf(raw); err != nil || resp.StatusCode != c.status || reason != c.reason {
				t.Errorf("%d %s: %v", resp.StatusCode, raw, err)
			}
		})
	}
}
