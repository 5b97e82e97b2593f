package main

import (
	"context"
	"log/slog"
)

// reporter tells Berth how the game goes, one call after the other, so that the game itself does not wait while Berth is away.
type reporter struct {
	log   *slog.Logger
	queue chan report   // 64 calls; the match waits when so many are due, since none may be left out
	idle  chan struct{} // closed when all calls are done
}

type report struct {
	what string
	call func(context.Context) error
}

func newReporter(log *slog.Logger) *reporter {
	return &reporter{log: log, queue: make(chan report, 64), idle: make(chan struct{})}
}

// add queues a call.
func (r *reporter) add(what string, call func(context.Context) error) { r.queue <- report{what, call} }

// flush waits until everything is done; nothing can be added then.
func (r *reporter) flush() {
	close(r.queue)
	<-r.idle
}

// run makes the calls until flush or the end of ctx. One that is refused is logged: what it was about, such as a player whom a
// backend has removed, is no more.
func (r *reporter) run(ctx context.Context) {
	defer close(r.idle)
	for {
		select {
		case next, ok := <-r.queue:
			if !ok {
				return
			}
			if err := next.make(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("report failed", "what", next.what, "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (r report) make(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return r.call(ctx)
}
