// Package storm hurts a running Berth while many linked game servers and their backends talk through it, and counts at both ends: what a backend was told is done
// has to reach the server, once and in order; what a server was told is done has to be done, once; and no match may end because of it.
package storm

import (
	"fmt"
	"sync"
)

// Ledger is what both ends have counted of one instance. Its backend writes notes, numbered from 1, each of which its server is notified of; its server makes
// requests, numbered from 1: odd ones add a player, even ones remove that player again, so that one that is done twice is either refused or recorded. A number
// is only used once the one before it was answered with success. The backend's durable messages are numbered, too; no start data has them. So are
// the durable reports that the server sends to its backend: one may come to it more than once, with the same offset. It is safe for concurrent use.
type Ledger struct {
	// Name is for reports.
	Name string

	mu        sync.Mutex
	written   int64 // the newest note that Berth has accepted
	seen      int64 // the newest note that the server knows of
	events    int64 // notes that it has heard of by a notification
	snapshots int64 // and in start data, when it was linked anew
	relinks   int64
	asked     int64 // the newest request that was answered with success
	said      int64 // the newest message that Berth has accepted
	told      int64 // the newest message that the server has received
	reported  int64 // the newest report that Berth has accepted
	received  int64 // the newest report that the backend has received
	offset    int64 // and its offset
	faults    []string
}

// Stored is what Berth has of an instance in the end.
type Stored struct {
	// State is the instance's state.
	State string
	// Note is the newest note, by the instance's data.
	Note int64
	// Notes is how often the backend has written one, by the history.
	Notes int64
	// Added and Removed are how often the server has added and removed players, by the history.
	Added, Removed int64
	// Present is how many players are in the instance.
	Present int64
	// Reports is how often the server has sent a report, by the history.
	Reports int64
	// Told is the newest note in the server's own copy of the instance.
	Told int64
	// Ends are what happened to the instance that no storm may cause, by the history.
	Ends []string
}

// Written notes that Berth has accepted the backend's note.
func (l *Ledger) Written(note int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if note != l.written+1 {
		l.fault("note %d was written after %d: the test is wrong", note, l.written)
	}
	l.written = note
}

// Refused notes that Berth has not accepted a note or a message, for good.
func (l *Ledger) Refused(what string, n int64, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault("%s %d was refused: %v", what, n, why)
}

// Heard notes a notification of a note.
func (l *Ledger) Heard(note int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case note <= l.seen:
		l.fault("notification doubled: note %d came after %d", note, l.seen)
		return
	case note > l.seen+1:
		l.fault("notifications lost: note %d came after %d", note, l.seen)
	}
	l.seen = note
	l.events++
}

// Said notes that Berth has accepted the backend's message.
func (l *Ledger) Said(message int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = message
}

// Told notes that the server has received a message.
func (l *Ledger) Told(message int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case message <= l.told:
		l.fault("message doubled: %d came after %d", message, l.told)
		return
	case message > l.told+1:
		l.fault("messages lost: %d came after %d", message, l.told)
	}
	l.told = message
}

// Reported notes the answer to the server's report.
func (l *Ledger) Reported(report int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.fault("report %d was refused: %v", report, err)
		return
	}
	l.reported = report
}

// Received notes that the backend has received a report. One that comes again is known by its offset.
func (l *Ledger) Received(report, offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case offset <= l.offset:
		return
	case report <= l.received:
		l.fault("report doubled: %d came after %d, with another offset", report, l.received)
	case report > l.received+1:
		l.fault("reports lost: %d came after %d", report, l.received)
	}
	l.received, l.offset = report, offset
}

// Waiting reports whether something that Berth has accepted has not reached the other end yet.
func (l *Ledger) Waiting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen < l.written || l.told < l.said || l.received < l.reported
}

// Relinked notes start data that the server got when it was linked anew; it stands for all notifications up to its note.
func (l *Ledger) Relinked(note int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.relinks++
	if note < l.seen {
		l.fault("start data is older than what the server was told: note %d after %d", note, l.seen)
		return
	}
	l.snapshots += note - l.seen
	l.seen = note
}

// Asked notes the answer to the server's request.
func (l *Ledger) Asked(request int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.fault("request %d was refused: %v", request, err)
		return
	}
	l.asked = request
}

// Ended notes that the server's link was ended.
func (l *Ledger) Ended(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault("the link was ended: %v", why)
}

// Counts returns the newest note that was accepted, the newest that the server knows of, and the newest request that was answered.
func (l *Ledger) Counts() (written, seen, asked int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written, l.seen, l.asked
}

// Settle compares both ends with what is stored, when nothing is under way any more, and returns all that is wrong.
func (l *Ledger) Settle(s Stored) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	same := func(got, want int64, what string) {
		if got != want {
			l.fault("%s: %d, and not %d", what, got, want)
		}
	}
	if s.State != "STATE_RUNNING" {
		l.fault("the match is %s", s.State)
	}
	for _, e := range s.Ends {
		l.fault("the history has %s", e)
	}
	same(l.seen, l.written, "notes lost: the newest that the server has heard of")
	same(l.told, l.said, "messages lost: the newest that the server has received")
	same(l.received, l.reported, "reports lost: the newest that the backend has received")
	same(s.Reports, l.reported, "reports lost or sent twice: those in the history")
	same(s.Note, l.written, "notes lost in the store: the newest in the instance's data")
	same(s.Notes, l.written, "notes lost or written twice: those in the history")
	same(s.Told, l.written, "the newest note in the server's copy of the instance")
	same(s.Added, (l.asked+1)/2, "requests lost or done twice: players added, by the history")
	same(s.Removed, l.asked/2, "requests lost or done twice: players removed, by the history")
	same(s.Present, l.asked%2, "requests lost or done twice: players in the instance")
	return l.faults
}

// fault notes what is wrong; the caller holds mu.
func (l *Ledger) fault(format string, args ...any) {
	const most = 20 // one loss has many followers
	if len(l.faults) < most {
		l.faults = append(l.faults, l.Name+": "+fmt.Sprintf(format, args...))
	}
}

// Sum is the account of many ledgers.
type Sum struct{ Written, Events, Snapshots, Relinks, Asked, Told, Received int64 }

// Add adds a ledger.
func (s *Sum) Add(l *Ledger) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Written += l.written
	s.Events += l.events
	s.Snapshots += l.snapshots
	s.Relinks += l.relinks
	s.Asked += l.asked
	s.Told += l.told
	s.Received += l.received
}

// String says it in words.
func (s *Sum) String() string {
	return fmt.Sprintf("%d notes written, %d heard of by notification and %d in start data; %d messages and %d reports received; %d requests done; %d times linked anew",
		s.Written, s.Events, s.Snapshots, s.Told, s.Received, s.Asked, s.Relinks)
}
