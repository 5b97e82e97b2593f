package storm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berth-dev/berth/pkg/freeport"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/sdk/go/bootstrap"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	"github.com/berth-dev/berth/test/stack"
)

// Half of 10,000 links lose their gateway at once, and all are back through the other. What that costs the store and token-issuer is reported; the figures are
// in docs/benchmarks.md. The links make no balancer necessary: each tries the gateways in turn.
func TestTenThousandLinksComeBack(t *testing.T) {
	links := 10_000
	if !long() {
		links = 200
	}
	redis := redistest.Start(t, t.TempDir(), freeport.Addr(t)) // written to disk every second, as usual
	s := stack.Start(t, stack.Config{Binaries: binaries, Redis: redis.Addr, File: handProvider, Env: func(string) []string { return []string{"BERTH_LOG_LEVEL=warn"} }})
	watched := newWatch(t, s)
	store := redistest.Node(t, redis.Addr)

	var linked, returned, onward, tries atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	var living sync.WaitGroup
	t.Cleanup(func() { cancel(); living.Wait() })
	// From the first moment on they read, and so answer pings.
	linkRaw(t, s, links, func(l *rawLink) {
		linked.Add(1)
		living.Go(func() {
			l.live(ctx, func() { linked.Add(-1) }, func(goesOn bool, n int) {
				tries.Add(int64(n))
				if goesOn {
					onward.Add(1)
				}
				returned.Add(1)
				linked.Add(1)
			})
		})
	})
	if n := returned.Load(); n > 0 {
		t.Errorf("%d links were lost before anything happened", n)
	}
	lost := int64(links / 2)
	before, calls := readLoad(t, store), issuerCalls(t, s)
	gauge := newGauge(t, redis.Addr)
	began := time.Now()
	watched.leave(stack.GatewayA)
	s.Procs[stack.GatewayA].Kill(t)
	stack.EventuallyIn(t, 5*time.Minute, "all links are back", func() error {
		if n, again := linked.Load(), returned.Load(); n < int64(links) || again < lost {
			return fmt.Errorf("%d of %d are linked; %d came back", n, links, again)
		}
		return nil
	})
	took := time.Since(began)
	after, peak := readLoad(t, store), gauge.stop()
	t.Logf("sockets that the other gateway closed meanwhile: %v", metric(t, s.Procs[stack.GatewayB], "berth_gateway_sockets_closed_total"))
	if n := returned.Load(); n != lost || onward.Load() != n {
		t.Errorf("links came back %d times, and %d times the instance was linked still; want %d", n, onward.Load(), lost)
	}
	if open := metric(t, s.Procs[stack.GatewayB], "berth_gateway_sockets")[""]; open != float64(links) {
		t.Errorf("the gateway that is left has %v sockets", open)
	}
	s.Procs[stack.GatewayA].Start(t)
	s.Procs[stack.GatewayA].Ready(t)
	watched.back(stack.GatewayA)
	cpu := after.cpu - before.cpu
	t.Logf("%d links, of which %d lost their gateway: all back after %v, %.2f tries each", links, lost, took.Round(10*time.Millisecond), float64(tries.Load())/float64(lost))
	t.Logf("Redis: %d commands meanwhile, %.1f a link; peak %d a second; %.2f s of CPU, %.0f %% of a core", after.commands-before.commands, float64(after.commands-before.commands)/float64(lost),
		peak, cpu, 100*cpu/took.Seconds())
	t.Logf("Redis, by command: %s", after.since(before))
	t.Logf("calls to token-issuer: %v", subtract(issuerCalls(t, s), calls))
}

