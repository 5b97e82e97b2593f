package redisstore_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
)

// flaky is the real store behind a bad line.
type flaky struct {
	*redisstore.Store
	fault string
	// between runs once between a load and what follows it: somebody else gets in first.
	between func()
}

func (f *flaky) Load(ctx context.Context, id string, needs instance.Needs, commands []instance.CommandID) (instance.Loaded, error) {
	l, err := f.Store.Load(ctx, id, needs, commands)
	if between := f.between; between != nil {
		f.between = nil
		between()
	}
	return l, err
}

func (f *flaky) Commit(ctx context.Context, c *instance.Change, kept []instance.Kept) (instance.Committed, error) {
	fault := f.fault
	f.fault = ""
	lost := errs.New(errs.StoreUnavailable, "the line is down")
	switch fault {
	case "request lost":
		return instance.Committed{}, lost
	case "reply lost":
		if _, err := f.Store.Commit(ctx, c, kept); err != nil {
			return instance.Committed{}, err
		}
		return instance.Committed{}, lost
	default:
		return f.Store.Commit(ctx, c, kept)
	}
}

// deaf takes what services send out.
type deaf struct{}

func (deaf) Deliver(string, []instance.Delivery)                     {}
func (deaf) Kick(string)                                             {}
func (deaf) Check(context.Context, string, instance.Placement) error { return nil }
func (deaf) Ticket(context.Context, string, string, string) (string, time.Time, error) {
	return "", time.Time{}, nil
}

// roomy is a registry whose servers always have room.
type roomy struct{}

func (roomy) Check(context.Context, string, string, string) error { return nil }
func (roomy) Reserve(context.Context, instance.Room) ([]instance.Endpoint, error) {
	return nil, nil
}
func (roomy) Settle(context.Context, instance.Room) error { return nil }

// pool is a registered server.
const pool = "0b6f0f9e-4a54-5a07-8a0e-3f1c2d3e4f50"

// replica returns a service over the store, as one replica of game-instance has it.
func replica(s instance.Store) *instance.Service {
	svc := instance.NewService(instance.Config{Store: s, Courier: deaf{}, Placements: deaf{}, Servers: roomy{}, Tickets: deaf{}, Timeouts: timeouts})
	svc.SetDriver(deaf{})
	return svc
}

// model is one instance, what is known of it, and two replicas that may change it.
type model struct {
	t       *rapid.T
	store   *redisstore.Store
	line    *flaky
	one     *instance.Service // over the line
	other   *instance.Service
	id      string
	players map[string]bool // who has to be in it
	n       int64           // of the last command
	last    *instance.Instance
	ended   *instance.Instance
}

// TestTheModel runs random lives with conflicts, repeats, lost requests, lost replies and clocks that jump, and checks after each step what must hold always.
func TestTheModel(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		m := miniredis.RunT(t)
		s := redisstore.New(redistest.Open(t, m.Addr()))
		rapid.Check(t, func(t *rapid.T) {
			live(t, s, func() { m.SetTime(time.Now().Add(time.Duration(rapid.Int64Range(-1e12, 1e12).Draw(t, "clock")))) })
		})
	})
	t.Run("redis-server", func(t *testing.T) {
		s := redisstore.New(redistest.Open(t, redistest.Server(t)))
		rapid.Check(t, func(t *rapid.T) { live(t, s, func() {}) })
	})
}

func live(t *rapid.T, s *redisstore.Store, jump func()) {
	line := &flaky{Store: s}
	m := &model{t: t, store: s, line: line, one: replica(line), other: replica(s), id: uuid.NewString(), players: map[string]bool{"ann": true}}
	onLoss := rapid.SampledFrom([]instance.OnLoss{instance.OnLossTerminate, instance.OnLossReplace}).Draw(t, "on loss")
	create := instance.Create{
		Namespace: "default", ID: m.id, Timeouts: timeouts, Players: []instance.Player{{ID: "ann"}}, OnLoss: onLoss,
		SkipAllocation: rapid.Bool().Draw(t, "skip allocation"), ServerID: rapid.SampledFrom([]string{"", pool}).Draw(t, "server"),
		Placement: instance.Placement{Build: "b"}, Digest: []byte("d"),
	}
	for range 2 { // asked twice, created once
		if _, err := m.one.Create(context.Background(), "test", create); err != nil {
			t.Fatal(err)
		}
	}
	m.check()
	for range rapid.IntRange(1, 30).Draw(t, "steps") {
		if rapid.IntRange(0, 3).Draw(t, "jump") == 0 {
			jump()
		}
		m.step()
		m.check()
	}
}

