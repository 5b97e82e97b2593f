// Package app is the engine that runs services: it builds them, runs what they registered until the first failure or a signal, and stops it all in
// one order. A service's main, the all-in-one and the tests mount the same Module values.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/pkg/tracing"
)

// Module is a service that can be mounted.
type Module struct {
	// Name of the service, for logs.
	Name string
	// Build opens what the service needs and registers on b what must run, be checked and be closed. An error unwinds everything that was
	// registered so far.
	Build func(ctx context.Context, b *Builder) error
}

// Stage is a step of the stop order. Closers of one stage run side by side, stages one after the other, each with its own deadline.
type Stage int

// The stop order. Readiness goes off before the first stage.
const (
	// StageDrain moves peers away: a gateway says goodbye to its sockets.
	StageDrain Stage = iota
	// StageHTTP shuts HTTP servers down.
	StageHTTP
	// StageGRPC shuts gRPC servers down.
	StageGRPC
	// StageWorkers ends what Run registered: their contexts are cancelled and they are waited for.
	StageWorkers
	// StageClients closes connections to other services.
	StageClients
	// StageStore closes connections to the store.
	StageStore
	// StageLast closes what everything else may still use, such as the admin listener.
	StageLast

	stages
)

// flushDeadline bounds what comes after the last stage: a collector of spans that is away holds nobody up.
const flushDeadline = time.Second

// stageDeadline bounds a stage; the sum stays below Kubernetes' default grace period of 30 s.
func stageDeadline(s Stage) time.Duration {
	switch s {
	case StageDrain, StageGRPC:
		return 6 * time.Second
	case StageWorkers:
		return 5 * time.Second
	default:
		return 3 * time.Second
	}
}

// Builder collects what modules register. It is not safe for concurrent use.
type Builder struct {
	log     *slog.Logger
	metrics *prometheus.Registry
	tracer  *tracing.Tracer
	workers []worker
	closers [stages][]closer
	checks  []Check
}

// Check is one condition of readiness.
type Check struct {
	// Name of the condition.
	Name string
	// Probe returns nil when it holds. It is called with a short deadline.
	Probe func(context.Context) error
}

type worker struct {
	name string
	run  func(context.Context) error
}

type closer struct {
	name  string
	close func(context.Context) error
}

// Log returns the logger that the module should use.
func (b *Builder) Log() *slog.Logger { return b.log }

// Metrics returns the registry for the module's metrics. All modules of a program share it.
func (b *Builder) Metrics() *prometheus.Registry { return b.metrics }

// Tracer returns the program's tracer; nil where there is no tracing.
func (b *Builder) Tracer() *tracing.Tracer { return b.tracer }

// Listen opens a TCP listener that is closed when the build fails or the program ends. The last word of its name is that of the setting that has its
// address: "grpc" listens on grpc_addr.
func (b *Builder) Listen(ctx context.Context, name, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		setting := strings.ToLower(name[strings.LastIndex(name, " ")+1:]) + "_addr"
		return nil, fmt.Errorf("%s (BERTH_%s): %w", setting, strings.ToUpper(setting), err)
	}
	b.OnStop(StageLast, name+" listener", func(context.Context) error {
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return ln, nil
}

// Run registers a worker. It must return soon after its context is cancelled; if it returns before that, with or without an error, the program stops.
func (b *Builder) Run(name string, run func(context.Context) error) {
	b.workers = append(b.workers, worker{name, run})
}

// OnStop registers a closer. It must respect its context's deadline.
func (b *Builder) OnStop(s Stage, name string, fn func(context.Context) error) {
	b.closers[s] = append(b.closers[s], closer{name, fn})
}

// ReadyWhen registers a condition of readiness.
func (b *Builder) ReadyWhen(name string, probe func(context.Context) error) {
	b.checks = append(b.checks, Check{name, probe})
}

// App is a set of modules that were built and can run.
type App struct {
	log     *slog.Logger
	builder *Builder

	mu    sync.Mutex
	phase phase
}

// phase is where a program is in its life.
type phase string

const (
	starting phase = "starting" // being built: not all conditions of readiness are known yet
	running  phase = "running"
	stopping phase = "stopping"
)

func (a *App) enter(p phase) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.phase = p
}

// Config configures an App.
type Config struct {
	// Log is the logger; each module's entries carry its name.
	Log *slog.Logger
	// AdminAddr is where health, metrics and pprof are served; empty: nowhere.
	AdminAddr string
	// AdminListener is used instead of AdminAddr where the caller has opened it already.
	AdminListener net.Listener
	// Tracer makes spans of calls; nil: there is no tracing. It is closed at the program's end, after everything else, and where the build fails.
	Tracer *tracing.Tracer
}

