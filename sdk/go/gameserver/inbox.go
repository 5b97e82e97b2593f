package gameserver

import (
	"context"
	"sync"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// maxEvents bounds the inbox. It is meant to be above what Berth keeps for one instance, so that it does not fill up; see
// inbox.accept for what happens if it does.
const maxEvents = 1024

// inbox holds the notifications of one instance that have arrived and that the game has not taken yet.
type inbox struct {
	due     func()          // called when there is something to acknowledge; it must not wait
	filled  chan struct{}   // there is something in the queue, or there never will be; holds one
	refetch chan<- struct{} // entries were left out and there is room for them now; holds one

	mu       sync.Mutex
	queue    []entry // at most maxEvents, and on top two Relinked, and a Superseded or an Orphaned
	seen     int64   // the offset of the last entry that went into the queue
	acked    int64   // the offset of the last entry that the game took
	told     int64   // the offset of the last entry that was acknowledged
	ackAgain bool    // Berth sent an entry again that the game had taken
	leftOut  bool    // entries after seen did not fit
	over     bool    // nothing will follow
	messages recentIDs
}

type entry struct {
	offset int64 // 0 for what has no place in the sequence
	event  Event // nil for a kind that is not known
}

func newInbox(due func(), refetch chan<- struct{}) *inbox {
	return &inbox{due: due, filled: make(chan struct{}, 1), refetch: refetch}
}

// accepted says what became of a notification.
type accepted int

const (
	queued  accepted = iota // it is new and in its place
	dropped                 // it was here before, or will come again
	gap                     // one before it is missing
	full                    // it is the first for which there is no room
	last                    // it ends the link, since the instance was taken from this server
)

// accept queues a notification if it is the next one, after apply took it over: the game must not hear of what Instance does
// not show yet. Overflow: an entry that does not fit is left out, together with all that follow it, until the queue is empty;
// then the link is resumed, which makes Berth send them again.
func (in *inbox) accept(n *linkv1.Notification, apply func(*gameserverv1.InstanceEvent)) accepted {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case n.GetOffset() <= in.seen:
		if n.GetOffset() <= in.acked { // Berth does not know yet that it was taken
			in.ackAgain = true
			in.due()
		}
		return dropped
	case n.GetEvent().GetSuperseded() != nil: // nobody will fetch what is missing before it
		in.seen = n.GetOffset()
		in.push(entry{event: eventOf(n.GetEvent())}) // there is no link to acknowledge it on
		return last
	case in.leftOut:
		return dropped
	case len(in.queue) >= maxEvents:
		in.leftOut = true
		return full
	case n.GetPrevious() > in.seen:
		return gap
	}
	in.seen = n.GetOffset()
	apply(n.GetEvent())
	next := entry{n.GetOffset(), eventOf(n.GetEvent())}
	if m, ok := next.event.(MessageReceived); ok && !in.messages.add(m.ID) {
		next.event = nil // it came before, under another offset; this one is acknowledged after that
	}
	in.push(next)
	return queued
}

// mention queues what may be lost, and reports whether there was room for it.
func (in *inbox) mention(e Event) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.over || len(in.queue) >= maxHeardAhead {
		return in.over
	}
	in.push(entry{event: e})
	return true
}

// push appends to the queue; the caller holds the lock.
func (in *inbox) push(e entry) {
	in.queue = append(in.queue, e)
	wake(in.filled)
}

// finally queues what comes after everything that waits; see end.
func (in *inbox) finally(e Event) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.push(entry{event: e})
}

// relink starts the sequence anew after offset and tells the game so, unless this is the first link.
func (in *inbox) relink(offset int64, e *Relinked) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.seen, in.acked, in.told, in.leftOut = offset, offset, offset, false
	// What waits came before the start data was here, though it may have happened after. Then it comes again, and it is that which counts.
	for i := range in.queue {
		in.queue[i].offset = 0
	}
	if e == nil {
		return
	}
	// One that waits already can be replaced; but the first of the queue may be on its way to the game.
	if newest := len(in.queue) - 1; newest > 0 {
		if waiting, ok := in.queue[newest].event.(Relinked); ok {
			e.LostWrites = e.LostWrites || waiting.LostWrites
			in.queue[newest].event = *e
			return
		}
	}
	in.push(entry{event: *e})
}

// resumed says that everything after this offset, which Hello has acknowledged, comes again.
func (in *inbox) resumed(told int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.leftOut, in.told = false, told
	if in.acked > told { // the game has gone on since
		in.due()
	}
}

// end says that nothing will follow.
func (in *inbox) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.over, in.leftOut = true, false
	wake(in.filled)
}

// head waits for the first entry of the queue. It returns false when there will not be one, or ctx has ended.
func (in *inbox) head(ctx context.Context) (entry, bool) {
	for {
		in.mu.Lock()
		if len(in.queue) > 0 {
			defer in.mu.Unlock()
			return in.queue[0], true
		}
		over := in.over
		in.mu.Unlock()
		if over {
			return entry{}, false
		}
		select {
		case <-in.filled:
		case <-ctx.Done():
			return entry{}, false
		}
	}
}

// took drops the first entry of the queue, which the game has taken.
func (in *inbox) took() {
	in.mu.Lock()
	defer in.mu.Unlock()
	offset := in.queue[0].offset // since head it may have lost its place in the sequence
	in.queue[0] = entry{}
	in.queue = in.queue[1:]
	if offset > in.acked {
		in.acked = offset
		in.due()
	}
	if len(in.queue) == 0 && in.leftOut {
		wake(in.refetch)
	}
}

// offset returns up to where the game has taken everything, for Hello, which acknowledges it; see resumed.
func (in *inbox) offset() int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.acked
}

// ack returns what to acknowledge now, if anything.
func (in *inbox) ack() (offset int64, due bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	due = in.acked > in.told || in.ackAgain
	in.told, in.ackAgain = in.acked, false
	return in.acked, due
}

// wake signals on a channel that holds one signal; one that waits there already will do.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