// step does one thing to the instance, however often it takes, and notes what must be true afterwards.
func (m *model) step() {
	cmd, effect := m.draw()
	m.n++
	env := instance.Envelope{ID: instance.CommandID{Name: fmt.Sprint("key:k/", m.n)}, Digest: []byte("digest"), Actor: "test"}
	if rapid.Bool().Draw(m.t, "over the link") {
		env.ID = instance.CommandID{Session: "s", Number: m.n}
	}
	m.line.fault = rapid.SampledFrom([]string{"", "", "request lost", "reply lost"}).Draw(m.t, "fault")
	if rapid.IntRange(0, 2).Draw(m.t, "conflict") == 0 {
		m.n++
		intruder := instance.AddPlayers{Players: []instance.Player{{ID: fmt.Sprint("p", m.n)}}}
		m.line.between = func() {
			if _, err := m.other.Apply(context.Background(), "default", m.id, instance.Envelope{Actor: "test"}, intruder); err == nil {
				m.players[intruder.Players[0].ID] = true
			}
		}
	}
	err := errs.New(errs.StoreUnavailable, "not tried yet")
	for tries := 0; errs.Is(err, errs.StoreUnavailable); tries++ {
		if tries > 3 {
			m.t.Fatalf("%T: %v", cmd, err)
		}
		_, e := m.one.Apply(context.Background(), "default", m.id, env, cmd)
		if err = nil; e != nil {
			err = errs.New(errs.ReasonOf(e), "%v", e)
		}
		if e != nil && errs.ReasonOf(e) == errs.Internal {
			m.t.Fatalf("%T: %v", cmd, e)
		}
		if e == nil {
			break
		}
	}
	m.line.fault, m.line.between = "", nil
	if err != nil {
		return // refused: nothing has changed
	}
	effect()
	if rapid.Bool().Draw(m.t, "repeat") {
		before := m.load().Revision
		if _, err := rapid.SampledFrom([]*instance.Service{m.one, m.other}).Draw(m.t, "by").Apply(context.Background(), "default", m.id, env, cmd); err != nil {
			m.t.Fatalf("a repeated %T: %v", cmd, err)
		}
		if after := m.load(); after.Revision != before {
			m.t.Fatalf("a repeated %T has changed the instance again", cmd)
		}
	}
}

