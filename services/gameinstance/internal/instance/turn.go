package instance

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
)

// Change is what a command comes to: the instance after it, and what has to be stored and told besides.
type Change struct {
	// Before is the instance that was decided upon; nil for a create.
	Before *Instance
	// After is the instance with the change.
	After *Instance
	// History is what happened.
	History []HistoryEntry
	// Events are for the server's mailbox, in order.
	Events []Event
	// Said are messages to the instance's backends, in order.
	Said []Said
	// ClearMailbox drops the notifications that the mailbox held: a fresh link begins with a snapshot. Messages are no part of that, and get new
	// offsets behind it.
	ClearMailbox bool
	// DropNotifications drops the notifications only; messages, and last words, stay where they are.
	DropNotifications bool
	// Delete removes the instance.
	Delete bool
	// RevisionFloor is the highest revision that anybody was told of, where the store has lost it.
	RevisionFloor int64

	players  map[string]bool // ids of players that were added, changed or removed
	gameData bool
	changed  bool
}

// Empty reports whether there is nothing to store.
func (c *Change) Empty() bool { return !c.changed }

// TouchedPlayers returns the ids of the players that were added, changed or removed.
func (c *Change) TouchedPlayers() map[string]bool { return c.players }

// TouchedGameData reports whether the custom data was changed.
func (c *Change) TouchedGameData() bool { return c.gameData }

// then adds a change that was decided upon the outcome of this one.
func (c *Change) then(next *Change) {
	if next.ClearMailbox {
		c.ClearMailbox, c.Events = true, slices.DeleteFunc(c.Events, func(e Event) bool { return e.Message == nil })
	}
	if next.DropNotifications {
		c.DropNotifications, c.Events = true, slices.DeleteFunc(c.Events, func(e Event) bool { return e.Message == nil && !e.last() })
	}
	c.After = next.After
	c.History = append(c.History, next.History...)
	for _, e := range next.Events {
		if e.Resync != nil && e.Resync.Revision == undecided {
			e.Resync.Revision = c.Before.Revision
		}
		c.Events = append(c.Events, e)
	}
	c.Said = append(c.Said, next.Said...)
	c.Delete = c.Delete || next.Delete
	c.RevisionFloor = max(c.RevisionFloor, next.RevisionFloor)
	maps.Copy(c.players, next.players)
	c.gameData = c.gameData || next.gameData
	c.changed = c.changed || next.changed
}

// Event is something that the server is told. Exactly one field is set.
type Event struct {
	PlayersAdded    []Player
	PlayersRemoved  []string
	PlayersUpdated  []Player
	GameDataUpdated *Data
	Terminated      *Termination
	Superseded      *Supersession
	Message         *Message
	Resync          *Resync
}

// last reports whether nothing follows for the server.
func (e Event) last() bool { return e.Terminated != nil || e.Superseded != nil }

// Resync stands for changes of the instance that found no room in the mailbox.
type Resync struct {
	// Revision that the instance had before.
	Revision int64
}

// Supersession says why an instance was taken from its server.
type Supersession struct{ Message string }

// Bytes returns how much of a game's data the event carries.
func (e Event) Bytes() int {
	sum := 0
	for _, players := range [][]Player{e.PlayersAdded, e.PlayersUpdated} {
		for _, p := range players {
			sum += p.Data.Size
		}
	}
	if e.GameDataUpdated != nil {
		sum += e.GameDataUpdated.Size
	}
	if e.Message != nil {
		sum += e.Message.Data.Size
	}
	return sum
}

// Termination says why an instance was terminated.
type Termination struct {
	Reason  Reason
	Message string
}

// size bounds what the event takes in the mailbox: its data, and a little for everything else.
func (e Event) size() int {
	return e.Bytes() + 256*(1+len(e.PlayersAdded)+len(e.PlayersRemoved)+len(e.PlayersUpdated))
}

// MaxPlayers is how many players an instance can have.
const MaxPlayers = 1000

// MaxMail and MaxMailBytes are how many notifications and messages may wait for a server's acknowledgement, and how large they may be together. One
// always fits, and so does the last word to a server. Notifications that do not fit are one Resync from then on.
const (
	MaxMail      = 1000
	MaxMailBytes = 8 << 20
)

// outboxRetry is when a sweeper takes over a call whose first try, right after the commit, was not answered.
const outboxRetry = 2 * time.Second

// Decide returns what a command comes to, at a time of the store's clock. It is pure: the instance is not changed. inst is nil where
// there is none, which only Create accepts.
func Decide(inst *Instance, cmd Command, actor string, now time.Time) (*Change, error) {
	t := &turn{Change: &Change{Before: inst, players: map[string]bool{}}, now: now, actor: actor}
	if inst != nil {
		t.After = inst.clone()
		t.i = t.After
	}
	if err := cmd.decide(t); err != nil {
		return nil, err
	}
	if err := t.legal(); err != nil {
		return nil, err
	}
	if err := t.fits(); err != nil {
		return nil, err
	}
	if err := t.post(); err != nil {
		return nil, err
	}
	if t.changed {
		t.i.UpdateTime = now
	}
	return t.Change, nil
}

