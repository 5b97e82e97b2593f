package upstream

import (
	"context"
	"log/slog"
	"sync"
	"time"

	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/rpc"
)

const (
	// maxCloses bounds how many ends of sessions wait to be told, one a server. What finds no place is dropped and logged; it is over when the
	// gateway's lease is.
	maxCloses    = 100_000
	closeWorkers = 8
	closePacing  = 500 * time.Millisecond // after a failure
)

// closes tells game-instance which sessions are over, until it answers. Of one server only the newest session matters: its end says everything.
type closes struct {
	client sessionv1.SessionServiceClient
	log    *slog.Logger

	mu       sync.Mutex
	waiting  map[string]*sessionv1.CloseSessionRequest // by server id; bounded by maxCloses
	underway int
	idle     chan struct{} // closed when nothing waits or is under way; replaced when something does again
	wake     chan struct{}
}

func newCloses(client sessionv1.SessionServiceClient, log *slog.Logger) *closes {
	idle := make(chan struct{})
	close(idle)
	return &closes{client: client, log: log, waiting: make(map[string]*sessionv1.CloseSessionRequest), idle: idle, wake: make(chan struct{}, closeWorkers)}
}

func (c *closes) add(req *sessionv1.CloseSessionRequest) {
	c.mu.Lock()
	old, ok := c.waiting[req.GetServerId()]
	switch {
	case !ok && len(c.waiting) >= maxCloses:
		c.log.Error("too many sessions ended that game-instance could not be told of; dropping one", "server_id", req.GetServerId())
	case !ok, req.GetSessionEpoch() > old.GetSessionEpoch():
		if len(c.waiting) == 0 && c.underway == 0 {
			c.idle = make(chan struct{})
		}
		c.waiting[req.GetServerId()] = req
	}
	c.mu.Unlock()
	c.nudge()
}

func (c *closes) nudge() {
	select {
	case c.wake <- struct{}{}:
	default: // as many tokens as workers are there
	}
}

func (c *closes) takenOver(serverID string, epoch int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if req, ok := c.waiting[serverID]; ok && req.GetSessionEpoch() < epoch {
		delete(c.waiting, serverID)
		c.signalIdle()
	}
}

func (c *closes) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) > 0 {
		clear(c.waiting)
		c.signalIdle()
	}
}

// signalIdle tells those who flush that all is done, if it is. The caller holds mu and has just removed something.
func (c *closes) signalIdle() {
	if len(c.waiting) == 0 && c.underway == 0 {
		close(c.idle)
	}
}

func (c *closes) flush(ctx context.Context) error {
	c.mu.Lock()
	idle := c.idle
	c.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *closes) run(ctx context.Context) {
	var workers sync.WaitGroup
	for range closeWorkers {
		workers.Go(func() { c.work(ctx) })
	}
	workers.Wait()
}

func (c *closes) work(ctx context.Context) {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		for req := c.next(); req != nil; req = c.next() {
			ok := c.send(ctx, req)
			c.finish(req, ok)
			if ok {
				continue
			}
			pause := time.NewTimer(closePacing)
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
				return
			}
		}
	}
}

func (c *closes) next() *sessionv1.CloseSessionRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, req := range c.waiting {
		delete(c.waiting, id)
		c.underway++
		if len(c.waiting) > 0 {
			c.nudge()
		}
		return req
	}
	return nil
}

// finish ends a try; what got no answer waits again, unless a newer session of the server does.
func (c *closes) finish(req *sessionv1.CloseSessionRequest, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.underway--
	if _, newer := c.waiting[req.GetServerId()]; !ok && !newer {
		c.waiting[req.GetServerId()] = req
	}
	c.signalIdle()
}

// send reports whether there is nothing left to do.
func (c *closes) send(ctx context.Context, req *sessionv1.CloseSessionRequest) bool {
	ctx, cancel := context.WithTimeout(ctx, timeoutFor(len(req.GetInstanceIds())))
	defer cancel()
	_, err := c.client.CloseSession(ctx, req)
	if err == nil {
		return true
	}
	if repeatable(rpc.FromStatus(err)) {
		return false
	}
	c.log.Error("the end of a session was refused", "server_id", req.GetServerId(), "error", err)
	return true
}