// draw returns a command and what it does to the roster.
func (m *model) draw() (instance.Command, func()) {
	inst := m.load()
	none := func() {}
	attempt := "none"
	server := instance.Caller{ServerID: "stranger"}
	if a := inst.Attempt(); a != nil {
		a = &inst.Attempts[rapid.IntRange(0, len(inst.Attempts)-1).Draw(m.t, "attempt")]
		attempt, server.ServerID = a.ID, a.ServerID
	}
	session := int64(rapid.IntRange(1, 3).Draw(m.t, "session"))
	player := fmt.Sprint("p", m.n+1000)
	member := rapid.SampledFrom(slices.Sorted(maps.Keys(m.players))).Draw(m.t, "member")
	type option struct {
		cmd    instance.Command
		effect func()
	}
	o := rapid.SampledFrom([]option{
		{instance.Allocate{}, none}, {instance.Replace{}, none}, {instance.Replace{ServerID: pool}, none}, {instance.Unlink{Server: server}, none},
		{instance.ReportAllocated{AttemptID: attempt, Provider: "p"}, none}, {instance.ReportExited{AttemptID: attempt}, none},
		{instance.ReportReleased{AttemptID: attempt}, none}, {instance.ReportFailed{AttemptID: attempt}, none},
		{instance.CallAnswered{Kind: instance.CallAllocate, AttemptID: attempt}, none}, {instance.CallFailed{Kind: instance.CallAssign, AttemptID: attempt}, none},
		{instance.Claim{AttemptID: attempt, NonceHash: []byte{byte(session % 2)}}, none},
		{instance.LinkServer{Server: server, SessionEpoch: session, GatewayID: "gw"}, none},
		{instance.LinkServer{Server: server, SessionEpoch: session, GatewayID: "gw"}, none},
		{instance.AttachSession{ServerID: server.ServerID, SessionEpoch: session, GatewayID: "gw", LinkEpoch: inst.LastLinkEpoch, LastOffset: inst.LastOffset, Revision: inst.Revision}, none},
		{instance.LoseSession{ServerID: server.ServerID, SessionEpoch: session}, none}, {instance.LoseGateway{GatewayID: "gw"}, none},
		{instance.ConnectPlayers{Server: server}, none}, {instance.ConnectPlayers{Server: server}, none},
		{instance.AddPlayers{Players: []instance.Player{{ID: player}}}, func() { m.players[player] = true }},
		{instance.AddPlayers{Players: []instance.Player{{ID: player}}}, func() { m.players[player] = true }},
		{instance.RemovePlayers{IDs: []string{member}}, func() {
			if len(m.players) > 1 {
				delete(m.players, member)
			}
		}},
		{instance.UpdateGameData{Data: instance.Update{Data: instance.Data{Set: true, JSON: []byte(`{"a":1}`)}, Merge: true}}, none},
		{instance.End{Server: server, Result: instance.Data{Set: true, Binary: []byte{byte(m.n)}}}, none}, {instance.Terminate{}, none}, {instance.Expire{}, none},
	}).Draw(m.t, "command")
	if _, removing := o.cmd.(instance.RemovePlayers); removing && len(m.players) == 1 {
		return instance.LoseGateway{GatewayID: "nobody's"}, none
	}
	return o.cmd, o.effect
}

func (m *model) load() *instance.Instance {
	l, err := m.store.Load(context.Background(), m.id, everything, nil)
	if err != nil || l.Instance == nil {
		m.t.Fatalf("load: %+v, %v", l, err)
	}
	return l.Instance
}

// check checks what must hold after every step.
func (m *model) check() {
	i := m.load()
	if got, want := slices.Sorted(maps.Keys(i.Players)), slices.Sorted(maps.Keys(m.players)); !slices.Equal(got, want) || i.PlayerCount != len(want) {
		m.t.Fatalf("players %v, counted %d; want %v: something took effect twice, or never", got, i.PlayerCount, want)
	}
	for n, a := range i.Attempts {
		if n < len(i.Attempts)-1 && a.Fate != instance.Abandoned {
			m.t.Fatalf("attempt %d of %d is %d: more than one stands", n, len(i.Attempts), a.Fate)
		}
	}
	if l := i.Link; l != nil && (l.ServerID != i.Attempt().ServerID || i.State == instance.Pending) {
		m.t.Fatalf("linked to %s in %s, attempts %+v", l.ServerID, i.State, i.Attempts)
	}
	for _, c := range i.Outbox {
		a := i.Attempts[slices.IndexFunc(i.Attempts, func(a instance.Attempt) bool { return a.ID == c.AttemptID })]
		if c.Kind == instance.CallAssign && (!a.Registered || a.Fate != instance.Open) || c.Kind == instance.CallRelease && a.Fate != instance.Abandoned && !i.State.Final() {
			m.t.Fatalf("call %+v for attempt %+v in %s", c, a, i.State)
		}
	}
	if p := m.last; p != nil && (i.Revision < p.Revision || i.LastOffset < p.LastOffset || i.LastLinkEpoch < p.LastLinkEpoch) {
		m.t.Fatalf("a number went back: revision %d after %d, offset %d after %d, link epoch %d after %d", i.Revision, p.Revision, i.LastOffset, p.LastOffset, i.LastLinkEpoch, p.LastLinkEpoch)
	}
	if p := m.last; p != nil {
		for n, a := range p.Attempts {
			if a.ClaimNonceHash != nil && !slices.Equal(a.ClaimNonceHash, i.Attempts[n].ClaimNonceHash) {
				m.t.Fatalf("the claim code of attempt %d was used with %v, and now with %v", n, a.ClaimNonceHash, i.Attempts[n].ClaimNonceHash)
			}
		}
	}
	m.last = i
	m.checkHistory()
	if e := m.ended; e != nil {
		if i.State != e.State || i.Reason != e.Reason || !i.EndTime.Equal(e.EndTime) || !reflect.DeepEqual(i.Result, e.Result) || !reflect.DeepEqual(i.GameData, e.GameData) {
			m.t.Fatalf("an instance that was over changed from %+v to %+v", e, i)
		}
	} else if i.State.Final() {
		m.ended = i
	}
}

