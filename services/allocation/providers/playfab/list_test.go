package playfab_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/playfab"
)

// List goes through each build, also of an alias, in each region, and has what the process knows of: one that starts anew learns by Get.
func TestList(t *testing.T) {
	_, cfg, counted := start(t, nil)
	p, fresh := open(t, cfg), open(t, cfg)
	want := make(map[string]string)
	for _, req := range []*providerv1.AllocateRequest{order("shooter", "eu"), order("shooter", "us"), order("racer", "eu"), order("racer", "us"), order("shooter", "eu"), order("shooter", "eu")} {
		if _, err := p.Allocate(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		want[req.GetAttemptId()] = req.GetRegion()
	}
	list(t, p) // the host shows none yet
	if got := list(t, p); len(got) != len(want) {
		t.Errorf("got %v, want %v", got, want)
	} else {
		for attempt, region := range want {
			if got[attempt] != region {
				t.Errorf("%s is in %q, want %q", attempt, got[attempt], region)
			}
		}
	}
	if n := counted.of("ListMultiplayerServers"); n < 2*6 {
		t.Errorf("%d calls for three builds in two regions, twice", n)
	}
	if got := list(t, fresh); len(got) != 0 {
		t.Errorf("a process that heard of none has %v", got)
	}
	for attempt := range want {
		if _, err := fresh.Get(t.Context(), &providerv1.GetRequest{AttemptId: attempt, Deployment: "live"}); err != nil {
			t.Fatal(err)
		}
	}
	if got := list(t, fresh); len(got) != len(want) {
		t.Errorf("a process that heard of all has %v", got)
	}
	for _, token := range []string{"x", shooter + "/Atlantis/", "x/WestEurope/", shooter + "/WestEurope"} {
		if _, err := p.List(t.Context(), &providerv1.ListRequest{PageToken: token, Deployment: "live"}); provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), "page_token") {
			t.Errorf("page %q: %v", token, err)
		}
	}
}

// A list without a server that runs would be wrong; what has ended, and what is not there at all, is not in it.
func TestListOfWhatIsNotThere(t *testing.T) {
	host, cfg, _ := start(t, nil)
	cfg.Builds["gone"], cfg.Builds["no-alias"] = playfab.Build{ID: uuid.NewString()}, playfab.Build{Alias: uuid.NewString()}
	p, req := open(t, cfg), order("shooter", "eu")
	if _, err := p.Allocate(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	list(t, p) // the host shows none yet
	if got := list(t, p); len(got) != 1 {
		t.Errorf("got %v", got)
	}
	cfg.Builds = map[string]playfab.Build{"shooter": {ID: shooter}}
	for name, p := range map[string]*playfab.Provider{"the alias": p, "the sessions": open(t, cfg)} {
		if err := get(t, p); err != nil { // so that there is a token
			t.Fatal(err)
		}
		for _, c := range []answer{refusal(500, "MultiplayerServerInternalServerError", "Oops"), {404, "text/html", html}, {200, "", `{"code": 200}`}} {
			host.Answer(c.ServeHTTP)
			if resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: "live"}); provider.ReasonOf(err) != provider.Unavailable {
				t.Errorf("%s: %s: %v, %v", name, c.body, resp, err)
			}
		}
		_ = host.Heal(t.Context())
	}
	for range 3 {
		if _, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: "live"}); err != nil {
			t.Fatal(err)
		}
	}
	if got := list(t, p); len(got) != 0 {
		t.Errorf("after its end: %v", got)
	}
}

// Of two names for one region of PlayFab's, a server has the one that was asked for: a session does not tell which that was.
func TestTwoNamesOfOneRegion(t *testing.T) {
	_, cfg, _ := start(t, nil)
	cfg.Regions["europe"] = cfg.Regions["eu"]
	p := open(t, cfg)
	for _, region := range []string{"eu", "europe", "us"} {
		req := order("shooter", region)
		made, err := p.Allocate(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if got := made.GetServer().GetRegion(); got != region {
			t.Errorf("Allocate in %s answers %q", region, got)
		}
		seen, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: "live"})
		if err != nil {
			t.Fatal(err)
		}
		if got := seen.GetServer().GetRegion(); got != "" && got != region {
			t.Errorf("Get of one in %s answers %q", region, got)
		}
	}
	list(t, p) // the host shows none yet
	if got := list(t, p); len(got) != 3 {
		t.Errorf("got %v", got)
	}
}

// list returns the regions of the servers by their attempts.
func list(t *testing.T, p *playfab.Provider) map[string]string {
	t.Helper()
	got, token := make(map[string]string), ""
	for {
		resp, err := p.List(t.Context(), &providerv1.ListRequest{PageToken: token, Deployment: "live"})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range resp.GetServers() {
			got[s.GetAttemptId()] = s.GetRegion()
		}
		if token = resp.GetNextPageToken(); token == "" {
			return got
		}
	}
}
