package memory

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestMemoryIsShortAboveTheLimitAndNotAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var inUse atomic.Int64
		inUse.Store(100)
		gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "short"})
		w := New(Config{Limit: 100, InUse: inUse.Load, Log: slog.New(slog.NewTextHandler(&log, nil)), Short: gauge})
		go func() { _ = w.Run(t.Context()) }()
		for _, step := range []struct {
			inUse int64
			short bool
			lines int
		}{{100, false, 0}, {101, true, 1}, {200, true, 1}, {100, false, 2}} {
			synctest.Wait()
			inUse.Store(step.inUse)
			time.Sleep(interval) // of the bubble's clock
			synctest.Wait()
			if w.Short() != step.short || (testutil.ToFloat64(gauge) == 1) != step.short || strings.Count(log.String(), "\n") != step.lines {
				t.Errorf("with %d in use: short %v, log %q", step.inUse, w.Short(), log.String())
			}
		}
	})
}

func TestTheLimitOfAGroupIsRead(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	none, some, huge := file("none", "max\n"), file("some", "1000\n"), file("huge", "9223372036854771712\n")
	for _, c := range []struct {
		files []string
		want  int64
	}{{[]string{some}, 1000}, {[]string{none}, 0}, {[]string{huge}, 0}, {[]string{filepath.Join(dir, "missing"), some}, 1000}, {nil, 0}} {
		if got := ofGroup(c.files...); got != c.want {
			t.Errorf("%v: %d", c.files, got)
		}
	}
}

func TestWithoutALimitMemoryIsNeverShort(t *testing.T) {
	if (&Watch{cfg: Config{InUse: func() int64 { return 1 << 62 }}}).Short() {
		t.Error("it is short")
	}
	if n := InUse(); n < 1<<20 || n > 1<<40 {
		t.Errorf("%d bytes are in use", n)
	}
}
