package gameserver

import (
	"log/slog"
)

// ledger is what the outbox knows of one instance: over which link its calls go, and which were answered. The outbox guards it, but for
// the first three.
type ledger struct {
	server *Server // nil for the calls that are about no instance yet
	log    *slog.Logger
	room   *room // for calls that somebody waits for

	via      *socket // the socket over which the instance is linked; its calls go out on no other
	epoch    int64   // of the link; 0 before the first
	link     *call   // the Link that has no final answer yet, or nil; of those that refresh the tokens, the one
	numbered int64   // how many calls have a number
	closed   bool    // no calls are taken any more

	kept     kept
	revision int64 // the highest that Berth has told
	lastDone int64 // the highest number that was answered with a result since the last link

	// Scratch of outbox.next.
	scan    int64
	oldest  int64 // the place of its oldest call that has a number and is not answered, or 0
	blocked bool  // a repair has to be answered first
}

func newLedger(log *slog.Logger, queue QueuePolicy) *ledger {
	return &ledger{log: log, room: &room{policy: queue}}
}

// resumed says that the instance goes on over another socket.
func (o *outbox) resumed(l *ledger, via *socket, epoch int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l.via, l.epoch = via, epoch
	wake(o.wakeWriter)
}

// relinked says at which revision the instance was linked anew, from which things go on. Calls wait until resumed says where.
func (o *outbox) relinked(l *ledger, revision int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l.revision, l.lastDone = revision, 0
}

// linkOf returns the epoch of the instance's link, 0 before the first, and whether it is over this socket.
func (o *outbox) linkOf(l *ledger, via *socket) (epoch int64, here bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return l.epoch, l.via == via
}

// linkedSince reports whether a call that was refused went out with another epoch than its instance has now, or may have soon, so that it
// is only to be made again.
func (o *outbox) linkedSince(c *call) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return c.of.link != nil || c.epoch != c.of.epoch
}
