package allocation_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
)

// hostTime is what the host of the benchmark takes for an answer.
const hostTime = 50 * time.Millisecond

// slowFarm is a host that answers after hostTime, and keeps nothing.
type slowFarm struct{ *farm }

func (slowFarm) Describe(context.Context, *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return &providerv1.DescribeResponse{Kind: "slow", Regions: []string{"eu"}, Builds: []string{"demo"}, PollInterval: durationpb.New(time.Hour)}, nil
}

func (slowFarm) Allocate(_ context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	time.Sleep(hostTime)
	return &providerv1.AllocateResponse{Server: &providerv1.Server{
		AttemptId: req.GetAttemptId(), ExternalId: req.GetAttemptId(), State: providerv1.ServerState_SERVER_STATE_RUNNING, Region: req.GetRegion(),
		Endpoints: []*typev1.Endpoint{{Name: "game", Host: "play.example.com", Port: 7777, Protocol: typev1.Protocol_PROTOCOL_UDP}},
	}}, nil
}

// BenchmarkAllocations measures from create until the instance knows its server, with a host that takes 50 ms, on a real Redis: with so many under way at a
// time, where each one waits in the burst of the others, and with so many a second that come evenly, whether or not those before are done. The stand-ins for
// token-issuer and game-instance are called over real connections, and their CPU time is in the figure; Redis's is not.
func BenchmarkAllocations(b *testing.B) {
	for _, queued := range []int{1, 100, 2_000, 10_000} {
		b.Run(fmt.Sprintf("queued=%d", queued), func(b *testing.B) { benchmarkAllocations(b, atATime(queued)) })
	}
	for _, rate := range []int{100, 500, 1_000} {
		b.Run(fmt.Sprintf("rate=%d", rate), func(b *testing.B) { benchmarkAllocations(b, aSecond(rate)) })
	}
}

// arrivals wait until the n-th allocation is to be made, and return when that was due and what to call when it is done.
type arrivals func(n int) (due time.Time, done func())

func atATime(most int) arrivals {
	places := make(chan struct{}, most) // full: the next one waits until one is done
	return func(int) (time.Time, func()) {
		places <- struct{}{}
		return time.Now(), func() { <-places }
	}
}

// aSecond counts from when one should have come: that it came late because there was too much to do is no excuse.
func aSecond(rate int) arrivals {
	var first time.Time
	return func(n int) (time.Time, func()) {
		if n == 0 {
			first = time.Now()
		}
		due := first.Add(time.Duration(n) * time.Second / time.Duration(rate))
		time.Sleep(time.Until(due))
		return due, func() {}
	}
}

func benchmarkAllocations(b *testing.B, arrive arrivals) {
	s, err := redisx.Open(b.Context(), redisx.Config{Addrs: []string{redistest.Server(b)}, Partitions: 256})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	r := newRig(b, s)
	r.host = slowFarm{r.farm}
	t := &told{at: make(map[string]chan time.Time)}
	r.peer.onReport = t.report
	rep := r.start(func(c *allocator.WorkerConfig) {
		c.Lease, c.Sweep, c.Providers[0].Info.MaxCalls = 3*time.Second, 500*time.Millisecond, 512
	})
	took := make([]time.Duration, b.N)
	var all sync.WaitGroup
	cpu, before := cpuTime(b), commands(b, s)
	b.ResetTimer()
	for n := range b.N {
		due, done := arrive(n)
		all.Go(func() {
			took[n] = t.allocate(b, rep, uuid.NewString()).Sub(due) - hostTime
			done()
		})
	}
	all.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "allocations/s")
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(commands(b, s)-before)/float64(b.N), "redis-calls/op")
	b.ReportMetric(float64(took[b.N/2].Microseconds())/1000, "own-p50-ms")
	b.ReportMetric(float64(took[b.N*99/100].Microseconds())/1000, "own-p99-ms")
}

// told knows when instances were told of their servers.
type told struct {
	mu sync.Mutex
	at map[string]chan time.Time
}

func (t *told) report(req *attemptv1.ReportAttemptRequest) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.at[req.GetAttemptId()]; c != nil {
		delete(t.at, req.GetAttemptId())
		c <- time.Now()
	}
	return nil
}

// allocate creates an allocation, and returns when its instance was told of the server.
func (t *told) allocate(b *testing.B, rep *replica, id string) time.Time {
	w := wish(1)
	w.InstanceID, w.ID = id, ids.Attempt(id, 1)
	c := make(chan time.Time, 1) // there is one message
	t.mu.Lock()
	t.at[w.ID] = c
	t.mu.Unlock()
	if _, err := rep.Create(b.Context(), w); err != nil {
		b.Error(err)
		return time.Time{}
	}
	return <-c
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var callsOf = regexp.MustCompile(`cmdstat_(evalsha|eval|zcard|zcount):calls=(\d+)`)

// commands is how many calls Redis has served that an allocation makes.
func commands(b *testing.B, s *redisx.Store) (n int) {
	info, err := s.Info(b.Context(), "commandstats").Result()
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range callsOf.FindAllStringSubmatch(info, -1) {
		calls, _ := strconv.Atoi(m[2]) // digits by the expression
		n += calls
	}
	return n
}
