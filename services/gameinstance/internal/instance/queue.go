package instance

import (
	"context"
	"sync"
)

// queues lets the commands for one instance pass one after the other within a replica: side by side they would only conflict at the store and be decided
// again. Other replicas are not held back by it; for them there is the revision.
type queues struct {
	mu     sync.Mutex
	queues map[string]*queue
}

type queue struct {
	turn    chan struct{} // holds a value while it is somebody's turn
	waiting int           // how many hold or wait for the turn; the last one removes the queue
}

// enter waits for the turn. leave must be called after it.
func (q *queues) enter(ctx context.Context, id string) (leave func(), err error) {
	q.mu.Lock()
	if q.queues == nil {
		q.queues = map[string]*queue{}
	}
	own := q.queues[id]
	if own == nil {
		own = &queue{turn: make(chan struct{}, 1)}
		q.queues[id] = own
	}
	own.waiting++
	q.mu.Unlock()

	out := func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if own.waiting--; own.waiting == 0 {
			delete(q.queues, id)
		}
	}
	select {
	case own.turn <- struct{}{}:
		return func() { <-own.turn; out() }, nil
	case <-ctx.Done():
		out()
		return nil, ctx.Err()
	}
}
