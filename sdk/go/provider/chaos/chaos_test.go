package chaos_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/chaos"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, cfg chaos.Config) *chaos.Provider {
	t.Helper()
	p, err := chaos.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func scripted(t *testing.T, yaml string) *chaos.Provider {
	t.Helper()
	s, err := chaos.Parse([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return open(t, chaos.Config{Script: s})
}

func order(n int) *providerv1.AllocateRequest {
	return &providerv1.AllocateRequest{AttemptId: fmt.Sprintf("a-%d", n), Build: "chaos", Region: "local", Deployment: "d", Bootstrap: []byte("{}")}
}

func reasonOf(t *testing.T, p *chaos.Provider, n int) string {
	t.Helper()
	_, err := p.Allocate(t.Context(), order(n))
	if err == nil {
		return "OK"
	}
	return strings.TrimPrefix(provider.ReasonOf(err).String(), "FAILURE_REASON_")
}

func listed(t *testing.T, p *chaos.Provider) int {
	t.Helper()
	resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: "d"})
	if err != nil {
		t.Fatal(err)
	}
	return len(resp.GetServers())
}

func TestStepsHappenToTheCallsThatTheyName(t *testing.T) {
	p := scripted(t, `
allocate:
  - {at: [2], fail: RATE_LIMITED, retry_after: 3s, message: slow down}
  - {at: [2, 3], fail: QUOTA}
`)
	for n, want := range []string{"OK", "RATE_LIMITED", "QUOTA", "OK"} {
		if got := reasonOf(t, p, n); got != want {
			t.Errorf("call %d: %s, want %s", n+1, got, want)
		}
	}
	if err := p.SetScript(chaos.Script{Allocate: []chaos.Step{{At: []int{1}, Fail: "RATE_LIMITED", RetryAfter: 3 * time.Second, Message: "slow down"}}}); err != nil {
		t.Fatal(err)
	}
	_, err := p.Allocate(t.Context(), order(9)) // counted anew
	if provider.RetryAfterOf(err) != 3*time.Second || !strings.Contains(err.Error(), "slow down") {
		t.Errorf("failure: %v", err)
	}
}

func TestChanceFollowsFromTheSeed(t *testing.T) {
	run := func(seed uint64) (outcome string, failed int) {
		p := scripted(t, fmt.Sprintf("seed: %d\nallocate:\n  - {probability: 0.25, fail: UNAVAILABLE}\n", seed))
		for n := range 1000 {
			r := reasonOf(t, p, n)
			outcome += r + " "
			if r != "OK" {
				failed++
			}
		}
		return outcome, failed
	}
	first, failed := run(1)
	if second, _ := run(1); first != second {
		t.Error("the same seed, and another run")
	}
	if other, _ := run(2); first == other {
		t.Error("another seed, and the same run")
	}
	if failed < 200 || failed > 300 {
		t.Errorf("of 1000 calls with probability 0.25 %d failed", failed)
	}
}

func TestALostReplyLeavesAServer(t *testing.T) {
	p := scripted(t, "allocate:\n  - {at: [1], lose_reply: true}\n")
	if got := reasonOf(t, p, 1); got != "AMBIGUOUS" || listed(t, p) != 1 {
		t.Errorf("%s, %d listed", got, listed(t, p))
	}
	if got := reasonOf(t, p, 1); got != "OK" || p.Started("a-1") != 1 {
		t.Errorf("the repeat: %s, %d started", got, p.Started("a-1"))
	}
}

func TestADuplicateIsCountedAndReleased(t *testing.T) {
	p := scripted(t, "allocate:\n  - {at: [1], duplicate: true}\n")
	reasonOf(t, p, 1)
	reasonOf(t, p, 2)
	if s := p.Stats(); s.Started != 3 || s.Doubled != 1 || s.MostPerAttempt != 2 || s.Alive != 3 || listed(t, p) != 3 {
		t.Errorf("%+v, %d listed", s, listed(t, p))
	}
	if resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: "a-1"}); err != nil || resp.GetState() != providerv1.ServerState_SERVER_STATE_EXITED {
		t.Errorf("release: %v, %v", resp, err)
	}
	if s := p.Stats(); s.Alive != 1 || s.Released != 1 || s.Calls.Release != 1 {
		t.Errorf("after the release: %+v", s)
	}
}

// An order that is turned down is there until it is asked about, and never was a server that ran.
func TestAnOrderIsTurnedDown(t *testing.T) {
	p := scripted(t, "allocate:\n  - {at: [1, 2], refuse: NO_CAPACITY, message: full}\n")
	for n, ask := range []bool{true, false} {
		ordered, err := p.Allocate(t.Context(), order(n))
		if s := ordered.GetServer(); err != nil || s.GetState() != providerv1.ServerState_SERVER_STATE_STARTING || s.GetFailure() != 0 || s.GetMessage() != "" || listed(t, p) != 1 {
			t.Fatalf("%v, %v; %d listed", s, err, listed(t, p))
		}
		if ask {
			got, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: ordered.GetServer().GetAttemptId()})
			if s := got.GetServer(); err != nil || s.GetState() != providerv1.ServerState_SERVER_STATE_EXITED || s.GetFailure() != provider.NoCapacity || s.GetMessage() != "full" {
				t.Errorf("asked about, it is %v, %v", s, err)
			}
		}
		if resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: ordered.GetServer().GetAttemptId()}); err != nil || resp.GetState() != providerv1.ServerState_SERVER_STATE_EXITED {
			t.Errorf("release: %v, %v", resp, err)
		}
		if s := p.Stats(); s.Started != 0 || s.Alive != 0 || listed(t, p) != 0 {
			t.Errorf("in the end: %+v", s)
		}
	}
}

