package wsserver

import (
	"context"
	"sync"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway/internal/metrics"
	"github.com/berth-dev/berth/services/gateway/internal/session"
)

const (
	pullWorkers = 16
	// pullQueue bounds the reads of mailboxes that wait for a worker. One that finds no place is given up: a mailbox that waits is reported again two
	// seconds later.
	pullQueue = 8192
)

// puller reads mailboxes for connections, a bounded number at a time.
type puller struct {
	upstream Upstream
	metrics  *metrics.Metrics
	jobs     chan pull
}

type pull struct {
	conn *conn
	from session.Position
}

func newPuller(u Upstream, m *metrics.Metrics) *puller {
	return &puller{upstream: u, metrics: m, jobs: make(chan pull, pullQueue)}
}

// submit queues a read; false when it was given up.
func (p *puller) submit(job pull) bool {
	select {
	case p.jobs <- job:
		return true
	default:
		return false
	}
}

// run works until ctx ends.
func (p *puller) run(ctx context.Context) {
	var workers sync.WaitGroup
	for range pullWorkers {
		workers.Go(func() {
			for {
				select {
				case job := <-p.jobs:
					p.metrics.Pulls.Inc()
					answer, err := p.upstream.Pull(ctx, job.from.Instance, job.from.Epoch, job.from.Offset)
					job.conn.pulled(job.from, answer, err)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	workers.Wait()
}

// hold keeps an instance's notifications back while it is linked anew; see session.Hold.
func (c *conn) hold(call call) (epoch int64) {
	if call.method != methodLink {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Hold(call.instance)
}

// ack passes an acknowledgement on. One for an instance that is not linked here is dropped: after a link was lost, late ones are to be expected.
func (c *conn) ack(a *linkv1.Ack) {
	c.mu.Lock()
	at, ok := c.state.Ack(a.GetInstanceId(), a.GetOffset())
	life := c.life
	c.mu.Unlock()
	if ok && c.alive(life) == nil { // else it is passed on when the mailbox is found to wait
		c.srv.cfg.Upstream.Ack(at.Instance, at.Epoch, at.Offset)
	}
}
