package gameserver

import (
	"cmp"
	"slices"
	"time"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// Bounds of the answered calls that are kept for the case that Berth's store loses them. A store that writes to disk every second
// loses about a second; one that answers a minute later has long written what came before. The clock is that of the answers, so
// that a long outage after the loss drops nothing.
const (
	maxKept      = 256
	maxKeptBytes = 4 << 20
	keptFor      = time.Minute
)

// kept is the memory of answered calls. Overflow: the lowest numbers are forgotten.
type kept struct {
	calls     []*call // by number
	bytes     int
	forgotten int64 // the highest revision of a call that was forgotten
}

// add remembers a call that was answered now.
func (k *kept) add(c *call, now time.Time) {
	c.answered = now
	at, _ := slices.BinarySearchFunc(k.calls, c, byNumber)
	k.calls = slices.Insert(k.calls, at, c)
	k.bytes += c.size()
	for len(k.calls) > maxKept || k.bytes > maxKeptBytes || len(k.calls) > 0 && now.Sub(k.calls[0].answered) > keptFor {
		oldest := k.calls[0]
		k.calls[0] = nil
		k.calls = k.calls[1:]
		k.bytes -= oldest.size()
		k.forgotten = max(k.forgotten, oldest.revision)
	}
}

// take removes and returns the calls above a revision, by number, and reports whether some such were forgotten.
func (k *kept) take(above int64) (calls []*call, forgotten bool) {
	var rest []*call
	for _, c := range k.calls {
		if c.revision > above {
			calls = append(calls, c)
			k.bytes -= c.size()
		} else {
			rest = append(rest, c)
		}
	}
	k.calls = rest
	if forgotten = k.forgotten > above; forgotten {
		k.forgotten = 0
	}
	return calls, forgotten
}

func (c *call) size() int { return len(c.payload) + len(c.result) }

// byNumber orders calls by number, those without one last.
func byNumber(a, b *call) int {
	return cmp.Compare(uint64(a.id-1), uint64(b.id-1)) //nolint:gosec // 0 becomes the largest
}

// told notes the revision that the answer to a call told, and keeps the call. A repeat gets a call of its own, since the caller of
// this one may still be busy with the answer.
func (o *outbox) told(c *call, revision int64, result []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := c.of
	l.revision = max(l.revision, revision)
	l.lastDone = max(l.lastDone, c.id)
	if revision > 0 && c.method != methodUnlink { // after that there is no link for a repeat
		l.kept.add(&call{
			of: l, method: c.method, payload: c.payload, apply: c.apply, conditional: c.conditional, id: c.id, place: c.place,
			repair: true, revision: revision, result: result,
		}, time.Now())
	}
}

// known returns the highest revision of the instance that Berth has told.
func (o *outbox) known(l *ledger) int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return l.revision
}

// done returns the highest number that was answered with a result since the instance was linked last.
func (o *outbox) done(l *ledger) int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return l.lastDone
}

// repair queues the answered calls of the instance above a revision once more, under their numbers and in their places: next sends
// nothing newer before them. It returns them, and whether some are not there any more.
func (o *outbox) repair(l *ledger, above int64) (calls []*call, forgotten bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if l.closed {
		return nil, false
	}
	calls, forgotten = l.kept.take(above)
	o.calls = append(o.calls, calls...)
	slices.SortStableFunc(o.calls, byNumber)
	wake(o.wakeWriter)
	return calls, forgotten
}

// repaired deals with the answer to a repeat, whose caller has gone long ago.
func (o *outbox) repaired(c *call, e *linkv1.Error) {
	refused := errorOf(e)
	o.mu.Lock()
	if refused.temporary() {
		o.repeatLater(c, refused)
		o.mu.Unlock()
		return
	}
	o.drop(c)
	o.mu.Unlock()
	if e != nil && refused.Reason != reasonTooOld { // too old is what the store has not lost
		c.of.log.Warn("a call that the store has lost was refused when it was made again",
			"method", c.method, "number", c.id, "reason", refused.Reason, "message", refused.Message)
	}
}

// repair makes again what the store has lost of this server's writes. What they mean is taken over at once, so that the game does not
// see its own writes undone; but not where it depends on a revision that is gone.
func (s *Server) repair(snapshot int64) {
	above := snapshot
	if above >= s.host.outbox.known(s.ledger) {
		above = -1 // something was written since, and the revision does not tell what was lost: Berth knows by the numbers
	}
	calls, forgotten := s.host.outbox.repair(s.ledger, above)
	s.log.Warn("the store has lost writes; this server's are made again", "revision", snapshot, "calls", len(calls))
	if forgotten {
		s.log.Warn("the store has lost more writes than are kept here")
	}
	for _, c := range calls {
		if !c.conditional {
			_, _ = c.apply(c.result) // it could be read when it came
		}
	}
}
