package storm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berth-dev/berth/pkg/ids"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/chaos"
	"github.com/berth-dev/berth/test/stack"
)

// badHost is what a host does to allocations. Half of the servers are up, and link, before the reply that names them.
var badHost = chaos.Script{
	Seed: 6, Builds: []string{"game"},
	Allocate: []chaos.Step{
		{Probability: 0.10, Fail: "NO_CAPACITY"},
		{Probability: 0.10, Fail: "UNAVAILABLE"},
		{Probability: 0.05, Fail: "RATE_LIMITED", RetryAfter: 200 * time.Millisecond},
		{Probability: 0.10, LoseReply: true},
		{Probability: 0.05, Fail: "AMBIGUOUS", Late: time.Second},
		{Probability: 0.03, Garble: true},
		{Probability: 0.05, Refuse: "NO_CAPACITY"},
		{Probability: 0.50, ReplyDelay: 300 * time.Millisecond, Jitter: 200 * time.Millisecond},
		{Delay: 20 * time.Millisecond, Jitter: 50 * time.Millisecond},
	},
	Get:     []chaos.Step{{Probability: 0.05, Fail: "UNAVAILABLE"}, {Probability: 0.05, Garble: true}},
	Release: []chaos.Step{{Probability: 0.10, Fail: "UNAVAILABLE"}, {Probability: 0.10, LoseReply: true}},
}

// host is a bad host with true servers, which play short matches.
type host struct {
	*chaos.Provider
	players
}

