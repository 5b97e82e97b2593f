package agones_test

import (
	"testing"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// A region is taken out of the configuration while a match runs in it: its server is found and released where its external id says that it is.
func TestARegionThatIsTakenOut(t *testing.T) {
	for name, there := range map[string]string{"what it was": "Allocated", "broken": "Unhealthy"} {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t, fleets(), "cluster")
			req := order()
			req.Region = "us"
			external := allocate(t, open(t, cfg), req).GetExternalId()
			delete(cfg.Regions, "us")
			p := open(t, cfg)
			host.Set(req.GetAttemptId(), there)
			if s, err := get(p, req, external); err != nil || s.GetExternalId() != external || (s.GetState() == providerv1.ServerState_SERVER_STATE_RUNNING) != (there == "Allocated") {
				t.Errorf("Get: %v, %v", s, err)
			}
			for want := providerv1.ServerState_SERVER_STATE_STOPPING; ; want = providerv1.ServerState_SERVER_STATE_EXITED {
				resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: deployment, ExternalId: external})
				if err != nil || resp.GetState() != want || host.There(external) {
					t.Fatalf("Release: %v, %v; want %v, and the server gone", resp, err, want)
				}
				if want == providerv1.ServerState_SERVER_STATE_EXITED {
					return
				}
			}
		})
	}
}

// What is no namespace/name is nobody's place: the server is looked for in the regions.
func TestAnExternalIDThatIsNone(t *testing.T) {
	_, cfg := start(t, fleets(), "cluster")
	p, req := open(t, cfg), order()
	made := allocate(t, p, req)
	for _, external := range []string{"", "games", "/x", "Games!/x", "games.us/x", "../games/x", "games/"} {
		if s, err := get(p, req, external); err != nil || s.GetExternalId() != made.GetExternalId() {
			t.Errorf("%q: %v, %v", external, s, err)
		}
	}
	if _, err := get(p, order(), "games-us/shooter-x"); provider.ReasonOf(err) != provider.NotFound {
		t.Errorf("what nobody asked for: %v", err)
	}
}