// checkHistory checks that no state was reached by a way that the table does not have.
func (m *model) checkHistory() {
	entries, err := m.store.History(context.Background(), m.id)
	if err != nil {
		m.t.Fatal(err)
	}
	state, revision := instance.State(0), int64(0)
	for _, h := range entries {
		known := h.From == h.To || slices.ContainsFunc(instance.Table(), func(t instance.Transition) bool {
			return t.From == h.From && t.Event == h.Event && t.To == h.To
		})
		if h.From != state || h.Revision < revision || !known {
			m.t.Fatalf("%s from %s to %s at %d, after %s at %d", h.Event, h.From, h.To, h.Revision, state, revision)
		}
		state, revision = h.To, h.Revision
	}
	if state != m.last.State {
		m.t.Fatalf("the history ends in %s, and the instance is %s", state, m.last.State)
	}
}

// Link and abandon compete for an attempt, and one of them wins: a server that was given back never counts as linked, and one that is linked is never given
// back.
func TestLinkAgainstAbandon(t *testing.T) {
	rounds := 10_000
	if testing.Short() {
		rounds = 500
	}
	s := redisstore.New(redistest.Open(t, redistest.Server(t)))
	one, other := replica(s), replica(s)
	ctx := context.Background()
	const racers = 8
	failed := make(chan error, racers)
	for range racers {
		go func() {
			for range rounds / racers {
				if err := raceForAttempt(ctx, s, one, other); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	for range racers {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

func raceForAttempt(ctx context.Context, s *redisstore.Store, one, other *instance.Service) error {
	id := uuid.NewString()
	inst, err := one.Create(ctx, "test", instance.Create{Namespace: "default", ID: id, Placement: instance.Placement{Build: "b"}, Timeouts: timeouts, Digest: []byte("d")})
	if err != nil {
		return err
	}
	attempt := inst.Attempts[0]
	linked := make(chan error, 1)
	go func() {
		_, err := one.Apply(ctx, "", id, instance.Envelope{}, instance.LinkServer{Server: instance.Caller{ServerID: attempt.ServerID}, SessionEpoch: 1, GatewayID: "gw"})
		linked <- err
	}()
	for range rand.IntN(200) { // so that now one, now the other comes first
		runtime.Gosched()
	}
	_, err = other.Apply(ctx, "", id, instance.Envelope{}, instance.ReportFailed{AttemptID: attempt.ID, Message: "no room"})
	linkErr := <-linked
	if err != nil {
		return err
	}
	l, err := s.Load(ctx, id, everything, nil)
	if err != nil {
		return err
	}
	released := slices.ContainsFunc(l.Instance.Outbox, func(c instance.Call) bool { return c.Kind == instance.CallRelease })
	accepted := l.Instance.Attempts[0].Fate == instance.Accepted
	if accepted == released || accepted != (linkErr == nil) || accepted != (l.Instance.State == instance.Linked) {
		return fmt.Errorf("accepted: %v, given back: %v, link said %w, state %s", accepted, released, linkErr, l.Instance.State)
	}
	if linkErr != nil && !errs.Is(linkErr, errs.Superseded) {
		return fmt.Errorf("the loser was told %w", linkErr)
	}
	return nil
}
