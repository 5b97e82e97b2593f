package storm

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/test/stack"
)

// watch asks all processes, again and again, whether they live. A process that is away, because the test has stopped it, is not asked.
type watch struct {
	mu     sync.Mutex
	away   map[string]int // how often it was sent away; odd: it is away now
	faults []string
}

// deadAfter is how many answers in a row may be missing, as for Kubernetes by default.
const deadAfter = 3

// newWatch watches until the end of the test, and fails it if a process was dead.
func newWatch(t testing.TB, s *stack.Stack) *watch {
	t.Helper()
	w := &watch{away: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for name, p := range s.Procs {
		all.Go(func() { w.follow(ctx, name, p) })
	}
	t.Cleanup(func() {
		cancel()
		all.Wait()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
	return w
}

// leave says that a process is sent away, back that it is to be asked again.
func (w *watch) leave(name string) { w.flip(name) }
func (w *watch) back(name string)  { w.flip(name) }

func (w *watch) flip(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away[name]++
}

// times returns how often the process was sent away and came back, and whether it is away.
func (w *watch) times(name string) (n int, away bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.away[name], w.away[name]%2 == 1
}

func (w *watch) follow(ctx context.Context, name string, p *stack.Process) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	missing := 0
	for ctx.Err() == nil {
		before, away := w.times(name)
		if !away {
			status, body, err := p.Probe(ctx, "/healthz")
			after, _ := w.times(name)
			switch {
			case after != before || ctx.Err() != nil:
			case err == nil && status == http.StatusOK:
				missing = 0
			default:
				if missing++; missing == deadAfter {
					w.fault("%s is not alive: %d %s %v", name, status, body, err)
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (w *watch) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// metric returns the values of a process's counter or gauge by the value of its label; of one without labels by "".
func metric(t testing.TB, p *stack.Process, name string) map[string]float64 {
	t.Helper()
	status, body, err := p.Probe(context.Background(), "/metrics")
	if err != nil || status != http.StatusOK {
		t.Fatalf("metrics of %s: %d, %v", p.Name, status, err)
	}
	values := map[string]float64{}
	for line := range strings.Lines(body) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		label, value, ok := strings.Cut(rest, "} ")
		if !ok {
			label, value = "", strings.TrimSpace(rest)
		}
		if _, after, quoted := strings.Cut(label, `="`); quoted {
			label = strings.TrimSuffix(after, `"`)
		}
		f, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		values[label] += f
	}
	return values
}
