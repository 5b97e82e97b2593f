package instance

import "time"

// Expire does what the deadlines that have passed ask for, or puts them off.
type Expire struct {
	// At is when somebody looked at the timers and knew whether time had passed in which Berth could not have heard a server: deadlines that passed
	// later wait for the next look. The zero time is now.
	At time.Time
	// Hold is until when no server is given up for its silence; the zero time if nothing is held.
	Hold time.Time
	// LossLimit is set while unusually many links are lost at once: a server that was lost less than this ago has its grace once more.
	LossLimit time.Duration
	// Held is set by each decision to the number of deadlines that it put off, unless it is nil.
	Held *int
}

// The causes for which deadlines are held, as they stand in the history.
const (
	heldForGap      = "no sweep ran for a while, so that Berth may not have heard the server"
	heldForMassLoss = "unusually many servers were lost at once"
)

func (c Expire) decide(t *turn) error {
	if c.At.IsZero() {
		c.At = t.now
	}
	due := func(k DeadlineKind) bool {
		deadline, ok := t.i.Deadlines[k]
		return ok && !deadline.After(c.At)
	}
	held := 0
	hold := func(k DeadlineKind, until time.Time, why string) {
		t.i.Deadlines[k] = until
		t.record("deadline_held", "%s, until %s: %s", k, until.UTC().Format(time.RFC3339), why)
		held++
	}
	// A retention is no judgement about a server.
	for k := DeadlineAllocation; k < DeadlineRetention && c.Hold.After(c.At); k++ {
		if due(k) {
			hold(k, c.Hold, heldForGap)
		}
	}
	switch {
	case due(DeadlineRetention) && len(t.i.Outbox) > 0:
		// The server is not given back yet: deleting the instance would forget it.
		t.arm(DeadlineRetention, outboxRetry)
		t.changed = true
	case due(DeadlineRetention):
		t.Delete, t.changed = true, true
	case due(DeadlineLifetime):
		t.terminate(LifetimeExceeded, "lived longer than its lifetime of %s", t.i.Timeouts.Lifetime)
	case due(DeadlineAllocation):
		t.terminate(AllocationTimeout, "no provider named a server within %s%s", t.i.Timeouts.Allocation, t.i.Attempt().words())
	case due(DeadlineLink):
		t.loseServer(LinkTimeout, "the server did not link within %s", t.i.Timeouts.Link)
	case due(DeadlineConnectPlayers):
		t.loseServer(ConnectTimeout, "the server did not open to players within %s", t.i.Timeouts.ConnectPlayers)
	case due(DeadlineDisconnect) && t.i.Link != nil && c.At.Sub(t.i.Link.ChangeTime) < c.LossLimit:
		hold(DeadlineDisconnect, t.now.Add(t.i.Timeouts.DisconnectGrace), heldForMassLoss)
	case due(DeadlineDisconnect):
		t.loseServer(ServerLost, "the server was disconnected for longer than %s", t.i.Timeouts.DisconnectGrace)
	}
	if c.Held != nil {
		*c.Held = held
	}
	return nil
}

var deadlineNames = [...]string{"", "allocation", "link", "connect players", "disconnect", "lifetime", "retention"}

// String returns the name that stands in the history.
func (k DeadlineKind) String() string {
	if k < 0 || int(k) >= len(deadlineNames) {
		return "unknown"
	}
	return deadlineNames[k]
}
