package redisstore_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// meter reads CPU time: of this process, which is the service, and of the store's servers. Wall time says little on a machine that has other things to do.
type meter struct{ servers []*redis.Client }

// spent is what something has cost.
type spent struct{ service, redis, wall time.Duration }

func (s spent) cpu() time.Duration { return s.service + s.redis }

// of measures n times something, and returns the cost of one.
func (m meter) of(b *testing.B, n int, do func()) spent {
	b.Helper()
	redis, service, begin := m.redis(b), process(b), time.Now()
	do()
	wall := time.Since(begin)
	service = process(b) - service
	redis = m.redis(b) - redis
	each := time.Duration(n)
	return spent{service: service / each, redis: redis / each, wall: wall / each}
}

// process returns what this process has used.
func process(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// redis returns what the servers have used, all their threads together.
func (m meter) redis(b *testing.B) time.Duration {
	b.Helper()
	sum := 0.0
	for _, s := range m.servers {
		sum += info(b, s, "cpu", "used_cpu_user") + info(b, s, "cpu", "used_cpu_sys")
	}
	return time.Duration(sum * float64(time.Second))
}

// info reads one number of INFO.
func info(b *testing.B, server *redis.Client, section, field string) float64 {
	b.Helper()
	text, err := server.Info(context.Background(), section).Result()
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(text, "\n"+field+":")
	value, _, _ := strings.Cut(rest, "\r\n")
	v, err := strconv.ParseFloat(value, 64)
	if err != nil {
		b.Fatalf("INFO %s has no %s: %v", section, field, err)
	}
	return v
}

// rounds are the costs of one form of work, a value a round. Forms that are compared take turns, so that a round's values are of the same minute.
type rounds []spent

// median returns the middle of what value makes of each round.
func (r rounds) median(value func(spent) time.Duration) float64 {
	all := make([]float64, len(r))
	for n, s := range r {
		all[n] = float64(value(s).Nanoseconds()) / 1000
	}
	return middle(all)
}

// to returns how many times the CPU time of the other form this one takes: the middle of the rounds' ratios.
func (r rounds) to(other rounds) float64 {
	all := make([]float64, len(r))
	for n := range r {
		all[n] = float64(r[n].cpu()) / float64(other[n].cpu())
	}
	return middle(all)
}

func middle(all []float64) float64 {
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

// report names a figure. `make bench` prints it behind the benchmark's name: a colon parts its name and its unit.
func report(b *testing.B, value float64, unit, format string, args ...any) {
	b.ReportMetric(0, "ns/op") // of no use for what measures itself
	b.ReportMetric(value, fmt.Sprintf(format, args...)+":"+unit)
}
