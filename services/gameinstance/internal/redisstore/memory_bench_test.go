package redisstore_test

import (
	"testing"

	"github.com/berth-dev/berth/pkg/redisx"
)

// BenchmarkMemory measures what instances take in the store's memory, by what the server uses more once there are many of them.
func BenchmarkMemory(b *testing.B) {
	size := 10_000
	if testing.Short() {
		size = 1000
	}
	p := newPlace(b, redisx.Fast)
	used := func() float64 { return info(b, p.meter.servers[0], "memory", "used_memory") }
	grows := func(players, talking int) float64 {
		before := used()
		p.crowd(b, size, players, talking)
		return (used() - before) / float64(size)
	}
	for b.Loop() {
		p.crowd(b, builders, 2, 0) // opens the connections
		few, many, talking := grows(2, 0), grows(22, 0), grows(2, size)
		report(b, few, "B", "idle_instance_of_2_players")
		report(b, (many-few)/20, "B", "player")
		report(b, talking-few, "B", "window_of_128_commands")
	}
}
