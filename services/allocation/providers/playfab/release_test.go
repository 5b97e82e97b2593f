package playfab_test

import (
	"net/http"
	"strings"
	"testing"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
)

// A session in a state that is not known is one all the same, and is shut down. What is told of another session says nothing of it.
func TestReleaseOfAStateThatIsNotKnown(t *testing.T) {
	host, cfg, counted := start(t, nil)
	p, req := open(t, cfg), order("shooter", "eu")
	if err := get(t, p); err != nil { // so that there is a token
		t.Fatal(err)
	}
	id := attempts.UUID("live", req.GetAttemptId())
	for _, c := range []struct {
		session, state string
		shut           int // calls by then
		answers        providerv1.ServerState
		reason         providerv1.FailureReason
	}{
		{"02bdef0e-e01e-4b29-8efe-ff9f47a06d8c", "Dancing", 0, 0, provider.Unavailable},
		{strings.ToUpper(id), "Dancing", 1, providerv1.ServerState_SERVER_STATE_STOPPING, 0},
		{id, "", 2, providerv1.ServerState_SERVER_STATE_STOPPING, 0},
		{id, "Terminating", 2, providerv1.ServerState_SERVER_STATE_STOPPING, 0},
		{id, "Terminated", 2, providerv1.ServerState_SERVER_STATE_EXITED, 0},
	} {
		host.Answer(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/ShutdownMultiplayerServer") {
				answer{200, "", `{"code": 200, "data": {}}`}.ServeHTTP(w, r)
				return
			}
			answer{200, "", `{"code": 200, "data": {"SessionId": "` + c.session + `", "State": "` + c.state + `"}}`}.ServeHTTP(w, r)
		})
		resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: "live"})
		if resp.GetState() != c.answers || provider.ReasonOf(err) != c.reason {
			t.Errorf("%q of %s: %v, %v", c.state, c.session, resp, err)
		}
		if n := counted.of("ShutdownMultiplayerServer"); n != c.shut {
			t.Errorf("%q of %s: PlayFab was told %d times, want %d", c.state, c.session, n, c.shut)
		}
	}
}