// newHost serves the host on a socket, whose address it returns.
func newHost(t *testing.T) (h *host, address string) {
	t.Helper()
	h = &host{players: newPlayers()}
	var err error
	if h.Provider, err = chaos.New(chaos.Config{Script: badHost, Run: func(ctx context.Context, order *providerv1.AllocateRequest) error {
		return h.play(ctx, order.GetBootstrap())
	}}); err != nil {
		t.Fatal(err)
	}
	address = "unix://" + filepath.Join(t.TempDir(), "host.sock")
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	ready := make(chan struct{})
	serving.Go(func() {
		cfg := provider.ServeConfig{Address: address, Log: slog.New(slog.DiscardHandler), Ready: func(net.Addr) { close(ready) }}
		if err := provider.Serve(ctx, cfg, h); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { h.Close(); cancel(); serving.Wait() })
	<-ready
	return h, address
}

// Instances get their servers from a host at which nearly everything goes wrong, while allocation, game-instance and token-issuer are killed at random. Each is
// linked, once, or has failed with a reason; no server is left, and none is taken from a match.
func TestAllocationsWhileServicesDie(t *testing.T) {
	instances, apart := 60, 20*time.Millisecond
	if long() {
		instances = 1000
	}
	h, address := newHost(t)
	s := stack.Start(t, stack.Config{
		Binaries: binaries, Redis: durable(t).Addr,
		File: fmt.Sprintf("providers: [{name: chaos, kind: remote, timeout: 2s, remote: {address: %q}}]\n", address),
		Env:  func(string) []string { return []string{"BERTH_LOG_LEVEL=warn"} },
	})
	api := apiOf(t, s)
	crowd := make(chan *outcome, 1)
	var playing sync.WaitGroup
	playing.Go(func() { crowd <- play(t.Context(), api, "match", instances, apart) })
	t.Cleanup(playing.Wait)
	var out *outcome
	killed := 0
	for out == nil {
		select {
		case out = <-crowd:
		case <-time.After(300*time.Millisecond + rand.N(2*time.Second)):
			killOne(t, s, killed)
			killed++
		}
	}
	for _, err := range out.faults {
		t.Error(err)
	}
	h.settle(t, s, out)
	t.Logf("%d instances, %d services killed: %v; %d servers were not let in; the host: %+v", instances, killed, count(out.how), *h.refused, h.Stats())
	if killed == 0 {
		t.Error("nobody was killed: the test shows nothing")
	}
}

// settle checks the host's books: nothing is left, nothing was doubled, nothing was taken.
func (h *host) settle(t *testing.T, s *stack.Stack, out *outcome) {
	t.Helper()
	stack.Eventually(t, "all servers are given back", func() error {
		if n := h.Stats().Alive; n > 0 {
			return fmt.Errorf("%d are left, among them%s", n, h.left(s))
		}
		return nil
	})
	h.players.settle(t, out)
	for _, id := range out.made {
		for n := 1; n <= ids.MaxAttempts; n++ {
			if started := h.Started(ids.Attempt(id, n)); started > 1 {
				t.Errorf("attempt %d of instance %s got %d servers", n, id, started)
			}
		}
	}
}

// count counts values.
func count(how map[string]string) map[string]int {
	n := map[string]int{}
	for _, h := range how {
		n[h]++
	}
	return n
}

// left says what Berth knows of some of the servers that have not ended.
func (h *host) left(s *stack.Stack) string {
	list, err := h.List(context.Background(), &providerv1.ListRequest{Deployment: "berth"})
	if err != nil {
		return " (" + err.Error() + ")"
	}
	said := ""
	for _, server := range list.GetServers()[:min(3, len(list.GetServers()))] {
		said += "\n" + server.GetAttemptId() + ": " + allocationOf(s, server.GetAttemptId())
	}
	return said
}

// allocationOf is what the API answers about an allocation.
func allocationOf(s *stack.Stack, id string) string {
	req, err := http.NewRequest(http.MethodGet, s.URLs[0]+"/v1/namespaces/default/allocations/"+id, nil)
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Authorization", "Bearer "+stack.APIKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// killOne kills a service, the next one each time, and starts it again.
func killOne(t *testing.T, s *stack.Stack, n int) {
	t.Helper()
	names := []string{stack.Allocation, stack.GameInstance, stack.TokenIssuer}
	p := s.Procs[names[n%len(names)]]
	p.Kill(t)
	wait(t.Context(), nil, rand.N(500*time.Millisecond))
	p.Start(t)
	p.Ready(t)
}

func apiOf(t *testing.T, s *stack.Stack) instancev1.GameInstanceServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(s.API, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(withKey))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return instancev1.NewGameInstanceServiceClient(conn)
}

// outcome is what became of a crowd of instances.
type outcome struct {
	made   []string
	how    map[string]string // how each ended
	faults []error
}

// play makes instances, one after the other, each until Berth has accepted it, and waits until all are over.
func play(ctx context.Context, api instancev1.GameInstanceServiceClient, name string, n int, apart time.Duration) *outcome {
	out := &outcome{how: map[string]string{}}
	for i := range n {
		req := &instancev1.CreateGameInstanceRequest{
			RequestId: fmt.Sprint(name, "-", i), Placement: &instancev1.Placement{Build: "game"}, Players: []*instancev1.Player{{Id: "ann"}},
		}
		err := insist(ctx, func(ctx context.Context) error {
			resp, err := api.CreateGameInstance(ctx, req)
			if err == nil {
				out.made = append(out.made, resp.GetInstance().GetId())
			}
			return err
		})
		if err != nil {
			out.faults = append(out.faults, fmt.Errorf("%s: %w", req.GetRequestId(), err))
		}
		wait(ctx, nil, apart)
	}
	if different := len(slices.Compact(slices.Sorted(slices.Values(out.made)))); different != n {
		out.faults = append(out.faults, fmt.Errorf("%d instances for %d requests", different, n))
	}
	for _, id := range out.made {
		how, err := ended(ctx, api, id)
		if err != nil {
			out.faults = append(out.faults, fmt.Errorf("instance %s: %w", id, err))
			continue
		}
		out.how[id] = how
	}
	return out
}

// ended waits until an instance is over, and returns how it came to that.
func ended(ctx context.Context, api instancev1.GameInstanceServiceClient, id string) (string, error) {
	for deadline := time.Now().Add(3 * time.Minute); ; {
		var inst *instancev1.GameInstance
		err := insist(ctx, func(ctx context.Context) error {
			resp, err := api.GetGameInstance(ctx, &instancev1.GetGameInstanceRequest{InstanceId: id})
			inst = resp.GetInstance()
			return err
		})
		switch {
		case err != nil:
			return "", err
		case inst.GetState() == instancev1.GameInstance_STATE_ENDED:
			return "ended", nil
		case inst.GetState() == instancev1.GameInstance_STATE_TERMINATED && (inst.GetReason() == 0 || inst.GetMessage() == ""):
			return "", errors.New("it has failed without a reason")
		case inst.GetState() == instancev1.GameInstance_STATE_TERMINATED:
			return inst.GetReason().String(), nil
		case time.Now().After(deadline):
			return "", fmt.Errorf("it is still %s; attempts %v", inst.GetState(), inst.GetAttempts())
		}
		wait(ctx, nil, 20*time.Millisecond)
	}
}
