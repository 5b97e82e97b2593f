package gameserver

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"slices"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/protobuf/proto"
)

// offer is what one Accept returns.
type offer struct {
	server *Server
	err    error
}

// assignment is an instance that was placed on this server.
type assignment struct {
	instance string
	after    int64 // the newest number of a request when this came
}

// server returns the server of an instance, or nil.
func (h *Host) server(instance string) *Server {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.servers[instance]
}

// all returns the servers, by instance.
func (h *Host) all() []*Server {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(h.servers), func(a, b *Server) int { return cmp.Compare(a.id, b.id) })
}

// expect returns a new server for an instance that is to be linked, or nil if there is one, or no room for it.
func (h *Host) expect(instance string) *Server {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.servers[instance] != nil || len(h.servers) >= maxInstances {
		return nil
	}
	return h.newServer(instance)
}

// newServer makes the server of an instance. The caller holds mu.
func (h *Host) newServer(instance string) *Server {
	s := &Server{
		id:     instance,
		host:   h,
		log:    h.log.With("instance_id", instance),
		match:  new(match),
		events: make(chan Event), // holds nothing: what was received from it has been taken by the game
		linked: make(chan struct{}),
		ending: ending{done: make(chan struct{})},

		delivery: make(chan struct{}),
	}
	s.ledger = newLedger(s.log, h.options.queue)
	s.ledger.server = s
	s.inbox = newInbox(func() { h.acks.add(s) }, h.refetch)
	h.servers[instance] = s
	return s
}

// claim returns the server of an instance for somebody other than Accept, and reports whether nobody has had it before.
func (h *Host) claim(instance string) (s *Server, fresh bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s = h.servers[instance]; s == nil {
		s = h.newServer(instance)
	}
	fresh = !s.given
	s.given = true
	h.withdraw(s)
	return s, fresh
}

// disclaim gives a server to Accept that was claimed for somebody who has gone.
func (h *Host) disclaim(s *Server) {
	h.mu.Lock()
	s.given = false
	h.mu.Unlock()
	h.offer(s)
}

// offer gives a server to Accept, unless somebody has it.
func (h *Host) offer(s *Server) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !s.given && !s.ended {
		h.backlog = append(h.backlog, offer{server: s})
		wake(h.offered)
	}
}

// takeOffer returns what Accept is to return.
func (h *Host) takeOffer() (offer, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.backlog) == 0 {
		return offer{}, false
	}
	next := h.backlog[0]
	h.backlog = slices.Delete(h.backlog, 0, 1)
	if next.server != nil {
		next.server.given = true
	}
	if len(h.backlog) > 0 {
		wake(h.offered) // for another Accept, whose signal this one may have taken
	}
	return next, true
}

// withdraw takes a server from Accept. The caller holds mu.
func (h *Host) withdraw(s *Server) {
	h.backlog = slices.DeleteFunc(h.backlog, func(o offer) bool { return o.server == s })
}

// assigned notes instances that were placed on this server, and links them.
func (h *Host) assigned(instances ...string) {
	if h.single {
		return
	}
	for _, id := range instances {
		known := slices.ContainsFunc(h.run.assigned, func(a assignment) bool { return a.instance == id })
		if id != "" && !known && len(h.run.assigned) < maxInstances {
			h.run.assigned = append(h.run.assigned, assignment{id, h.outbox.last()})
		}
	}
	h.linkAssigned()
}

// linkAssigned links the instances that were assigned, but for those that may be what an unanswered Create has made: its answer may have
// been lost, and then Berth assigns the instance; but whoever called Create is to have it.
func (h *Host) linkAssigned() {
	creating := h.outbox.creating()
	h.run.assigned = slices.DeleteFunc(h.run.assigned, func(a assignment) bool {
		if creating != 0 && creating <= a.after {
			return false
		}
		if s := h.expect(a.instance); s != nil {
			h.link(s)
		}
		return true
	})
}

// created takes over what came of a Create.
func (h *Host) created(via *socket, c *call, r *linkv1.Response) error {
	defer h.linkAssigned()
	var start gameserverv1.CreateAndLinkResponse
	refused := errorOf(r.GetError())
	switch {
	case r.GetError() != nil:
	case proto.Unmarshal(r.GetResult(), &start) != nil || start.GetInstance().GetId() == "":
		r = &linkv1.Response{Id: r.GetId(), Outcome: &linkv1.Response_Error{Error: unreadable(methodCreate)}}
	default:
		s, fresh := h.claim(start.GetInstance().GetId())
		if epoch, here := h.outbox.linkOf(s.ledger, via); !here || epoch < start.GetLinkEpoch() {
			s.linkedTo(via, &gameserverv1.LinkResponse{Instance: start.GetInstance(), LinkEpoch: start.GetLinkEpoch(), Offset: start.GetOffset()})
		}
		c.linked = s
		if !h.outbox.hand(c, r) && fresh {
			h.disclaim(s)
		}
		h.outbox.forget(c)
		return nil
	}
	h.outbox.hand(c, r)
	switch {
	case refused.staleLink():
		return refused
	case !refused.temporary():
		h.outbox.forget(c)
	}
	return nil
}

// end deals with an instance that is over for this server. With the only one of a single host, the link is over.
func (h *Host) end(s *Server, why error) {
	if h.single {
		h.run.why = why
		wake(h.over)
		return
	}
	h.finish(s, why)
}

// whyOver returns why the link of a single host is over; nil while it is not.
func (h *Host) whyOver() error {
	h.turn.Lock()
	defer h.turn.Unlock()
	return h.run.why
}

// deliveries returns what is closed when nothing is delivered any more to the games that there are.
func (h *Host) deliveries() []<-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []<-chan struct{}
	for _, s := range h.servers {
		if s.stop != nil {
			all = append(all, s.delivery)
		}
	}
	return all
}

// finish ends the link of an instance for good, unless that has happened. An end that had to come is no error.
func (h *Host) finish(s *Server, err error) {
	// A server that gave its instance up is sent away, which may overtake the answer.
	sentAway := superseded(err) || refusedFor(err, reasonNotAssigned)
	unlinked := errors.Is(err, errUnlinked) || sentAway && h.outbox.sent(s.ledger, methodUnlink)
	if unlinked || s.match.over() {
		err = nil
	}
	if !h.forget(s, err) {
		return
	}
	logEnd(s.log, err)
	s.unlinked, s.ending.err = unlinked, err
	close(s.ending.done)
	h.outbox.close(s.ledger)
	s.inbox.end()
}

// forget takes a server off the list, and reports whether it was there.
func (h *Host) forget(s *Server, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.ended {
		return false
	}
	s.ended = true
	delete(h.servers, s.id)
	if s.given {
		return true
	}
	h.withdraw(s)
	if s.stop != nil { // nobody will read its events
		s.stop()
	}
	if s.named && err != nil {
		h.backlog = append(h.backlog, offer{err: err})
		wake(h.offered)
	}
	return true
}

// finishAll ends the link for good.
func (h *Host) finishAll(err error) {
	for _, s := range h.all() {
		h.finish(s, err)
	}
	if !h.single {
		logEnd(h.log, err)
	}
	h.ending.err = err
	close(h.ending.done)
}

func logEnd(log *slog.Logger, err error) {
	if err != nil {
		log.Error("link is over", "error", err)
	} else {
		log.Info("link is over")
	}
}