// New builds modules in order. When one fails, those before it are unwound and the error is returned.
func New(ctx context.Context, cfg Config, modules ...Module) (*App, error) {
	log := cfg.Log
	a := &App{log: log, phase: starting, builder: &Builder{log: log, metrics: newRegistry(), tracer: cfg.Tracer}}
	modules = append([]Module{a.admin(cfg)}, modules...)
	for _, m := range modules {
		a.builder.log = log.With("service", m.Name)
		if err := m.Build(ctx, a.builder); err != nil {
			return nil, errors.Join(fmt.Errorf("start %s: %w", m.Name, err), a.close(context.WithoutCancel(ctx), func(context.Context) error { return nil }))
		}
	}
	return a, nil
}

// Ready returns nil when the program can serve, and otherwise what is missing. It is safe for concurrent use.
func (a *App) Ready(ctx context.Context) error {
	a.mu.Lock()
	now := a.phase
	a.mu.Unlock()
	if now != running {
		return errors.New(string(now))
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var errList []error
	for _, c := range a.builder.checks {
		if err := c.Probe(ctx); err != nil {
			errList = append(errList, fmt.Errorf("%s: %w", c.Name, err))
		}
	}
	return errors.Join(errList...)
}

// Run runs the workers until ctx is cancelled or one of them returns, then stops everything in order and returns the failure that ended it, if
// any, joined with all errors of closing.
func (a *App) Run(ctx context.Context) error {
	workCtx, cancelWork := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelWork()

	a.enter(running)
	type exit struct {
		name string
		err  error
	}
	exits := make(chan exit, len(a.builder.workers))
	working := newRoll()
	for _, w := range a.builder.workers {
		leave := working.enter(w.name)
		go func() { defer leave(); exits <- exit{w.name, w.run(workCtx)} }()
	}

	var failure error
	select {
	case <-ctx.Done():
	case e := <-exits:
		failure = fmt.Errorf("%s stopped by itself: %w", e.name, orUnexpected(e.err))
		a.log.Error("a part of the program failed; stopping", "part", e.name, "error", e.err)
	}

	a.enter(stopping)
	closeErr := a.close(context.WithoutCancel(ctx), func(ctx context.Context) error {
		cancelWork()
		return working.wait(ctx)
	})
	for { // A worker that outlived its stage's deadline is not waited for again.
		select {
		case e := <-exits:
			if e.err != nil && !errors.Is(e.err, context.Canceled) {
				closeErr = errors.Join(closeErr, fmt.Errorf("%s: %w", e.name, e.err))
			}
		default:
			return errors.Join(failure, closeErr)
		}
	}
}

func orUnexpected(err error) error {
	if err == nil {
		return errors.New("it returned without an error")
	}
	return err
}

// close runs the stop order; stopWorkers ends the workers and waits for them.
func (a *App) close(ctx context.Context, stopWorkers func(context.Context) error) error {
	var errList []error
	for s := range stages {
		closers := slices.Clone(a.builder.closers[s])
		if s == StageWorkers {
			closers = append(closers, closer{"workers", stopWorkers})
		}
		errList = append(errList, closeStage(ctx, s, closers))
	}
	return errors.Join(append(errList, a.flush(ctx))...)
}

// flush sends the last spans.
func (a *App) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushDeadline)
	defer cancel()
	return a.builder.tracer.Close(ctx)
}

// lateness is how long a closer has to return after its deadline, with what it has to say.
const lateness = 200 * time.Millisecond

func closeStage(ctx context.Context, s Stage, closers []closer) error {
	late, cancelLate := context.WithTimeout(ctx, stageDeadline(s)+lateness)
	defer cancelLate()
	ctx, cancel := context.WithTimeout(ctx, stageDeadline(s))
	defer cancel()
	results := make(chan error, len(closers))
	closing := newRoll()
	for _, c := range closers {
		leave := closing.enter(c.name)
		go func() {
			defer leave()
			if err := c.close(ctx); err != nil {
				results <- fmt.Errorf("close %s: %w", c.name, err)
			}
		}()
	}
	err := closing.wait(late)
	if err != nil {
		err = fmt.Errorf("stop stage %d: %w", s, err)
	}
	for {
		select {
		case failed := <-results:
			err = errors.Join(err, failed)
		default:
			return err
		}
	}
}

// roll knows who is still at it.
type roll struct {
	mu    sync.Mutex
	names map[int]string
	next  int
	empty chan struct{} // closed when the last one has left, and wait was called
	asked bool
}

func newRoll() *roll { return &roll{names: map[int]string{}, empty: make(chan struct{})} }

func (r *roll) enter(name string) (leave func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.next
	r.next++
	r.names[n] = name
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.names, n)
		if r.asked && len(r.names) == 0 {
			close(r.empty)
		}
	}
}

// wait waits until all have left. When ctx ends before, its error names who has not.
func (r *roll) wait(ctx context.Context) error {
	r.mu.Lock()
	r.asked = true
	if len(r.names) == 0 {
		r.mu.Unlock()
		return nil
	}
	r.mu.Unlock()
	select {
	case <-r.empty:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Errorf("%w; still at it: %s", ctx.Err(), strings.Join(slices.Sorted(maps.Values(r.names)), ", "))
}
