// Package hub knows the gateway's sockets: all of them, the one of each game server, and the one that each instance is linked through. It routes
// what arrives from the store to them and never waits for any of them.
package hub

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// Socket is a game server's connection. Its methods do not block and are safe for concurrent use.
type Socket interface {
	// Deliver queues a notification.
	Deliver(d *eventv1.Delivery)
	// Remind says that the instance's mailbox has waited for an acknowledgement too long.
	Remind(instanceID string)
	// Assign says that the instance was placed on the server.
	Assign(instanceID string)
	// Move asks the server to open its next connection elsewhere and to leave this one within some time; false when it cannot be asked, because it has no
	// session yet.
	Move(within time.Duration) bool
	// Replace says that a newer session of the server took over.
	Replace()
	// Message queues a message that may be lost. It keeps nothing of what it is given.
	Message(instance, topic, data []byte)
	// Pooled reports whether its server is one of a warm pool.
	Pooled() bool
	// Close says goodbye and closes; only the first call counts.
	Close(code linkv1.CloseCode, message string)
	// Kill cuts the connection.
	Kill()
}

// Reasons why a session does not become its server's.
var (
	// ErrReplaced means that a newer session of the server is known.
	ErrReplaced = errors.New("a newer connection of this server took over")
	// ErrLapsed means that the life of the gateway in which the session was opened is over.
	ErrLapsed = errors.New("the gateway's lease ran out")
)

// Hub routes to sockets. The zero value is not usable; see New. It is safe for concurrent use.
type Hub struct {
	max int

	mu       sync.RWMutex
	life     uint64 // counts the gateway's lives
	draining bool
	drained  chan struct{} // closed when draining and no socket is left
	sockets  map[Socket]struct{}
	servers  map[string]*server
	links    map[string]Socket // by instance id
}

// server is what is known of a game server's sessions. It is kept while it has a socket or one is being opened.
type server struct {
	socket  Socket
	epoch   int64 // of the socket's session
	floor   int64 // a session is known to have taken over the ones below
	opening int
}

// New returns a hub that holds at most maxSockets sockets.
func New(maxSockets int) *Hub {
	return &Hub{
		max:     maxSockets,
		drained: make(chan struct{}),
		sockets: make(map[Socket]struct{}),
		servers: make(map[string]*server),
		links:   make(map[string]Socket),
	}
}

// Add takes a socket in; false when the hub is full or draining.
func (h *Hub) Add(s Socket) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining || len(h.sockets) >= h.max {
		return false
	}
	h.sockets[s] = struct{}{}
	return true
}

// Remove forgets a socket that is gone, with the links that go over it.
func (h *Hub) Remove(s Socket, serverID string, instances []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sockets, s)
	for _, id := range instances {
		if h.links[id] == s {
			delete(h.links, id)
		}
	}
	if e, ok := h.servers[serverID]; ok && e.socket == s {
		e.socket = nil
		h.tidy(serverID, e)
	}
	h.signalDrained()
}

// Full reports whether the hub takes no more sockets now.
func (h *Hub) Full() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.draining || len(h.sockets) >= h.max
}

// Sockets returns all sockets.
func (h *Hub) Sockets() []Socket {
	h.mu.RLock()
	defer h.mu.RUnlock()
	all := make([]Socket, 0, len(h.sockets))
	for s := range h.sockets {
		all = append(all, s)
	}
	return all
}

// Opening is a session that is being opened. While there is one, the hub remembers what it hears about the server's sessions.
type Opening struct {
	hub    *Hub
	server string
	life   uint64
}

// Open begins to open a session of a server. The caller calls Done when it is over.
func (h *Hub) Open(serverID string) *Opening {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.servers[serverID]
	if !ok {
		e = new(server)
		h.servers[serverID] = e
	}
	e.opening++
	return &Opening{hub: h, server: serverID, life: h.life}
}

// Done ends the opening.
func (o *Opening) Done() {
	o.hub.mu.Lock()
	defer o.hub.mu.Unlock()
	e := o.hub.servers[o.server]
	e.opening--
	o.hub.tidy(o.server, e)
}

// Register makes a socket the one of its server, and the one through which the instances are linked. The server's socket before it is told. It fails
// with ErrReplaced or ErrLapsed when the session was overtaken while it was being opened.
func (o *Opening) Register(s Socket, epoch int64, instances []string) error {
	replaced, err := o.register(s, epoch, instances)
	if replaced != nil {
		replaced.Replace()
	}
	return err
}

