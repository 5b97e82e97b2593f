package instance

import "sync"

// maxBatch bounds how many commands are committed together.
const maxBatch = 64

// queues folds the commands that wait for one instance into batches. Other replicas are not held back by it; for them there is the revision.
//
// There is no goroutine behind it: whoever comes first serves the batch, and then hands the queue to one of those who came meanwhile.
type queues struct {
	mu     sync.Mutex
	queues map[string]*queue
}

type queue struct {
	waiting []*waiter // in the order in which they came; unbounded here: callers are bounded by their server
}

type waiter struct {
	r    *request
	lead chan struct{} // gets a value when it is this one's turn to serve
}

// pass puts a request into the instance's queue and returns its outcome. serve is called with batches, one at a time for each instance, and answers each
// request of them.
func (q *queues) pass(id string, r *request, serve func(batch []*request)) outcome {
	own := &waiter{r: r, lead: make(chan struct{}, 1)}
	q.enter(id, own)
	if r.env.Queued != nil {
		r.env.Queued()
	}
	select {
	case out := <-r.answer:
		return out
	case <-own.lead:
		batch := q.batch(id)
		serve(batch)
		q.next(id)
		return <-r.answer
	case <-r.ctx.Done():
		q.leave(id, own)
		return outcome{err: r.ctx.Err()}
	}
}

func (q *queues) enter(id string, w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queues == nil {
		q.queues = map[string]*queue{}
	}
	own := q.queues[id]
	if own == nil {
		own = &queue{}
		q.queues[id] = own
		w.lead <- struct{}{}
	}
	own.waiting = append(own.waiting, w)
}

// batch takes the next requests out of the queue; the one that leads is the first.
func (q *queues) batch(id string) []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	own := q.queues[id]
	n := min(len(own.waiting), maxBatch)
	batch := make([]*request, n)
	for i, w := range own.waiting[:n] {
		batch[i] = w.r
	}
	own.waiting = own.waiting[n:]
	return batch
}

// next hands the queue to the one that has waited longest, or removes it.
func (q *queues) next(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	own := q.queues[id]
	if len(own.waiting) == 0 {
		delete(q.queues, id)
		return
	}
	own.waiting[0].lead <- struct{}{}
}

// leave takes a waiter out whose caller has gone. If it was its turn to serve, the next one's turn it is.
func (q *queues) leave(id string, w *waiter) {
	q.mu.Lock()
	own := q.queues[id]
	if own != nil {
		for n, other := range own.waiting {
			if other == w {
				own.waiting = append(own.waiting[:n:n], own.waiting[n+1:]...)
				break
			}
		}
	}
	leading := false
	select {
	case <-w.lead:
		leading = true
	default:
	}
	q.mu.Unlock()
	if leading {
		q.next(id)
	}
}
