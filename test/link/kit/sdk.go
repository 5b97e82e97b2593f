package kit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest"
)

// SDK is an SDK to check, by a program that is made with it and does what docs/conformance.md asks of it.
type SDK struct {
	// Command is the program with its arguments. Required.
	Command []string
	// Level is up to which level to check: 1, or 2 for everything; 0 is 2.
	Level int
	// Patience bounds each check; 0: 60 s.
	Patience time.Duration
	// Log takes what programs print that fail a check; nil: nobody.
	Log io.Writer
}

// sdkCheck is a statement about SDKs: a match through which the gateway leads the program.
type sdkCheck struct {
	name  string
	level int
	play  func(*sdkRun)
}

// sdkRun is one check that is being made. It stands in for the test of a gameservertest.Backend.
type sdkRun struct {
	*gameservertest.Backend
	mu     sync.Mutex
	broken []string
	ends   []func()
	exited chan error // what the program ended with

	patience time.Duration
}

// Helper implements gameservertest.TB.
func (*sdkRun) Helper() {}

// Errorf implements gameservertest.TB: the check fails, and goes on.
func (r *sdkRun) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = append(r.broken, fmt.Sprintf(format, args...))
}

// Fatalf implements gameservertest.TB: the check fails, and ends.
func (r *sdkRun) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	fail("%s", strings.Join(r.broken, "; "))
}

// Cleanup implements gameservertest.TB.
func (r *sdkRun) Cleanup(f func()) { r.ends = append(r.ends, f) }

// Setenv implements gameservertest.TB. It is not used.
func (*sdkRun) Setenv(string, string) {}

// Check makes the checks and returns their results, in order.
func (s SDK) Check(ctx context.Context) []Result {
	s.Level, s.Patience = cmp.Or(s.Level, 2), cmp.Or(s.Patience, 60*time.Second)
	var checks []sdkCheck
	for _, c := range matches {
		if c.level <= s.Level {
			checks = append(checks, c)
		}
	}
	return runAll(len(checks), func(i int) Result {
		return run(ctx, checks[i].name, s.Patience, func(ctx context.Context) { s.play(ctx, checks[i]) })
	})
}

// play leads a fresh program through a match, and fails if the program breaks the protocol on the way.
func (s SDK) play(ctx context.Context, c sdkCheck) {
	r := &sdkRun{exited: make(chan error, 1), patience: s.Patience / 2}
	r.Backend = gameservertest.Start(r, gameservertest.Config{Heartbeat: 500 * time.Millisecond, Patience: s.Patience / 2})
	ctx, cancel := context.WithCancel(ctx)
	var printed bytes.Buffer
	cmd := exec.CommandContext(ctx, s.Command[0], s.Command[1:]...)
	cmd.Env = append(os.Environ(), bootstrap.EnvDocument+"="+r.Document())
	cmd.Stdout, cmd.Stderr = &printed, &printed
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		r.end()
		fail("the program does not start: %v", err)
	}
	var waiting sync.WaitGroup
	waiting.Go(func() { r.exited <- cmd.Wait() })
	defer func() {
		cancel()
		waiting.Wait()
		r.end()
		why := recover()
		if why == nil && len(r.broken) > 0 {
			why = failure{errors.New(strings.Join(r.broken, "; "))}
		}
		if why != nil {
			if s.Log != nil {
				_, _ = fmt.Fprintf(s.Log, "%s\n%s\n", c.name, printed.String())
			}
			panic(why)
		}
	}()
	c.play(r)
}

func (r *sdkRun) end() {
	for _, f := range r.ends {
		f()
	}
}
