package instance

import (
	"fmt"
	"slices"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
)

func (c Create) decide(t *turn) error {
	if t.Before != nil {
		return errs.New(errs.RequestIDReused, "request_id: an instance was created with it already")
	}
	t.After = &Instance{
		Namespace: c.Namespace, ID: c.ID, State: Pending, Settings: c.Settings, Placement: c.Placement, Labels: c.Labels,
		Timeouts: c.Timeouts, OnLoss: c.OnLoss, CreateTime: t.now, Players: map[string]Player{}, Deadlines: map[DeadlineKind]time.Time{}, CreateDigest: c.Digest, Traceparent: c.Traceparent,
	}
	t.i = t.After
	t.setGameData(c.GameData)
	for _, p := range c.Players {
		if err := t.addPlayer(p); err != nil {
			return err
		}
	}
	t.arm(DeadlineLifetime, c.Timeouts.Lifetime)
	t.record("created", "build %s, %d players", c.Placement.Build, len(c.Players))
	if !c.SkipAllocation || c.ServerID != "" {
		t.newAttempt(c.ServerID)
	}
	if c.Link != nil {
		return c.Link.decide(t)
	}
	return nil
}

func (c Allocate) decide(t *turn) error {
	if t.i.State != Pending {
		return errs.New(errs.StateNotAllowed, "the instance is %s; a server can be asked for while it is PENDING", t.i.State)
	}
	if err := t.mayAttempt(c.ServerID); err != nil {
		return err
	}
	t.newAttempt(c.ServerID)
	return nil
}

// mayAttempt refuses a server that the instance cannot ask for.
func (t *turn) mayAttempt(serverID string) error {
	if len(t.i.Attempts) >= ids.MaxAttempts {
		return errs.New(errs.LimitExceeded, "the instance has had %d servers, and may not have more", ids.MaxAttempts)
	}
	if serverID == "" && t.i.Placement.Build == "" {
		return errs.New(errs.StateNotAllowed, "the instance has no build that a provider could start; name a registered server (server_id)")
	}
	return nil
}

func (c Replace) decide(t *turn) error {
	if err := t.live(); err != nil {
		return err
	}
	if t.i.State == Pending {
		return errs.New(errs.StateNotAllowed, "the instance is PENDING: it has no server to replace; ask for one")
	}
	if err := t.mayAttempt(c.ServerID); err != nil {
		return err
	}
	message := c.Message
	if message == "" {
		message = "replaced on request"
	}
	t.withdraw(message)
	t.record("server_replaced", "%s", message)
	t.newAttempt(c.ServerID)
	return nil
}

func (c Move) decide(t *turn) error {
	a := t.i.attempt(c.AttemptID)
	if a == nil || a.Fate == Abandoned || t.i.State.Final() {
		return nil
	}
	if err := t.mayAttempt(""); err != nil {
		return err
	}
	t.withdraw(c.Message)
	t.record("server_replaced", "%s", c.Message)
	t.newAttempt("")
	return nil
}

func (c Unlink) decide(t *turn) error {
	if err := t.linked(c.Server); err != nil {
		return err
	}
	t.withdraw(c.Message)
	t.Events = nil // it knows
	t.record("unlinked", "%s", c.Message)
	if t.i.OnLoss == OnLossReplace && t.mayAttempt("") == nil {
		t.newAttempt("")
	}
	return nil
}

func (c CallAnswered) decide(t *turn) error {
	if t.answered(c.Kind, c.AttemptID) {
		t.changed = true
	}
	return nil
}

func (c CallFailed) decide(t *turn) error {
	for n := range t.i.Outbox {
		if call := &t.i.Outbox[n]; call.Kind == c.Kind && call.AttemptID == c.AttemptID {
			call.Tries++
			call.Due = t.now.Add(c.Retry)
			t.changed = true
		}
	}
	if a := t.i.attempt(c.AttemptID); a != nil && c.Message != "" {
		a.Message = c.Message
	}
	return nil
}