// linkRaw registers and links servers, one half through each gateway, and hands each over once it is linked.
func linkRaw(t *testing.T, s *stack.Stack, n int, hold func(*rawLink)) {
	t.Helper()
	conn, err := grpc.NewClient(s.API, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(withKey))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	registry := gameserverv1.NewGameServerRegistryServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	next := make(chan int)
	failed := make(chan error, n)
	var workers sync.WaitGroup
	for range 32 {
		workers.Go(func() {
			for i := range next {
				l := &rawLink{gateways: s.Edges, at: i % len(s.Edges), nonce: fmt.Sprintf("nonce-of-server-%06d", i)}
				err := l.begin(ctx, registry)
				if err == nil {
					hold(l)
				}
				failed <- err
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	workers.Wait()
	close(failed)
	var errs []error
	for err := range failed {
		if err != nil && len(errs) < 5 {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// begin registers the server and links an instance of its own.
func (l *rawLink) begin(ctx context.Context, registry gameserverv1.GameServerRegistryServiceClient) error {
	out, err := registry.RegisterGameServer(ctx, &gameserverv1.RegisterGameServerRequest{Capacity: 1})
	if err != nil {
		return err
	}
	l.doc = &bootstrap.Document{Game: bootstrap.Secret(out.GetGameToken()), Social: bootstrap.Secret(out.GetSocialToken())}
	_, err = l.connect(ctx)
	return err
}

// load is what Redis has done since its start.
type load struct {
	commands int64
	cpu      float64
	by       map[string]int64
}

func readLoad(t testing.TB, c *redis.Client) load {
	t.Helper()
	text, err := c.Info(context.Background(), "cpu", "stats", "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	l := load{by: map[string]int64{}}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case key == "total_commands_processed":
			l.commands, _ = strconv.ParseInt(value, 10, 64)
		case key == "used_cpu_sys" || key == "used_cpu_user":
			seconds, _ := strconv.ParseFloat(value, 64)
			l.cpu += seconds
		case strings.HasPrefix(key, "cmdstat_"):
			calls, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
			l.by[strings.TrimPrefix(key, "cmdstat_")], _ = strconv.ParseInt(calls, 10, 64)
		}
	}
	return l
}

// since lists the commands that there were more of, the most frequent first.
func (l load) since(before load) string {
	more := map[string]int64{}
	for name, n := range l.by {
		if n > before.by[name] {
			more[name] = n - before.by[name]
		}
	}
	names := slices.SortedFunc(maps.Keys(more), func(a, b string) int { return int(more[b] - more[a]) })
	var b strings.Builder
	for _, name := range names[:min(len(names), 12)] {
		fmt.Fprintf(&b, "%s %d, ", name, more[name])
	}
	return strings.TrimSuffix(b.String(), ", ")
}

// gauge finds the second in which Redis had most to do.
type gauge struct {
	done chan struct{}
	all  sync.WaitGroup
	peak int64
}

func newGauge(t testing.TB, addr string) *gauge {
	t.Helper()
	g := &gauge{done: make(chan struct{})}
	c := redistest.Node(t, addr)
	last := readLoad(t, c).commands
	at := time.Now()
	g.all.Go(func() {
		for wait(context.Background(), g.done, time.Second) {
			text, err := c.Info(context.Background(), "stats").Result()
			if err != nil {
				continue
			}
			_, rest, _ := strings.Cut(text, "total_commands_processed:")
			digits, _, _ := strings.Cut(rest, "\r\n")
			now, err := strconv.ParseInt(digits, 10, 64)
			if err != nil {
				continue
			}
			g.peak = max(g.peak, int64(float64(now-last)/time.Since(at).Seconds()))
			last, at = now, time.Now()
		}
	})
	return g
}

// stop returns the peak.
func (g *gauge) stop() int64 {
	close(g.done)
	g.all.Wait()
	return g.peak
}

// issuerCalls returns how many calls token-issuer has answered, by method and outcome.
func issuerCalls(t testing.TB, s *stack.Stack) map[string]float64 {
	t.Helper()
	calls := map[string]float64{}
	for labels, n := range metric(t, s.Procs[stack.TokenIssuer], "berth_rpc_handled_total") {
		code, method, _ := strings.Cut(labels, `",method="`)
		calls[method[strings.LastIndex(method, "/")+1:]+" "+code] += n
	}
	return calls
}

func subtract(after, before map[string]float64) map[string]float64 {
	more := map[string]float64{}
	for name, n := range after {
		if n > before[name] {
			more[name] = n - before[name]
		}
	}
	return more
}
