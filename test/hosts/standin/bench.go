package standin

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
)

// Bench measures how long a provider takes for a server, one after the other, and what of it is the provider's and the way's, without what the host takes for
// its answers. The host's CPU time is in the figure, since it runs in the same process.
func Bench(b *testing.B, p provider.Provider, h *Host, build, region string) {
	b.Helper()
	added := make([]time.Duration, b.N)
	cpu := cpuTime(b)
	b.ResetTimer()
	for n := range b.N {
		instance := uuid.NewString()
		attempt := instance + "-1"
		start, busy := time.Now(), h.busy.Load()
		_, err := p.Allocate(b.Context(), &providerv1.AllocateRequest{
			AttemptId: attempt, Namespace: "default", InstanceId: instance, Build: build, Region: region, Deployment: "bench", Bootstrap: providertest.Bootstrap(attempt, instance),
		})
		added[n] = time.Since(start) - time.Duration(h.busy.Load()-busy)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if _, err := p.Release(b.Context(), &providerv1.ReleaseRequest{AttemptId: attempt, Deployment: "bench"}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.StopTimer()
	slices.Sort(added)
	b.ReportMetric(float64(added[b.N/2].Microseconds())/1000, "added-p50-ms")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "allocations/s")
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-with-release-µs/op")
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