// A late server comes when nobody waits any more; not, if its attempt was released, unless the script wants that.
func TestALateServer(t *testing.T) {
	for script, want := range map[string]int{
		"{late: 50ms, fail: AMBIGUOUS}":                        0,
		"{late: 50ms, fail: AMBIGUOUS, despite_release: true}": 1,
	} {
		p := scripted(t, "allocate:\n  - "+script+"\n")
		if got := reasonOf(t, p, 1); got != "AMBIGUOUS" || p.Started("a-1") != 0 {
			t.Errorf("%s: %s, %d started", script, got, p.Started("a-1"))
		}
		if _, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: "a-1"}); err != nil {
			t.Error(err)
		}
		if got := reasonOf(t, p, 2); got != "AMBIGUOUS" { // comes after the first
			t.Errorf("%s: %s", script, got)
		}
		if _, err := await(t.Context(), func() ([]byte, bool) { return nil, p.Started("a-2") == 1 && p.Started("a-1") >= want }); err != nil {
			t.Error(err)
		}
		if p.Started("a-1") != want {
			t.Errorf("%s: %d servers of a released attempt, want %d", script, p.Started("a-1"), want)
		}
	}
}

// A server is there while its reply is on the way.
func TestAServerComesBeforeItsReply(t *testing.T) {
	started := make(chan struct{})
	p := open(t, chaos.Config{
		Script: chaos.Script{Allocate: []chaos.Step{{ReplyDelay: time.Hour}}},
		Run: func(ctx context.Context, _ *providerv1.AllocateRequest) error {
			close(started)
			<-ctx.Done()
			return nil
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := p.Allocate(ctx, order(1))
		failed <- err
	}()
	<-started
	cancel()
	if err := <-failed; provider.ReasonOf(err) != provider.Ambiguous {
		t.Errorf("allocate: %v", err)
	}
}

func TestCloseEndsCallsThatHang(t *testing.T) {
	p := scripted(t, "get:\n  - {hang: true}\n")
	failed := make(chan error, 1)
	go func() {
		_, err := p.Get(context.Background(), &providerv1.GetRequest{AttemptId: "a-1"})
		failed <- err
	}()
	if _, err := await(t.Context(), func() ([]byte, bool) { return nil, p.Stats().Calls.Get == 1 }); err != nil {
		t.Fatal(err)
	}
	p.Close()
	if err := <-failed; provider.ReasonOf(err) != provider.Ambiguous {
		t.Errorf("get: %v", err)
	}
}

func TestOverHTTP(t *testing.T) {
	p := scripted(t, "")
	srv := httptest.NewServer(p.Handler())
	t.Cleanup(srv.Close)
	put := func(script string) int {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, srv.URL+"/script", strings.NewReader(script))
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if code := put("allocate:\n  - {fail: NONE}\n"); code != http.StatusBadRequest {
		t.Errorf("a script that is none: %d", code)
	}
	if code := put("allocate:\n  - {at: [1], fail: QUOTA}\n"); code != http.StatusNoContent {
		t.Errorf("a script: %d", code)
	}
	if first, second := reasonOf(t, p, 1), reasonOf(t, p, 1); first != "QUOTA" || second != "OK" {
		t.Errorf("%s, %s", first, second)
	}
	resp, err := srv.Client().Get(srv.URL + "/stats")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var s chaos.Stats
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil || s != p.Stats() || s.Calls.Allocate != 2 {
		t.Errorf("stats %+v, %v", s, err)
	}
}

func TestScriptsNameWhatIsWrong(t *testing.T) {
	for script, want := range map[string]string{
		"allocate: [{fail: NONE}]":                    "allocate[0].fail",
		"get: [{}, {probability: 1.5}]":               "get[1].probability",
		"get: [{probability: .nan}]":                  "get[0].probability",
		"get: [{probability: -0.5}]":                  "get[0].probability",
		"get:\n  - {probability: 0, hang: true}":      "line 2: probability: is above 0",
		"get: [{probability: often}]":                 "often",
		"list: [{at: [0]}]":                           "list[0].at",
		"release: [{delay: -1s}]":                     "release[0].delay",
		"get: [{late: 1s}]":                           "get[0].late",
		"allocate: [{late: 1s, fail: QUOTA}]":         "allocate[0].fail",
		"allocate: [{despite_release: true}]":         "allocate[0].despite_release",
		"release: [{refuse: INVALID}]":                "release[0].late, duplicate, refuse",
		"allocate: [{refuse: AMBIGUOUS}]":             "allocate[0].refuse",
		"allocate: [{refuse: QUOTA, fail: QUOTA}]":    "allocate[0].refuse",
		"max_servers: -1":                             "max_servers",
		"command: ['']":                               "command",
		"allocates: []":                               "allocates",
		"allocate: [{at: [1], fail: QUOTA, dely: 1}]": "dely",
	} {
		if _, err := chaos.Parse([]byte(script)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not name %q", script, err, want)
		}
	}
}