func (o *Opening) register(s Socket, epoch int64, instances []string) (replaced Socket, err error) {
	h := o.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.servers[o.server]
	switch {
	case o.life != h.life:
		return nil, ErrLapsed
	case epoch < e.floor, e.socket != nil && epoch < e.epoch:
		return nil, ErrReplaced
	}
	replaced, e.socket, e.epoch = e.socket, s, epoch
	for _, id := range instances {
		h.links[id] = s
	}
	return replaced, nil
}

// tidy drops a server of which nothing needs to be known.
func (h *Hub) tidy(id string, e *server) {
	if e.socket == nil && e.opening == 0 {
		delete(h.servers, id)
	}
}

// Link makes a socket the one through which an instance is linked, if it still is its server's socket.
func (h *Hub) Link(s Socket, serverID, instanceID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e, ok := h.servers[serverID]; ok && e.socket == s {
		h.links[instanceID] = s
	}
}

// Unlink ends that.
func (h *Hub) Unlink(s Socket, instanceID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.links[instanceID] == s {
		delete(h.links, instanceID)
	}
}

// Deliver hands each delivery of an envelope to the socket of its instance and each assignment to that of its server, and tells the sockets of sessions that
// were taken over. What is for nobody here is dropped: a delivery stays in its mailbox, and an assignment comes again.
func (h *Hub) Deliver(e *eventv1.Envelope) {
	for _, d := range e.GetDeliveries() {
		if s := h.linked(d.GetInstanceId()); s != nil {
			s.Deliver(d)
		}
	}
	for _, a := range e.GetAssignments() {
		if s := h.serverSocket(a.GetServerId()); s != nil {
			s.Assign(a.GetInstanceId())
		}
	}
	for _, r := range e.GetReplaced() {
		if s := h.replaced(r.GetServerId(), r.GetSessionEpoch()); s != nil {
			s.Replace()
		}
	}
}

// Message hands a message that may be lost to the socket of its instance; false when there is none here.
func (h *Hub) Message(instance, topic, data []byte) bool {
	h.mu.RLock()
	s := h.links[string(instance)]
	h.mu.RUnlock()
	if s == nil {
		return false
	}
	s.Message(instance, topic, data)
	return true
}

// Remind tells the sockets of instances whose mailboxes have waited too long.
func (h *Hub) Remind(instances []string) {
	for _, id := range instances {
		if s := h.linked(id); s != nil {
			s.Remind(id)
		}
	}
}

// RemindAll tells the sockets of all linked instances, of any of which something may have been missed.
func (h *Hub) RemindAll() {
	h.mu.RLock()
	links := maps.Clone(h.links)
	h.mu.RUnlock()
	for id, s := range links {
		s.Remind(id)
	}
}

func (h *Hub) linked(instanceID string) Socket {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.links[instanceID]
}

func (h *Hub) serverSocket(serverID string) Socket {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if e, ok := h.servers[serverID]; ok {
		return e.socket
	}
	return nil
}

// replaced notes that a session took over, and returns the socket of the one before it.
func (h *Hub) replaced(serverID string, epoch int64) Socket {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.servers[serverID]
	if !ok {
		return nil
	}
	e.floor = max(e.floor, epoch)
	if e.socket == nil || e.epoch >= epoch {
		return nil
	}
	return e.socket
}

// Lapse ends a life of the gateway: no session that is being opened in it counts. It returns what closes the life's sockets, paced, so that their servers
// do not all come back at once; those that are left when its context ends are left.
func (h *Hub) Lapse() (closeAll func(context.Context)) {
	h.mu.Lock()
	h.life++
	h.mu.Unlock()
	sockets := h.Sockets()
	return func(ctx context.Context) { closePaced(ctx, sockets, "the gateway lost its lease; connect again") }
}

// Forgotten returns what closes the sockets of servers of warm pools, in the same way: the store does not know them any more, and they have to join again.
func (h *Hub) Forgotten() (closeAll func(context.Context)) {
	sockets := slices.DeleteFunc(h.Sockets(), func(s Socket) bool { return !s.Pooled() })
	return func(ctx context.Context) { closePaced(ctx, sockets, "the store has lost the pool; connect again") }
}

// closeSpread is over how much time sockets that are of no use any more are closed at most.
const closeSpread = 2 * time.Second

func closePaced(ctx context.Context, sockets []Socket, why string) {
	began, slot := time.Now(), slotOf(closeSpread, len(sockets))
	tick := time.NewTicker(paceTick)
	defer tick.Stop()
	for closed := 0; closed < len(sockets); {
		for ; closed < min(int(time.Since(began)/slot)+1, len(sockets)); closed++ {
			sockets[closed].Close(linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE, why)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
