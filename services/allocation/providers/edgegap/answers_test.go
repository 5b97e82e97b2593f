package edgegap_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/test/hosts/standin"
)

// onePage is a host that always answers with the first page of a list, and says that there is another one.
type onePage struct {
	next  http.Handler
	lists atomic.Int32
}

// mostLists is how many lists it answers. A caller that turns pages for ever fails then.
const mostLists = 100

func (o *onePage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/v1/deployments" {
		o.next.ServeHTTP(w, r)
		return
	}
	if o.lists.Add(1) > mostLists {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	query := r.URL.Query()
	query.Del("page")
	r.URL.RawQuery = query.Encode()
	answer := httptest.NewRecorder()
	o.next.ServeHTTP(answer, r)
	w.WriteHeader(answer.Code)
	_, _ = w.Write(bytes.Replace(answer.Body.Bytes(), []byte(`"has_next":false`), []byte(`"has_next":true`), 1))
}

// Neither a look for an attempt's deployment nor a list of all goes on for ever then, and the one that there is is not taken for two.
func TestAHostThatTurnsNoPages(t *testing.T) {
	host, cfg := start(t)
	front := &onePage{next: host}
	srv := httptest.NewServer(front)
	defer srv.Close()
	cfg.URL = srv.URL
	p, req := open(t, cfg), order("shooter", "eu")
	made := allocate(t, p, req)
	untilRunning(t, p, req.GetAttemptId())
	if s := untilRunning(t, open(t, cfg), req.GetAttemptId()); s.GetExternalId() != made.GetExternalId() {
		t.Errorf("another process: %v", s)
	}
	var servers []*providerv1.Server
	token, pages := "", 0
	for more := true; more; more = token != "" {
		resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: "live", PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		servers, token, pages = append(servers, resp.GetServers()...), resp.GetNextPageToken(), pages+1
	}
	if len(servers) != 1 || servers[0].GetExternalId() != made.GetExternalId() || pages > 2 {
		t.Errorf("List has %v on %d pages", servers, pages)
	}
	if resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: "other"}); err != nil || resp.GetNextPageToken() != "" {
		t.Errorf("List of a deployment that has none: %v, %v", resp, err)
	}
	if s := get(t, p, req.GetAttemptId(), ""); s.GetState() != providerv1.ServerState_SERVER_STATE_RUNNING {
		t.Errorf("after that: %v", s)
	}
	if n := front.lists.Load(); n > mostLists/2 {
		t.Errorf("it took %d lists", n)
	}
	for _, token := range []string{"x", "2", "0/a69f8e3e0555", "x/a69f8e3e0555", "2/", "2/../a"} {
		if _, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: "live", PageToken: token}); provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), "page_token") {
			t.Errorf("page %q: %v", token, err)
		}
	}
}

// says answers in the host's place.
func says(status int, kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// A list changes while its pages are read: a deployment that is on two of them is one, and is not stopped as the younger of two.
func TestADeploymentOnTwoPages(t *testing.T) {
	const id = "a69f8e3e0555"
	host, cfg := start(t)
	p, req := open(t, cfg), order("shooter", "eu")
	one := func(id string) string {
		return `{"request_id": "` + id + `", "ready": true, "tags": ["berth-live", "` + req.GetAttemptId() + `"]}`
	}
	var stops atomic.Int32
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodDelete:
			stops.Add(1)
			says(http.StatusOK, "", `{}`)(w, r)
		case r.URL.Path == "/v1/status/"+id:
			says(http.StatusOK, "", `{"request_id": "`+id+`", "current_status": "Status.READY", "running": true}`)(w, r)
		case r.URL.Path != "/v1/deployments": // the other one
			says(http.StatusNotFound, "", `{"message": "Deployment not found"}`)(w, r)
		case r.URL.Query().Get("page") == "1":
			says(http.StatusOK, "", `{"data": [`+one(id)+`], "pagination": {"has_next": true, "next_page_number": 2}}`)(w, r)
		default:
			says(http.StatusOK, "", `{"data": [`+one(id)+`, `+one("a69f8e3e0556")+`], "pagination": {"has_next": false}}`)(w, r)
		}
	})
	if s := get(t, p, req.GetAttemptId(), ""); s.GetExternalId() != id || s.GetState() != providerv1.ServerState_SERVER_STATE_RUNNING {
		t.Errorf("got %v", s)
	}
	if n := stops.Load(); n != 0 {
		t.Errorf("it was stopped %d times", n)
	}
}

