package hathora_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/test/hosts/standin"
)

// said is an answer of the host.
type said struct {
	status int
	body   string
}

// answer answers each kind of call, which the path names, with that; others are not found.
func answer(host *standin.Host, by map[string]said) {
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		for kind, s := range by {
			if strings.Contains(r.URL.Path, "/"+kind) {
				w.WriteHeader(s.status)
				_, _ = io.WriteString(w, s.body)
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"message": "not found"}`)
	})
}

// What is at the host under a name that is taken decides.
func TestANameThatIsTaken(t *testing.T) {
	taken := said{400, `{"message": "Room id is already in use"}`}
	for name, c := range map[string]struct {
		info, connection string
		status           int
		want             providerv1.FailureReason
		state            providerv1.ServerState
	}{
		"by no room":              {info: `{"message": "Room not found"}`, status: 404, want: provider.Invalid},
		"and the host is away":    {info: `<html>away</html>`, status: 503, want: provider.Ambiguous},
		"and something else says": {info: `<html>no backend</html>`, status: 404, want: provider.Ambiguous},
		"by one that is over":     {info: `{"roomId": "ID", "status": "destroyed"}`, status: 200, want: provider.Invalid},
		"by one that waits":       {info: `{"roomId": "ID", "status": "scheduling"}`, status: 200, state: providerv1.ServerState_SERVER_STATE_STARTING},
		"by one that runs": {
			info: `{"roomId": "ID", "status": "active"}`, connection: `{"roomId": "ID", "status": "active"}`, status: 200, state: providerv1.ServerState_SERVER_STATE_RUNNING,
		},
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t)
			p, req := open(t, cfg), order("shooter", "eu")
			id := "live-" + req.GetAttemptId()
			answer(host, map[string]said{
				"create": taken, "info": {c.status, strings.ReplaceAll(c.info, "ID", id)}, "connectioninfo": {200, strings.ReplaceAll(c.connection, "ID", id)},
			})
			resp, err := p.Allocate(t.Context(), req)
			if c.state != 0 && (err != nil || resp.GetServer().GetState() != c.state || resp.GetServer().GetRegion() != "eu") {
				t.Errorf("got %v, %v", resp, err)
			}
			if c.state == 0 && (provider.ReasonOf(err) != c.want || !strings.Contains(err.Error(), "already in use")) {
				t.Errorf("got %v, %v; want %v", resp, err, c.want)
			}
		})
	}
}

func TestGet(t *testing.T) {
	for name, c := range map[string]struct {
		info, connection said
		state            providerv1.ServerState
		want             providerv1.FailureReason
	}{
		"waits":               {info: said{200, `{"roomId": "ID", "status": "scheduling"}`}, state: providerv1.ServerState_SERVER_STATE_STARTING},
		"starts":              {said{200, `{"roomId": "ID", "status": "active"}`}, said{200, `{"roomId": "ID", "status": "starting"}`}, providerv1.ServerState_SERVER_STATE_STARTING, 0},
		"ended meanwhile":     {said{200, `{"roomId": "ID", "status": "active"}`}, said{404, `{"message": "Room not found"}`}, providerv1.ServerState_SERVER_STATE_EXITED, 0},
		"away meanwhile":      {said{200, `{"roomId": "ID", "status": "active"}`}, said{404, `<html>no backend</html>`}, 0, provider.Unavailable},
		"another's address":   {said{200, `{"roomId": "ID", "status": "active"}`}, said{200, `{"roomId": "other", "status": "active"}`}, 0, provider.Unavailable},
		"another room":        {info: said{200, `{"roomId": "other", "status": "active"}`}, want: provider.Unavailable},
		"a state of no room":  {info: said{200, `{"roomId": "ID", "status": "dancing"}`}, want: provider.Unavailable},
		"over":                {info: said{200, `{"roomId": "ID", "status": "destroyed"}`}, state: providerv1.ServerState_SERVER_STATE_EXITED},
		"not there":           {info: said{404, `{"message": "Room not found"}`}, want: provider.NotFound},
		"nothing of the host": {info: said{404, `<html>no backend</html>`}, want: provider.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t)
			attempt := order("shooter", "eu").GetAttemptId()
			own := func(s said) said { return said{s.status, strings.ReplaceAll(s.body, "ID", "live-"+attempt)} }
			answer(host, map[string]said{"info": own(c.info), "connectioninfo": own(c.connection)})
			resp, err := open(t, cfg).Get(t.Context(), &providerv1.GetRequest{AttemptId: attempt, Deployment: "live"})
			if got := provider.ReasonOf(err); resp.GetServer().GetState() != c.state || err != nil && got != c.want || (err == nil) != (c.want == 0) {
				t.Errorf("got %v, %v; want %v, %v", resp, err, c.state, c.want)
			}
		})
	}
}

// A page of something on the way says nothing of a room.
func TestReleaseNeedsTheHostsWord(t *testing.T) {
	for _, s := range []said{{200, "<html>login</html>"}, {404, "<html>no backend</html>"}, {200, `{"message": "later"}`}} {
		host, cfg := start(t)
		answer(host, map[string]said{"destroy": s})
		if resp, err := open(t, cfg).Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: order("shooter", "eu").GetAttemptId(), Deployment: "live"}); err == nil {
			t.Errorf("%v: %v", s, resp)
		}
	}
}