func (c ReportAllocated) decide(t *turn) error {
	a := t.i.attempt(c.AttemptID)
	if a == nil || a.Fate == Abandoned {
		return nil
	}
	if a.Registered { // its room is the answer that the call waits for
		t.changed = t.answered(CallAllocate, a.ID)
	}
	if !a.AllocateTime.IsZero() { // told again; some hosts know the addresses only later
		if len(t.i.Endpoints) == 0 && len(c.Endpoints) > 0 && !t.i.State.Final() {
			t.i.Endpoints = c.Endpoints
			t.record("endpoints_known", "%d endpoints", len(c.Endpoints))
		}
		return nil
	}
	if c.ServerID != "" && !a.Registered && a.Fate == Open {
		a.ServerID = c.ServerID
	}
	a.Provider, a.Region, a.AllocateTime = c.Provider, c.Region, t.now
	// A server that linked before the provider answered may have named better addresses already.
	if len(t.i.Endpoints) == 0 {
		t.i.Endpoints = c.Endpoints
	}
	if t.i.State == Allocating {
		t.i.State = Allocated
		t.disarm(DeadlineAllocation)
		t.arm(DeadlineLink, t.i.Timeouts.Link)
	}
	switch {
	case a.Registered:
		t.record("allocated", "room on the registered server %s", a.ServerID)
	case a.Pooled():
		t.record("allocated", "by provider %s in region %s, room on server %s of a pool", c.Provider, c.Region, a.ServerID)
	default:
		t.record("allocated", "by provider %s in region %s", c.Provider, c.Region)
		return nil
	}
	if a.Fate == Open { // nobody starts it with the instance's id, so it has to be told
		t.call(CallAssign, a.ID)
	}
	return nil
}

func (c ReportFailed) decide(t *turn) error {
	a := t.i.attempt(c.AttemptID)
	if a == nil || a.Fate != Open || t.i.State.Final() {
		t.changed = t.answered(CallAllocate, c.AttemptID) // there is nothing to repeat
		return nil
	}
	if c.Provider != "" {
		a.Provider, a.Region, a.Failure, a.Message = c.Provider, c.Region, c.Failure, c.Message
	}
	if c.Elsewhere && t.mayAttempt("") == nil {
		t.withdraw(c.Message)
		t.record("attempt_failed", "attempt %s: %s", c.AttemptID, c.Message)
		t.newAttempt("")
		return nil
	}
	t.terminate(AllocationFailed, "no server: %s", c.Message)
	return nil
}

func (c ReportExited) decide(t *turn) error {
	a := t.i.attempt(c.AttemptID)
	if a == nil || a.Fate == Abandoned || t.i.State.Final() {
		return nil
	}
	if l := t.i.Link; c.Missing && a.Fate == Accepted && l != nil && l.ServerID == a.ServerID && l.Connected {
		t.record("server_missing", "the game server is connected, and stays: %s", c.Message)
		return nil // when its connection is lost, it has the grace that any other server has
	}
	t.loseServer(ServerExited, "the game server ended before the game did: %s", c.Message)
	return nil
}

func (c ReportReleased) decide(t *turn) error {
	a := t.i.attempt(c.AttemptID)
	if a == nil || !a.ReleaseTime.IsZero() {
		return nil
	}
	a.ReleaseTime = t.now
	t.answered(CallRelease, c.AttemptID)
	if !t.i.State.Final() && a.Fate != Abandoned { // nobody here asked for it
		t.loseServer(ServerExited, "the game server is gone: its allocation was released")
		return nil
	}
	t.record("released", "the server of attempt %s is gone", c.AttemptID)
	return nil
}

func (c LinkServer) decide(t *turn) error {
	if err := t.assigned(c.Server.ServerID); err != nil {
		return err
	}
	if err := t.live(); err != nil {
		return err
	}
	if t.i.State == Pending {
		return errs.New(errs.StateNotAllowed, "the instance is PENDING: no server was asked for")
	}
	if l := t.i.Link; l != nil && l.Connected && l.SessionEpoch == c.SessionEpoch {
		t.relink() // through this very socket already
		return nil
	}
	if err := t.newest(c.Server.ServerID, c.SessionEpoch); err != nil {
		return err
	}
	t.i.Link = &Link{ServerID: c.Server.ServerID, SessionEpoch: c.SessionEpoch, GatewayID: c.GatewayID, Epoch: t.nextLinkEpoch(), Connected: true, LinkTime: t.now, ChangeTime: t.now, Floor: t.i.LastOffset}
	t.ClearMailbox = true
	if len(c.Endpoints) > 0 {
		t.i.Endpoints = c.Endpoints
	}
	t.disarm(DeadlineAllocation, DeadlineLink, DeadlineDisconnect)
	t.answered(CallAssign, t.i.Attempt().ID)
	if t.i.State != Running {
		t.i.Attempt().Fate = Accepted
		if t.i.State != Linked {
			t.arm(DeadlineConnectPlayers, t.i.Timeouts.ConnectPlayers)
		}
		t.i.State = Linked
	}
	t.record("linked", "server %s %s", c.Server.ServerID, c.ServerVersion)
	return nil
}

// relink begins a link anew that stands, for the start data that is asked for again: what waits of notifications is in it, and messages come behind it.
func (t *turn) relink() {
	if t.i.MailCount > 0 {
		t.i.Link.Floor, t.ClearMailbox, t.changed = t.i.LastOffset, true, true
	}
}

