package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// timeline collects what happened when. It is safe for concurrent use.
type timeline struct {
	begin time.Time

	mu    sync.Mutex
	steps []step
}

type step struct {
	at   time.Time
	who  string
	what string
}

func newTimeline() *timeline { return &timeline{begin: time.Now()} }

// note adds what has just happened.
func (t *timeline) note(who, format string, args ...any) {
	t.add(time.Now(), who, fmt.Sprintf(format, args...))
}

// add adds what happened at some time.
func (t *timeline) add(at time.Time, who, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, step{at, who, what})
}

// print writes the steps in order, in milliseconds since the beginning. Berth's steps have the time of Berth's clock.
func (t *timeline) print(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.SortStableFunc(t.steps, func(a, b step) int { return cmp.Compare(a.at.UnixMicro(), b.at.UnixMicro()) })
	for _, s := range t.steps {
		fmt.Fprintf(w, "%7d ms  %-12s %s\n", s.at.Sub(t.begin).Milliseconds(), s.who, s.what)
	}
}
