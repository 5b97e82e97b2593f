package wsserver

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/berth-dev/berth/pkg/errs"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway/internal/codec"
	"github.com/berth-dev/berth/services/gateway/internal/limit"
	"github.com/berth-dev/berth/services/gateway/internal/session"
)

// conn is one connection. A goroutine reads it for as long as it lives (run); a second one writes while there is something to write. The exported methods
// do not block; they are what the hub calls.
type conn struct {
	srv         *Server
	pair        *session.Pair
	ws          *websocket.Conn
	raw         *frameConn
	codec       codec.Codec    // of the sub-protocol that was agreed
	remote      string         // whose connection it is, host:port
	traceparent string         // the trace in which the server was allocated; may be empty
	frames      *limit.Bucket  // of the pair's requests
	heard       atomic.Int64   // when something last came from the peer: a time.Duration since the server was made
	others      sync.WaitGroup // the goroutines beside run; one may only be added under mu while the connection is not over

	mu      sync.Mutex
	state   *session.Session
	caller  *sessionv1.ServerIdentity // of the session; nil before Welcome
	epoch   int64                     // of the session; 0 before Welcome
	life    string                    // of the gateway, in which the session was opened; "" before Welcome
	pooled  bool                      // its server is one of a warm pool
	pinged  time.Time
	out     outbox
	writer  func()           // write; a method's value made anew each time would cost an allocation
	closing linkv1.CloseCode // the code of the Goodbye that is queued or sent
	over    bool             // run is winding up
	hello   *time.Timer
	kill    *time.Timer

	moving    bool        // the server was asked to move
	replaced  bool        // a newer session of the server took over
	lingering *time.Timer // bounds how long a replaced connection waits for the answers to its requests

	explained time.Time // when the server was last told why its messages are dropped

	unrefreshed time.Time // when Berth could not refresh the pair; zero: the last refresh was answered otherwise
}

func newConn(s *Server, pair *session.Pair) *conn {
	c := &conn{srv: s, pair: pair, codec: codec.Proto, state: session.New(s.cfg.Limits.MaxInFlight), pinged: time.Now()}
	c.writer = c.write
	c.hear()
	return c
}

// hear records a sign of life.
func (c *conn) hear() { c.heard.Store(int64(time.Since(c.srv.made))) }

// run reads the connection until it ends, and winds it up.
func (c *conn) run() {
	m := c.srv.cfg.Metrics
	m.Sockets.Inc()
	defer m.Sockets.Dec()
	c.mu.Lock()
	c.hello = time.AfterFunc(c.srv.cfg.HelloTimeout, func() {
		c.Close(linkv1.CloseCode_CLOSE_CODE_HELLO_TIMEOUT, "no Hello came in time")
	})
	c.mu.Unlock()

	c.read()

	c.mu.Lock()
	c.over = true
	c.hello.Stop()
	c.out.drop()
	code, epoch, replaced, instances := c.closing, c.epoch, c.replaced, c.state.Instances()
	c.mu.Unlock()
	c.Kill()
	_ = c.ws.CloseNow() // frees what the library holds
	c.others.Wait()
	for _, timer := range []*time.Timer{c.kill, c.lingering} {
		if timer != nil {
			timer.Stop()
		}
	}
	server := c.pair.Server()
	// Before the hub lets go of the socket: a stop waits for the hub to be empty, and then for all ends to be told.
	if epoch != 0 && !replaced && code != linkv1.CloseCode_CLOSE_CODE_REPLACED {
		c.srv.cfg.Upstream.CloseSession(server.ID, epoch, instances)
	}
	c.srv.cfg.Hub.Remove(c, server.ID, instances)
	m.Closed.WithLabelValues(codeName(code)).Inc()
	c.srv.cfg.Log.Info("link closed", append(identity(server), "code", codeName(code), "session_epoch", epoch)...)
}

// Close implements hub.Socket: what is queued and then Goodbye are written, and the connection is closed.
func (c *conn) Close(code linkv1.CloseCode, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.close(code, message)
}

// close is Close; the caller holds mu.
func (c *conn) close(code linkv1.CloseCode, message string) {
	if c.over || c.closing != 0 {
		return
	}
	if c.replaced { // whatever else is the matter, its server is not to come back for it
		code = linkv1.CloseCode_CLOSE_CODE_REPLACED
	}
	if code == linkv1.CloseCode_CLOSE_CODE_SLOW_CONSUMER {
		c.out.drop() // it would have to be read first; it will be asked or read for again after the reconnect
	}
	if raw, err := c.codec.Encode(goodbyeFrame(code, message)); err == nil {
		c.out.add(raw)
	}
	c.closing = code
	c.kill = time.AfterFunc(c.srv.cfg.CloseTimeout, c.Kill)
	c.startWriter()
}

// Kill implements hub.Socket.
func (c *conn) Kill() { _ = c.raw.Close() }