// MaxBytes is how much data an instance can have: its own, its result and its players'. An instance, and each event about it, fits into one message.
const MaxBytes = 4 << 20

// fits refuses a change that makes an instance too large; one that was is free to shrink.
func (t *turn) fits() error {
	now := t.i.gameBytes()
	if now > MaxBytes && (t.Before == nil || now > t.Before.gameBytes()) {
		return errs.New(errs.LimitExceeded, "the data of an instance, its players included, may have %d bytes; this would make %d", MaxBytes, now)
	}
	return nil
}

// post counts the change's events into the mailbox. It refuses a message that does not fit; notifications that do not, and those that wait, become
// one Resync.
func (t *turn) post() error {
	if t.ClearMailbox || t.DropNotifications {
		t.i.MailCount, t.i.MailBytes = 0, 0 // the store counts the messages that stay
	}
	waiting, message := t.i.MailCount, false
	for _, e := range t.Events {
		t.i.MailCount++
		t.i.MailBytes += e.size()
		if e.last() {
			return nil
		}
		message = message || e.Message != nil
	}
	switch {
	case len(t.Events) == 0 || t.i.MailCount <= MaxMail && (waiting == 0 || t.i.MailBytes <= MaxMailBytes):
		return nil
	case message:
		return errs.New(errs.MailboxFull, "the game server has %d notifications and messages, or %d bytes of them, to deal with; try again later", MaxMail, MaxMailBytes).Retry(time.Second)
	}
	t.resync()
	return nil
}

// resync puts one notification into the place of all that wait and those of this change: a server that gets it asks for the instance as it is.
func (t *turn) resync() {
	t.DropNotifications = true
	t.Events = []Event{{Resync: &Resync{Revision: t.Before.Revision}}}
	t.i.MailCount, t.i.MailBytes = 1, t.Events[0].size()
}

// turn is one decision in the making.
type turn struct {
	*Change
	i     *Instance // After
	now   time.Time
	actor string
}

// record notes what happened. The state before it is the one that the entry before it led to, or the one that was decided upon.
func (t *turn) record(event, format string, args ...any) {
	from := State(0)
	switch {
	case len(t.History) > 0:
		from = t.History[len(t.History)-1].To
	case t.Before != nil:
		from = t.Before.State
	}
	t.changed = true
	t.History = append(t.History, HistoryEntry{
		Time: t.now, Event: event, From: from, To: t.i.State, Actor: t.actor, Detail: fmt.Sprintf(format, args...), Count: 1, FirstTime: t.now,
	})
}

// recordUpdate notes an update of data. Games make many of them: those in a row are folded into one entry.
func (t *turn) recordUpdate(event, format string, args ...any) {
	t.record(event, format, args...)
	t.History[len(t.History)-1].Fold = true
}

// tell puts an event into the mailbox of a linked server. A server that links later finds it in its snapshot.
func (t *turn) tell(e Event) {
	if t.i.Link != nil {
		t.Events = append(t.Events, e)
	}
}

func (t *turn) arm(kind DeadlineKind, after time.Duration) {
	if after > 0 {
		t.i.Deadlines[kind] = t.now.Add(after)
	}
}

func (t *turn) disarm(kinds ...DeadlineKind) {
	for _, k := range kinds {
		delete(t.i.Deadlines, k)
	}
}

// live refuses instances that are over.
func (t *turn) live() error {
	if t.i.State.Final() {
		return errs.New(errs.StateNotAllowed, "the instance is %s; nothing can change it any more", t.i.State)
	}
	return nil
}

// speaks checks that a calling server is the one that is linked, through the link that it believes to have.
func (t *turn) speaks(c Caller) error {
	if c.ServerID == "" {
		return nil
	}
	if err := t.assigned(c.ServerID); err != nil {
		return err
	}
	if c.LinkEpoch > t.i.LastLinkEpoch || t.forgot(c.Session, c.LastRequest) {
		return errs.New(errs.StateRolledBack, "the store knows less of this instance than the server does: it has lost writes; link again")
	}
	if t.i.Link == nil || t.i.Link.ServerID != c.ServerID {
		return errs.New(errs.StateNotAllowed, "the instance is %s: link first", t.i.State)
	}
	if (c.OverLink || c.LinkEpoch != 0) && c.LinkEpoch != t.i.Link.Epoch {
		return errs.New(errs.StaleLinkEpoch, "link_epoch: %d is not this link's; send the request again on the newest socket with its epoch", c.LinkEpoch)
	}
	return nil
}

// forgot reports whether the store has lost a request that a server knows to be committed. That shows whatever was written since. What is over keeps
// no further requests.
func (t *turn) forgot(session string, request int64) bool {
	return request > 0 && !t.i.State.Final() && (session != t.i.LastSession || request > t.i.LastRequest)
}

