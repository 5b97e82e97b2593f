package multiplay

import (
	"context"
	"sync"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

const (
	// lookupTimeout is how long the host may take for the answer to what several have asked.
	lookupTimeout = 10 * time.Second
	// lookupsAtOnce is how many such calls there are for a fleet.
	lookupsAtOnce = 4
	// maxWaiting is how many may wait for one.
	maxWaiting = 10_000
)

// lookups makes few calls of what many ask at the same time: while some are under way, the next questions gather for a call of the list. It is safe for
// concurrent use. Close it when nobody asks any more.
type lookups struct {
	client *client
	ctx    context.Context // of the calls
	end    context.CancelFunc
	all    sync.WaitGroup

	mu    sync.Mutex
	calls map[string]int // by fleet
	// waiting are the questions by fleet, the oldest first. Overflow: whoever comes then asks alone.
	waiting map[string][]question
}

type question struct {
	id     string
	answer chan<- reply // has a place for the one that there will be
}

type reply struct {
	allocation
	alone bool // the list does not say: ask for it alone
	err   error
}

func newLookups(c *client) *lookups {
	ctx, end := context.WithCancel(context.Background())
	return &lookups{client: c, ctx: ctx, end: end, calls: make(map[string]int), waiting: make(map[string][]question)}
}

func (l *lookups) close() {
	l.end()
	l.all.Wait()
}

// look returns an allocation, or fails with NOT_FOUND.
func (l *lookups) look(ctx context.Context, fleet, id string) (allocation, error) {
	answer := make(chan reply, 1)                // there is one
	if !l.enqueue(fleet, question{id, answer}) { //nolint:contextcheck // a call is for all who ask
		return l.one(ctx, fleet, id)
	}
	select {
	case r := <-answer:
		if r.alone {
			return l.one(ctx, fleet, id)
		}
		return r.allocation, r.err
	case <-ctx.Done():
		return allocation{}, provider.Failure(provider.Unavailable, "Multiplay: %s: no answer in time", l.client.look.Name)
	}
}

func (l *lookups) enqueue(fleet string, q question) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting[fleet]) >= maxWaiting {
		return false
	}
	l.waiting[fleet] = append(l.waiting[fleet], q)
	if l.calls[fleet] < lookupsAtOnce {
		l.calls[fleet]++
		l.all.Go(func() { l.serve(fleet) })
	}
	return true
}

// serve answers until nobody waits.
func (l *lookups) serve(fleet string) {
	for {
		batch := l.take(fleet)
		if len(batch) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(l.ctx, lookupTimeout)
		if len(batch) == 1 {
			a, err := l.one(ctx, fleet, batch[0].id)
			batch[0].answer <- reply{allocation: a, err: err}
		} else {
			l.several(ctx, fleet, batch)
		}
		cancel()
	}
}

// take returns the next questions, or ends the call that would have asked them.
func (l *lookups) take(fleet string) []question {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.waiting[fleet]), maxList)
	if n == 0 {
		l.calls[fleet]--
		delete(l.waiting, fleet)
		return nil
	}
	batch := l.waiting[fleet][:n:n]
	l.waiting[fleet] = l.waiting[fleet][n:]
	return batch
}

// one looks up an allocation. An answer about another one is none.
func (l *lookups) one(ctx context.Context, fleet, id string) (allocation, error) {
	a, err := l.client.allocation(ctx, fleet, id)
	if err == nil && a.AllocationID != id {
		err = hostapi.Senseless("Multiplay", l.client.look, "it is about another allocation, or none")
	}
	return a, err
}

// several asks the list. What that lacks may be too new for it, and a list that is refused may be none: then each is to ask alone.
func (l *lookups) several(ctx context.Context, fleet string, batch []question) {
	ids := make([]string, len(batch))
	for n, q := range batch {
		ids[n] = q.id
	}
	found, err := l.client.allocations(ctx, fleet, ids)
	if reason := provider.ReasonOf(err); reason == provider.Invalid || reason == provider.NotFound {
		err = nil
	}
	byID := make(map[string]allocation, len(found))
	for _, a := range found {
		byID[a.AllocationID] = a
	}
	for _, q := range batch {
		a, ok := byID[q.id]
		q.answer <- reply{allocation: a, alone: !ok && err == nil, err: err}
	}
}