// Pooled implements hub.Socket.
func (c *conn) Pooled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pooled
}

// Deliver implements hub.Socket.
func (c *conn) Deliver(d *eventv1.Delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.state.Offer(d.GetInstanceId(), d.GetOffset(), d.GetPrevious()) {
	case session.Send:
		c.notify(d, c.encode(notificationFrame(d)))
	case session.Pull:
		c.pull(d.GetInstanceId())
	case session.Drop:
	}
}

// notify queues a notification, which raw is the frame of. One that takes the instance from the server is the last of its link. The caller holds mu.
func (c *conn) notify(d *eventv1.Delivery, raw []byte) {
	c.srv.cfg.Metrics.Notifications.Inc()
	c.queue(raw)
	instance := d.GetInstanceId()
	switch d.GetEvent().GetEvent().(type) {
	case *gameserverv1.InstanceEvent_Superseded:
		c.unlink(instance, c.state.Epoch(instance))
	case *gameserverv1.InstanceEvent_Terminated:
		c.finish(instance, c.state.Epoch(instance))
	}
}

// unlink ends the link of an instance, if it still is the one of this epoch. The connection and its other instances go on. The caller holds mu.
func (c *conn) unlink(instanceID string, epoch int64) {
	if c.state.Unlinked(instanceID, epoch) {
		c.srv.cfg.Hub.Unlink(c, instanceID)
	}
}

// finish notes that an instance whose link is the one of this epoch is over. The caller holds mu.
func (c *conn) finish(instanceID string, epoch int64) {
	for _, id := range c.state.Over(instanceID, epoch) {
		c.srv.cfg.Hub.Unlink(c, id)
	}
}

// Assign implements hub.Socket. An assignment is repeated until its instance is linked, so one that finds the connection crowded is left out.
func (c *conn) Assign(instanceID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.state.Live(instanceID) && !c.out.crowded(c.srv.cfg.Limits) {
		c.send(assignmentFrame(instanceID))
	}
}

// Remind implements hub.Socket. Either a published notification did not arrive here, or an acknowledgement did not arrive there.
func (c *conn) Remind(instanceID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.state.Acked(instanceID); ok {
		c.srv.cfg.Upstream.Ack(at.Instance, at.Epoch, at.Offset)
	}
	c.pull(instanceID)
	c.resume() // should reads have failed that were to fill the queue again
}

// pull starts to read an instance's mailbox, unless that is under way. The caller holds mu.
func (c *conn) pull(instanceID string) {
	if c.over || c.closing != 0 {
		return
	}
	from, ok := c.state.StartPull(instanceID)
	if ok && !c.srv.pulls.submit(pull{c, from}) {
		c.state.EndPull(from)
	}
}

// pulled takes what was read from a mailbox. It queues no more than there is room for; the rest is read when the queue is empty.
func (c *conn) pulled(from session.Position, answer *sessionv1.PullNotificationsResponse, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil { // it will be reported again, unless it is no more this connection's business
		if errs.Is(err, errs.NotConnected) || errs.Is(err, errs.InstanceUnknown) || errs.Is(err, errs.StaleLinkEpoch) {
			c.unlink(from.Instance, from.Epoch)
			return
		}
		c.state.EndPull(from)
		return
	}
	for _, d := range answer.GetDeliveries() {
		raw := c.encode(notificationFrame(d))
		if c.out.crowded(c.srv.cfg.Limits) || c.out.full(len(raw), c.srv.cfg.Limits) { // a large one needs an empty queue
			c.state.PausePull(from)
			return
		}
		if c.state.Accept(from, d.GetOffset()) {
			c.notify(d, raw)
		}
	}
	if c.state.EndPull(from) || answer.GetMore() {
		c.pull(from.Instance)
	}
}

// resumed is how many mailboxes that wait for room are read at once when there is some. A few fill the queue; what more would bring would be read in vain.
const resumed = 4

// resume goes on reading some of the mailboxes that wait for room, if there is some. The caller holds mu.
func (c *conn) resume() {
	if c.over || c.closing != 0 || c.out.crowded(c.srv.cfg.Limits) {
		return
	}
	for _, id := range c.state.ResumePull(resumed) {
		c.pull(id)
	}
}

// beat pings the connection when that is due, and cuts it when it was silent for two heartbeats.
func (c *conn) beat(now time.Time) {
	heartbeat := c.srv.cfg.Heartbeat
	if now.Sub(c.srv.made)-time.Duration(c.heard.Load()) > 2*heartbeat {
		c.Kill()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// Behind a write that is stuck a ping would only wait; a peer that does not read is silent, too.
	stuck := c.out.writing && now.Sub(c.out.since) > time.Second
	if c.over || c.closing != 0 || stuck || now.Sub(c.pinged) < heartbeat {
		return
	}
	c.pinged = now
	c.others.Go(func() { _ = c.raw.ping() }) // silence is noticed by heard
}