// A stop may be refused of what is about to end; its status is the truth then.
func TestAStopThatIsRefused(t *testing.T) {
	const id = "a69f8e3e0555"
	for status, want := range map[string]struct {
		state  providerv1.ServerState
		reason providerv1.FailureReason
	}{
		`"Status.TERMINATING"`:          {providerv1.ServerState_SERVER_STATE_STOPPING, 0},
		`"STATUS_TERMINATED"`:           {providerv1.ServerState_SERVER_STATE_EXITED, 0},
		`"Status.ERROR", "error": true`: {providerv1.ServerState_SERVER_STATE_EXITED, 0},
		`"Status.READY"`:                {0, provider.Invalid},
		`"Status.DEPLOYING"`:            {0, provider.Invalid},
		``:                              {0, provider.Invalid},
	} {
		host, cfg := start(t)
		p, req := open(t, cfg), order("shooter", "eu")
		host.Answer(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodDelete:
				says(http.StatusBadRequest, "", `{"message": "The deployment cannot be stopped"}`)(w, r)
			case r.URL.Path == "/v1/deployments":
				says(http.StatusOK, "", `{"data": [], "pagination": {"has_next": false}}`)(w, r)
			case status == "":
				says(http.StatusInternalServerError, "", `{"message": "Internal"}`)(w, r)
			default:
				says(http.StatusOK, "", `{"request_id": "`+id+`", "current_status": `+status+`}`)(w, r)
			}
		})
		resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), ExternalId: id, Deployment: "live"})
		if resp.GetState() != want.state || provider.ReasonOf(err) != want.reason {
			t.Errorf("with status %s: %v, %v; want %v, %v", status, resp.GetState(), err, want.state, want.reason)
		}
	}
}

// What makes no sense says nothing of a server.
func TestFailuresOfGet(t *testing.T) {
	host, cfg := start(t)
	p, req := open(t, cfg), order("shooter", "eu")
	id := allocate(t, p, req).GetExternalId()
	for name, c := range map[string]http.HandlerFunc{
		"HTML": says(200, "text/html", `<html>hello</html>`), "truncated": says(200, "", `{"request_id": "`+id+`", "curr`), "an error inside": says(200, "", `{"message": "Deployment not found"}`),
		"another one": says(200, "", `{"request_id": "a69f8e3e0555", "current_status": "Status.TERMINATED"}`), "another type": says(200, "", `{"request_id": 17}`),
		"broken": says(500, "", `{"message": "Internal"}`), "gateway": says(502, "text/html", `<html>bad gateway</html>`), "late": says(504, "text/html", `<html>time-out</html>`),
		"away": says(503, "text/html", `<html>away</html>`),
	} {
		host.Answer(c)
		if _, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), ExternalId: id, Deployment: "live"}); provider.ReasonOf(err) != provider.Unavailable {
			t.Errorf("%s: Get: %v", name, err)
		}
		if _, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: "live"}); provider.ReasonOf(err) != provider.Unavailable {
			t.Errorf("%s: List: %v", name, err)
		}
	}
}

// A host that hangs has the order, and says nothing of a server.
func TestAHostThatHangs(t *testing.T) {
	host, cfg := start(t)
	p, there := open(t, cfg), order("shooter", "eu")
	allocate(t, p, there)
	calls := standin.Calls(p, order("shooter", "eu"), there)
	for name, want := range map[string]providerv1.FailureReason{"Allocate": provider.Ambiguous, "Get": provider.Unavailable, "List": provider.Unavailable, "Release": provider.Ambiguous} { // Release stops what it knows first
		if err := host.CutOff(t.Context(), calls[name]); provider.ReasonOf(err) != want {
			t.Errorf("%s: %v: %v", name, provider.ReasonOf(err), err)
		}
	}
}