// assigned checks that a server is the one that the instance waits for or has. A registered server may have had it before, too.
func (t *turn) assigned(serverID string) error {
	if t.i.Waits(serverID) {
		return nil
	}
	for _, a := range t.i.Attempts {
		if a.ServerID == serverID {
			return errs.New(errs.Superseded, "this server was given up or replaced; do not reconnect")
		}
	}
	return errs.New(errs.NotAssigned, "this game server is not assigned to this instance")
}

// expects checks that the instance is at the revision that a caller has decided upon.
func (t *turn) expects(revision int64) error {
	if revision != 0 && t.Before.Revision != revision {
		return errs.New(errs.RevisionMismatch, "expected_revision: the instance is not at %d any more", revision)
	}
	return nil
}

// setGameData changes the custom data.
func (t *turn) setGameData(d Data) {
	t.i.GameData, t.i.GameDataBytes, t.gameData = d, d.Size, true
}

// loseServer does what the instance's policy asks for when its server is lost: another server, or the end.
func (t *turn) loseServer(reason Reason, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if t.i.OnLoss != OnLossReplace || t.mayAttempt("") != nil {
		t.terminate(reason, "%s", message)
		return
	}
	t.withdraw(message)
	t.record("server_lost", "%s", message)
	t.newAttempt("")
}

// withdraw takes the instance from its server, which is given back, and returns it to PENDING with players and data. The server is told, if it can be
// reached: when it comes back it is refused.
func (t *turn) withdraw(message string) {
	if a := t.i.Attempt(); a != nil {
		a.Fate = Abandoned
		t.callOff(a.ID)
		if a.ReleaseTime.IsZero() {
			t.call(CallRelease, a.ID)
		}
	}
	t.DropNotifications = true
	t.tell(Event{Superseded: &Supersession{Message: message}})
	t.i.Link, t.i.Endpoints = nil, nil
	for id, p := range t.i.Players {
		if p.Connectable || p.Presence != PresenceUnknown {
			p.Connectable, p.Presence = false, PresenceUnknown
			t.i.Players[id] = p
			t.players[id] = true
		}
	}
	t.disarm(DeadlineAllocation, DeadlineLink, DeadlineConnectPlayers, DeadlineDisconnect)
	t.i.State = Pending
}

// newAttempt asks for a server: the registered one with this id or, if it is empty, any that a provider starts.
func (t *turn) newAttempt(serverID string) {
	id := ids.Attempt(t.i.ID, len(t.i.Attempts)+1)
	a := Attempt{ID: id, ServerID: ids.Server(id), Fate: Open, CreateTime: t.now}
	if serverID != "" {
		a.ServerID, a.Registered = serverID, true
	}
	t.i.Attempts = append(t.i.Attempts, a)
	t.i.State = Allocating
	t.call(CallAllocate, id)
	t.arm(DeadlineAllocation, t.i.Timeouts.Allocation)
	if serverID != "" {
		t.record("allocating", "attempt %s, on the registered server %s", id, serverID)
		return
	}
	t.record("allocating", "attempt %s", id)
}

// call puts a call into the outbox, in the place of any other for the attempt. The first try follows the commit at once.
func (t *turn) call(kind CallKind, attemptID string) {
	t.callOff(attemptID)
	t.i.Outbox = append(t.i.Outbox, Call{Kind: kind, AttemptID: attemptID, Due: t.now.Add(outboxRetry)})
}

// callOff takes all calls for an attempt out of the outbox.
func (t *turn) callOff(attemptID string) {
	t.i.Outbox = slices.DeleteFunc(t.i.Outbox, func(c Call) bool { return c.AttemptID == attemptID })
}

// answered takes a call out of the outbox.
func (t *turn) answered(kind CallKind, attemptID string) bool {
	for n, c := range t.i.Outbox {
		if c.Kind == kind && c.AttemptID == attemptID {
			t.i.Outbox = append(t.i.Outbox[:n], t.i.Outbox[n+1:]...)
			return true
		}
	}
	return false
}

// finish ends the life: deadlines go, the newest attempt's server is given back, and the retention begins.
func (t *turn) finish(s State) {
	t.i.State = s
	t.i.EndTime = t.now
	clear(t.i.Deadlines)
	if t.i.Timeouts.Retention > 0 {
		t.i.ExpireTime = t.now.Add(t.i.Timeouts.Retention)
		t.i.Deadlines[DeadlineRetention] = t.i.ExpireTime
	}
	a := t.i.Attempt()
	if a == nil {
		return
	}
	t.callOff(a.ID)
	if a.Fate == Open {
		a.Fate = Abandoned
	}
	if a.ReleaseTime.IsZero() {
		t.call(CallRelease, a.ID)
	}
}

// terminate ends the life without a result.
func (t *turn) terminate(reason Reason, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	t.i.Reason, t.i.Message = reason, message
	t.tell(Event{Terminated: &Termination{Reason: reason, Message: message}})
	t.finish(Terminated)
	t.record("terminated", "%s", message)
}