func (c AttachSession) decide(t *turn) error {
	if err := t.assigned(c.ServerID); err != nil {
		return err
	}
	l := t.i.Link
	if c.LinkEpoch > t.i.LastLinkEpoch || c.LastOffset > t.i.LastOffset || c.Revision > t.i.told() || t.forgot(c.Session, c.LastRequest) {
		return t.rolledBack(c)
	}
	// The answer to an earlier attach may have been lost, so an older epoch is as good as the newest; but a server that does not know what was
	// before the newest link's start data needs that data.
	if l == nil || l.ServerID != c.ServerID || c.LinkEpoch > l.Epoch || c.LastOffset < l.Floor {
		return errs.New(errs.StaleLinkEpoch, "link_epoch: %d is not this instance's link; link again", c.LinkEpoch)
	}
	if err := t.newest(c.ServerID, c.SessionEpoch); err != nil {
		return err
	}
	l.SessionEpoch, l.GatewayID, l.Epoch, l.Connected, l.ChangeTime = c.SessionEpoch, c.GatewayID, t.nextLinkEpoch(), true, t.now
	t.disarm(DeadlineDisconnect)
	t.record("reconnected", "server %s", c.ServerID)
	return nil
}

// newest refuses a socket of the linked server that is older than the one it is linked through: what was asked over it has come late.
func (t *turn) newest(serverID string, sessionEpoch int64) error {
	if l := t.i.Link; l != nil && l.ServerID == serverID && sessionEpoch < l.SessionEpoch {
		return errs.New(errs.StaleLinkEpoch, "the server has a newer socket than this one")
	}
	return nil
}

// rolledBack notes that a server knows of more than the store does: the store has lost writes. No number that the server knows is used again, and
// the server, which is not attached, has to link and so gets the state as it is now. A repeat of this is stale, not rolled back again.
func (t *turn) rolledBack(c AttachSession) error {
	t.record("state_rolled_back", "server %s knows of revision %d, offset %d, link %d and request %d; the store knew of %d, %d, %d and %d",
		c.ServerID, c.Revision, c.LastOffset, c.LinkEpoch, c.LastRequest, t.i.told(), t.i.LastOffset, t.i.LastLinkEpoch, t.i.LastRequest)
	t.RevisionFloor = c.Revision
	t.i.LastOffset = max(t.i.LastOffset, c.LastOffset)
	t.i.LastLinkEpoch = max(t.i.LastLinkEpoch, c.LinkEpoch)
	if l := t.i.Link; l != nil {
		l.Floor = t.i.LastOffset + 1
	}
	return nil
}

// nextLinkEpoch returns a number above every earlier one, also after a store that lost its last writes.
func (t *turn) nextLinkEpoch() int64 {
	t.i.LastLinkEpoch = max(t.now.UnixMicro(), t.i.LastLinkEpoch+1)
	return t.i.LastLinkEpoch
}

func (c LoseSession) decide(t *turn) error {
	if l := t.i.Link; l != nil && l.ServerID == c.ServerID && l.SessionEpoch == c.SessionEpoch {
		t.disconnect()
	}
	return nil // otherwise it has another socket by now
}

func (c LoseGateway) decide(t *turn) error {
	if l := t.i.Link; l != nil && l.GatewayID == c.GatewayID {
		t.disconnect()
	}
	return nil
}

func (t *turn) disconnect() {
	l := t.i.Link
	if !l.Connected {
		return
	}
	l.Connected, l.ChangeTime = false, t.now
	if !t.i.State.Final() {
		t.arm(DeadlineDisconnect, t.i.Timeouts.DisconnectGrace)
	}
	t.record("disconnected", "server %s", l.ServerID)
}

func (c ConnectPlayers) decide(t *turn) error {
	if err := t.linked(c.Server); err != nil {
		return err
	}
	which := c.IDs
	if len(which) == 0 {
		for id := range t.i.Players {
			which = append(which, id)
		}
		slices.Sort(which)
	}
	opened := 0
	for _, id := range which {
		p, ok := t.i.Players[id]
		if !ok {
			return unknownPlayer(id)
		}
		if !p.Connectable {
			p.Connectable = true
			t.setPlayer(p)
			opened++
		}
	}
	if t.i.State == Linked {
		t.i.State = Running
		t.i.StartTime = t.now
		t.disarm(DeadlineConnectPlayers)
		t.record("running", "open to %d players", opened)
	} else if opened > 0 {
		t.record("players_connectable", "open to %d more players", opened)
	}
	return nil
}

