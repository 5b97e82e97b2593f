package gameservertest

import (
	"maps"
	"slices"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/protobuf/proto"
)

// Checkpoint is what Berth's store knew at a time; see Backend.Checkpoint.
type Checkpoint struct {
	match   match
	session string
	done    map[int64]*answered
	top     int64
}

// Checkpoint returns what Berth's store knows now, as if it were written to disk now and not again: what a later LoseWrites comes back to.
func (b *Backend) Checkpoint() Checkpoint {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Checkpoint{match: b.match.clone(), session: b.session.id, done: maps.Clone(b.session.done), top: b.session.top}
}

// LoseWrites has Berth's store crash and come back as it was at a checkpoint. The connection stays. The server is told when it shows that it knows more, as
// docs/link-protocol.md says under "Lost writes": by the answer STATE_ROLLED_BACK, or by welcome on its next connection. It links again then, and sends again
// what was answered: what is lost takes effect again, and what is not does not. An instance that was made after the checkpoint is not known any more.
func (b *Backend) LoseWrites(to Checkpoint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, now := &b.session, b.match
	was := to.match.clone()
	was.loss = &loss{epoch: was.epoch, top: to.top, offset: was.offset}
	// What a server was told stays told, and the store's clock goes on: no revision, epoch or offset comes twice.
	was.told, was.sent, was.epoch, was.offset = max(now.told, now.in.GetRevision()), now.sent, now.epoch, now.offset
	b.match = &was
	s.done = make(map[int64]*answered)
	if to.session == s.id {
		s.done = maps.Clone(to.done)
	}
	b.notify()
}

// loss is what the store knows that has lost writes: of the link, and the highest number of a request and the highest offset.
type loss struct{ epoch, top, offset int64 }

// noticed reports whether a request shows that the server knows more.
func (l *loss) noticed(r *linkv1.Request) bool {
	return l != nil && (r.GetLinkEpoch() > l.epoch || r.GetLastRequest() > l.top)
}

// rolledBack reports whether hello shows that the server knows more than the store, which has lost writes.
func (m *match) rolledBack(in *linkv1.HelloInstance) bool {
	l := m.loss
	return l != nil && m.made && !m.lost &&
		(in.GetLinkEpoch() > l.epoch || in.GetLastRequest() > l.top || in.GetLastOffset() > l.offset || in.GetRevision() > m.in.GetRevision())
}

func (m *match) clone() match {
	c := *m
	c.in, c.mailbox, c.posted = proto.CloneOf(m.in), slices.Clone(m.mailbox), slices.Clone(m.posted)
	return c
}

// Resync makes changes as a backend does, by what change calls (AddPlayers, UpdateGameData …), as if they were more than Berth keeps one by one: in their place,
// and in that of every notification that is not acknowledged, the server gets one that tells it to link again. Messages that wait stay; change sends none.
func (b *Backend) Resync(change func()) {
	b.tb.Helper()
	b.mu.Lock()
	revision := b.match.in.GetRevision()
	b.match.folding = true
	b.mu.Unlock()
	change()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.match.folding = false
	b.match.mailbox = slices.DeleteFunc(b.match.mailbox, func(n *linkv1.Notification) bool { return n.GetEvent().GetMessage() == nil })
	b.tell(&gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_Resync{Resync: &gameserverv1.Resync{Revision: revision}}})
	b.notify()
}
