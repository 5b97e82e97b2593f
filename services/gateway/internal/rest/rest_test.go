package rest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/services/gateway/internal/rest"
)

// service is what is behind the gateway: it notes the requests and answers as a test says.
type service struct {
	grpc.ClientConnInterface
	request any
	answer  func(reply any) error
}

func (s *service) Invoke(_ context.Context, _ string, args, reply any, _ ...grpc.CallOption) error {
	s.request = args
	if s.answer == nil {
		return nil
	}
	return s.answer(reply)
}

// api returns the API in front of a service.
func api(t *testing.T, s *service, log *slog.Logger) *httptest.Server {
	t.Helper()
	h, err := rest.API(rest.Config{GameInstance: s, Allocation: s, TokenIssuer: s, Log: log, Stopping: t.Context()})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

// ask returns the HTTP status, and reason and message of an error.
func ask(t *testing.T, method, url string) (code int, reason, message string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var e struct {
		Message string
		Details []struct{ Reason string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
		t.Fatal(err)
	}
	for _, d := range e.Details {
		reason += d.Reason
	}
	return resp.StatusCode, reason, e.Message
}

const (
	instances = "/v1/namespaces/default/instances"
	servers   = "/v1/namespaces/default/game-servers"
)

// A player with a slash in the id could be added and then not be reached: the path was cut where the id's slash had been unescaped.
func TestEveryIdIsReachedWhenItIsEscaped(t *testing.T) {
	s := &service{}
	srv := api(t, s, slog.New(slog.DiscardHandler))
	for _, id := range []string{"ann", "a/b", "a//b", "/", "..", "a:b", "a:connect", ":", "a?b", "a%b", "a%2Fb", "%", "a b", "a+b", "a#b", "jörg", "玩家", "a;b&c=d"} {
		// Escaped as url.PathEscape does, which leaves the colon, and altogether.
		var all strings.Builder
		for i := range len(id) {
			fmt.Fprintf(&all, "%%%02X", id[i])
		}
		for _, escaped := range []string{url.PathEscape(id), all.String()} {
			s.request = nil
			code, reason, message := ask(t, "POST", srv.URL+instances+"/x/players/"+escaped+":connect")
			if req, ok := s.request.(*instancev1.GetPlayerConnectionRequest); !ok || code != 200 || req.GetPlayerId() != id || req.GetInstanceId() != "x" {
				t.Errorf("%q as %s: %d %s %s, request %v", id, escaped, code, reason, message, s.request)
			}
		}
	}
}

func TestTheVerbOfAnotherMethodIsNoPartOfAnId(t *testing.T) {
	s := &service{}
	srv := api(t, s, slog.New(slog.DiscardHandler))
	for path, want := range map[string]int{
		"GET " + instances + "/x:terminate":           405,
		"GET " + instances + "/x:addPlayers":          405,
		"POST " + instances + "/x:watch":              405,
		"GET " + instances + "/x/players/ann:connect": 405,
		"GET " + instances + "/x%3Aterminate":         200, // an id, if an odd one: the service has its rule
		"POST " + instances + "/x:terminate":          200,
		"GET " + instances + "/x":                     200,
		"GET " + servers + "/x:deregister":            405,
		"POST " + servers + "/x:deregister":           200,
		"POST " + servers:                             200,
	} {
		method, path, _ := strings.Cut(path, " ")
		s.request = nil
		code, reason, _ := ask(t, method, srv.URL+path)
		if code != want || (code == 405) != (reason == "METHOD_UNKNOWN") || (code == 200) != (s.request != nil) {
			t.Errorf("%s %s: %d %s, request %v", method, path, code, reason, s.request)
		}
	}
}

func TestAQueryParameterThatNobodyReadsIsRefused(t *testing.T) {
	s := &service{}
	srv := api(t, s, slog.New(slog.DiscardHandler))
	for path, refused := range map[string]string{
		"GET " + instances:                       "",
		"GET " + instances + "?pageSize=3":       "",
		"GET " + instances + "?page_size=3":      "",
		"GET " + instances + "?filter.region=eu": "",
		"GET " + instances + "?filter.player_id=ann&filter.labels[mode]=duel&filter.states=STATE_RUNNING": "",
		"GET " + instances + "?pageSzie=3":                      "pageSzie",
		"GET " + instances + "?PAGESIZE=3":                      "PAGESIZE",
		"GET " + instances + "?pageSize=3&zzz":                  "zzz",
		"GET " + instances + "?filter.colour=red":               "filter.colour",
		"GET " + instances + "?namespace=other":                 "namespace",
		"GET " + instances + "/x?view=full":                     "view",
		"GET " + servers + "?pageSize=3&page_token=t":           "",
		"GET " + servers + "?capacity=3":                        "capacity",
		"POST " + servers + "?capacity=3":                       "capacity",
		"POST " + instances + "/x:terminate?force=true":         "force",
		"POST " + instances + "/x/players/ann:connect?region=x": "region",
	} {
		method, path, _ := strings.Cut(path, " ")
		s.request = nil
		code, reason, message := ask(t, method, srv.URL+path)
		switch {
		case refused == "" && (code != 200 || s.request == nil):
			t.Errorf("%s %s: %d %s %s", method, path, code, reason, message)
		case refused != "" && (code != 400 || reason != "VALIDATION_FAILED" || !strings.HasPrefix(message, refused+": ") || s.request != nil):
			t.Errorf("%s %s: %d %s %s", method, path, code, reason, message)
		}
	}
	if code, reason, _ := ask(t, "POST", srv.URL+instances+"/x:terminate?a=%zz"); code != 400 || reason != "MALFORMED" {
		t.Errorf("a query that is none: %d %s", code, reason)
	}
}

// The document is one for both ports, and says which paths are where.
func TestTheAPIHasThePathsThatTheDocumentSaysItHas(t *testing.T) {
	srv := api(t, &service{}, slog.New(slog.DiscardHandler))
	resp, err := http.Get(srv.URL + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var doc struct {
		Info  struct{ Description string }
		Paths map[string]any
	}
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil || len(doc.Paths) == 0 {
		t.Fatal(err)
	}
	for _, prefix := range []string{"/v1/game-server/", "/v1/claim", "/.well-known/"} {
		if !strings.Contains(doc.Info.Description, prefix) {
			t.Errorf("the document does not say where %s is: %s", prefix, doc.Info.Description)
		}
	}
	for path := range doc.Paths {
		want := 405 // it is there, and has no such method
		if strings.HasPrefix(path, "/v1/game-server/") || path == "/v1/claim" {
			want = 404
		}
		filled := strings.NewReplacer("{namespace}", "default", "{", "", "}", "").Replace(path)
		if code, reason, _ := ask(t, "PATCH", srv.URL+filled); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, reason, want)
		}
	}
}

// What a service answers and the gateway cannot read, or cannot put into JSON, no service has logged.
func TestADefectFoundAtTheGatewayHasARequestIdAndIsLoggedOnce(t *testing.T) {
	for name, answer := range map[string]func(reply any) error{
		"not to be read": func(any) error {
			return status.Error(codes.Internal, "grpc: failed to unmarshal the received message: secret detail")
		},
		"not to be put into JSON": func(reply any) error {
			reply.(*instancev1.GetGameInstanceResponse).Instance = &instancev1.GameInstance{Message: "secret detail \xff"}
			return nil
		},
		"not even a status": func(any) error { return errors.New("secret detail") },
	} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			srv := api(t, &service{answer: answer}, slog.New(slog.NewTextHandler(&log, nil)))
			code, reason, message := ask(t, "GET", srv.URL+instances+"/x")
			_, id, _ := strings.Cut(message, "request id ")
			if code != 500 || reason != "INTERNAL" || id == "" || strings.Contains(message, "secret") {
				t.Errorf("%d %s %s", code, reason, message)
			}
			if strings.Count(log.String(), id) != 1 || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "GetGameInstance") {
				t.Errorf("the log has %s", log.String())
			}
		})
	}
}