func (c AddPlayers) decide(t *turn) error {
	if err := t.open(c.Server); err != nil {
		return err
	}
	added := make([]Player, 0, len(c.Players))
	for _, p := range c.Players {
		if err := t.addPlayer(p); err != nil {
			return err
		}
		added = append(added, t.i.Players[p.ID])
	}
	if c.Server.ServerID == "" {
		t.tell(Event{PlayersAdded: added})
	}
	t.record("players_added", "%d players", len(c.Players))
	return nil
}

func (t *turn) addPlayer(p Player) error {
	if _, ok := t.i.Players[p.ID]; ok {
		return errs.New(errs.PlayerExists, "players: %q is in the instance already", p.ID)
	}
	if t.i.PlayerCount >= MaxPlayers {
		return errs.New(errs.LimitExceeded, "players: an instance has at most %d", MaxPlayers)
	}
	p.AddTime, p.Connectable, p.Presence = t.now, false, PresenceUnknown
	t.setPlayer(p)
	return nil
}

func (t *turn) setPlayer(p Player) {
	old, ok := t.i.Players[p.ID]
	if !ok {
		t.i.PlayerCount++
	}
	t.i.PlayersBytes += p.Data.Size - old.Data.Size
	t.i.Players[p.ID] = p
	t.players[p.ID] = true
}

func (t *turn) dropPlayer(p Player) {
	t.i.PlayerCount--
	t.i.PlayersBytes -= p.Data.Size
	delete(t.i.Players, p.ID)
	t.players[p.ID] = true
}

func unknownPlayer(id string) error {
	return errs.New(errs.PlayerUnknown, "player %q is not in the instance", id)
}

func (c RemovePlayers) decide(t *turn) error {
	if err := t.open(c.Server); err != nil {
		return err
	}
	for _, id := range c.IDs {
		p, ok := t.i.Players[id]
		if !ok {
			return unknownPlayer(id)
		}
		t.dropPlayer(p)
	}
	if c.Server.ServerID == "" {
		t.tell(Event{PlayersRemoved: c.IDs})
	}
	t.record("players_removed", "%d players", len(c.IDs))
	return nil
}

func (c UpdatePlayers) decide(t *turn) error {
	if err := t.open(c.Server); err != nil {
		return err
	}
	if err := t.expects(c.Expected); err != nil {
		return err
	}
	updated := make([]Player, 0, len(c.Updates))
	for n, u := range c.Updates {
		p, ok := t.i.Players[u.ID]
		if !ok {
			return unknownPlayer(u.ID)
		}
		data, err := u.Data.apply(fmt.Sprintf("players[%d].data", n), p.Data)
		if err != nil {
			return err
		}
		p.Data = data
		if u.Presence != PresenceUnknown {
			p.Presence = u.Presence
		}
		t.setPlayer(p)
		updated = append(updated, p)
	}
	if c.Server.ServerID == "" {
		t.tell(Event{PlayersUpdated: updated})
	}
	t.recordUpdate("players_updated", "%d players", len(updated))
	return nil
}

func (c UpdateGameData) decide(t *turn) error {
	if err := t.open(c.Server); err != nil {
		return err
	}
	if err := t.expects(c.Expected); err != nil {
		return err
	}
	data, err := c.Data.apply("game_data", t.i.GameData)
	if err != nil {
		return err
	}
	if c.Data.Set { // what was there is loaded only for a merge
		t.setGameData(data)
	}
	if c.Server.ServerID == "" {
		t.tell(Event{GameDataUpdated: &data})
	}
	t.recordUpdate("game_data_updated", "")
	return nil
}

func (c End) decide(t *turn) error {
	if t.i.State == Ended && t.i.Link != nil && t.i.Link.ServerID == c.Server.ServerID {
		return nil // the stored result stands
	}
	if err := t.linked(c.Server); err != nil {
		return err
	}
	t.i.Result = c.Result
	t.finish(Ended)
	t.record("ended", "")
	return nil
}

func (c Terminate) decide(t *turn) error {
	if t.i.State.Final() {
		return nil
	}
	message := c.Message
	if message == "" {
		message = "terminated on request"
	}
	t.terminate(Requested, "%s", message)
	return nil
}

// open checks that the instance is not over, and that a calling server may speak for it.
func (t *turn) open(c Caller) error {
	if err := t.speaks(c); err != nil {
		return err
	}
	return t.live()
}

// linked is open for what only a linked server can do.
func (t *turn) linked(c Caller) error {
	if err := t.open(c); err != nil {
		return err
	}
	if t.i.State != Linked && t.i.State != Running {
		return errs.New(errs.StateNotAllowed, "the instance is %s; this needs LINKED or RUNNING", t.i.State)
	}
	return nil
}
