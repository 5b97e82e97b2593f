// Package memory knows whether the process is short of memory.
package memory

import (
	"context"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// interval is how often the memory is measured.
const interval = time.Second

// Config configures a Watch.
type Config struct {
	// Limit is the number of bytes in use above which memory is short; 0: Default, if there is one, and else it never is.
	Limit int64
	// InUse returns how many bytes are in use. Default InUse.
	InUse func() int64
	// Log is told when memory gets short, and when that is over.
	Log *slog.Logger
	// Short is 1 while memory is short.
	Short prometheus.Gauge
}

// Watch measures the memory. It is safe for concurrent use. Run must run.
type Watch struct {
	cfg   Config
	short atomic.Bool
}

// New returns a Watch, which has measured once.
func New(cfg Config) *Watch {
	if cfg.Limit == 0 {
		cfg.Limit = Default()
	}
	if cfg.InUse == nil {
		cfg.InUse = InUse
	}
	w := &Watch{cfg: cfg}
	w.measure()
	return w
}

// Short reports whether memory was short when it was last measured.
func (w *Watch) Short() bool { return w.short.Load() }

// Run measures every second until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.measure()
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *Watch) measure() {
	if w.cfg.Limit == 0 {
		return
	}
	inUse := w.cfg.InUse()
	short := inUse > w.cfg.Limit
	if w.short.Swap(short) == short {
		return
	}
	if short {
		w.cfg.Short.Set(1)
		w.cfg.Log.Warn("memory is short: connections are refused", "in_use", inUse, "limit", w.cfg.Limit)
		return
	}
	w.cfg.Short.Set(0)
	w.cfg.Log.Info("memory is not short any more: connections are taken again", "in_use", inUse, "limit", w.cfg.Limit)
}

// InUse returns how many bytes the process has from the system and has not given back: what GOMEMLIMIT is about. It costs a microsecond or so.
func InUse() int64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() - samples[1].Value.Uint64()) //nolint:gosec // bytes of memory
}

// Default returns nine tenths of GOMEMLIMIT, or where that is not set of the control group's limit; 0: there is none. In the last tenth the garbage collector
// would take the time of those who are connected.
func Default() int64 {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		limit = ofGroup("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
	}
	return limit / 10 * 9
}

// ofGroup returns the limit that the first of some files says; 0: none does. Version 1 of control groups writes a huge number where there is no limit.
func ofGroup(files ...string) int64 {
	for _, name := range files {
		raw, err := os.ReadFile(name) //nolint:gosec // the names are constants
		if err != nil {
			continue
		}
		if limit, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64); err == nil && limit < 1<<60 {
			return limit
		}
	}
	return 0
}
