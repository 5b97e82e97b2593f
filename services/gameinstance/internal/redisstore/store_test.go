package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
	"github.com/berth-dev/berth/services/gameinstance/internal/session"
)

var timeouts = instance.Timeouts{Allocation: time.Minute, Link: time.Minute, ConnectPlayers: time.Minute, DisconnectGrace: time.Minute, Retention: time.Hour}

// each runs a test on every kind of store.
func each(t *testing.T, test func(t *testing.T, s *redisstore.Store)) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) { test(t, redisstore.New(s)) })
}

// commit decides a command upon the stored instance and commits it.
func commit(t *testing.T, s *redisstore.Store, id string, env instance.Envelope, cmd instance.Command) (*instance.Change, instance.Committed, error) {
	t.Helper()
	loaded, err := s.Load(context.Background(), id, everything, []instance.CommandID{env.ID})
	if err != nil {
		t.Fatal(err)
	}
	change, err := instance.Decide(loaded.Instance, cmd, "test", loaded.Now)
	if err != nil {
		return nil, instance.Committed{}, err
	}
	done, err := s.Commit(context.Background(), change, []instance.Kept{{ID: env.ID, Digest: env.Digest}})
	return change, done, err
}

var everything = instance.Needs{Everything: true}

func must(t *testing.T, s *redisstore.Store, id string, cmd instance.Command) (*instance.Change, instance.Committed) {
	t.Helper()
	c, done, err := commit(t, s, id, instance.Envelope{}, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return c, done
}

func load(t *testing.T, s *redisstore.Store, id string) *instance.Instance {
	t.Helper()
	l, err := s.Load(context.Background(), id, everything, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l.Instance
}

// created returns the id of a new instance with two players.
func created(t *testing.T, s *redisstore.Store) string {
	t.Helper()
	id := uuid.NewString()
	must(t, s, id, instance.Create{
		Namespace: "default", ID: id, Timeouts: timeouts, Placement: instance.Placement{Build: "b", Regions: []string{"eu"}, Latencies: map[string]time.Duration{"eu": time.Millisecond}},
		Players:  []instance.Player{{ID: "ann", TeamID: "red", Data: instance.Data{Set: true, JSON: []byte(`{"skin":1}`)}}, {ID: "bob"}},
		GameData: instance.Data{Set: true, Binary: []byte{1, 2}}, Settings: []byte(`{"map":"x"}`), Labels: map[string]string{"a": "b"},
	})
	return id
}

// linked returns the id of an instance that is linked through gateway "gw".
func linked(t *testing.T, s *redisstore.Store) string {
	t.Helper()
	id := created(t, s)
	must(t, s, id, instance.LinkServer{Server: instance.Caller{ServerID: load(t, s, id).Attempt().ServerID}, SessionEpoch: 1, GatewayID: "gw"})
	return id
}

func TestWhatWasCommittedIsLoaded(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := linked(t, s)
		must(t, s, id, instance.UpdateGameData{})
		must(t, s, id, instance.LinkServer{Server: instance.Caller{ServerID: load(t, s, id).Attempt().ServerID}, SessionEpoch: 2, GatewayID: "gw"}) // with a floor
		change, done := must(t, s, id, instance.UpdateGameData{Data: instance.Update{Data: instance.Data{Set: true, JSON: []byte(`{"round":2}`), Size: 9}}})
		got := load(t, s, id)
		want := change.After
		want.Revision, want.LastOffset, want.MailBytes = done.Revision, got.LastOffset, got.MailBytes
		// Times come back to the microsecond, in the local zone.
		if g, w := fmt.Sprintf("%+v", flat(got)), fmt.Sprintf("%+v", flat(want)); g != w {
			t.Errorf("loaded\n%s\nwant\n%s", g, w)
		}
		must(t, s, id, instance.RemovePlayers{IDs: []string{"bob"}})
		if got := load(t, s, id); len(got.Players) != 1 {
			t.Errorf("players after a removal: %v", got.Players)
		}
	})
}

// flat returns an instance with its pointers resolved and its times in one form.
func flat(i *instance.Instance) instance.Instance {
	c := *i
	if i.Link != nil { // a pointer prints as an address
		c.Message += fmt.Sprintf("%+v", linkOf(*i.Link))
	}
	c.Link, c.Stored = nil, nil
	for _, at := range []*time.Time{&c.CreateTime, &c.UpdateTime, &c.StartTime, &c.EndTime, &c.ExpireTime} {
		*at = trim(*at)
	}
	c.Deadlines = map[instance.DeadlineKind]time.Time{}
	for k, at := range i.Deadlines {
		c.Deadlines[k] = trim(at)
	}
	c.Attempts = slices.Clone(i.Attempts)
	for n := range c.Attempts {
		c.Attempts[n].CreateTime = trim(c.Attempts[n].CreateTime)
	}
	c.Outbox = slices.Clone(i.Outbox)
	for n := range c.Outbox {
		c.Outbox[n].Due = trim(c.Outbox[n].Due)
	}
	c.Players = map[string]instance.Player{}
	for id, p := range i.Players {
		p.AddTime, p.Stored = trim(p.AddTime), nil
		c.Players[id] = p
	}
	return c
}

func linkOf(l instance.Link) instance.Link {
	l.LinkTime, l.ChangeTime = trim(l.LinkTime), trim(l.ChangeTime)
	return l
}

func trim(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.UnixMicro(t.UnixMicro()).UTC()
}

func TestACommitOnAnOldRevisionConflicts(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := created(t, s)
		stale, err := s.Load(context.Background(), id, everything, nil)
		if err != nil {
			t.Fatal(err)
		}
		must(t, s, id, instance.Terminate{})
		change, err := instance.Decide(stale.Instance, instance.UpdateGameData{}, "test", stale.Now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(context.Background(), change, nil); !errors.Is(err, instance.ErrConflict) {
			t.Errorf("commit on an old revision: %v", err)
		}
		if got := load(t, s, id); got.State != instance.Terminated {
			t.Errorf("state is %s", got.State)
		}
	})
}

func TestACommandIsRememberedWithItsOutcome(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := created(t, s)
		backend := instance.Envelope{ID: instance.CommandID{Name: "key:k/once"}, Digest: []byte("di:\x00\xff")}
		server := instance.Envelope{ID: instance.CommandID{Session: "s", Number: 7}, Digest: []byte("\n:digest")}
		stale, err := s.Load(context.Background(), id, everything, []instance.CommandID{backend.ID})
		if err != nil || len(stale.Done) != 0 {
			t.Fatalf("load before: %v, %v", stale.Done, err)
		}
		want := map[instance.CommandID]instance.Done{}
		for n, env := range []instance.Envelope{backend, server} {
			_, done, err := commit(t, s, id, env, instance.AddPlayers{Players: []instance.Player{{ID: fmt.Sprint("eve", n)}}})
			if err != nil {
				t.Fatal(err)
			}
			want[env.ID] = instance.Done{Digest: env.Digest, Revision: done.Revision}
		}
		other := instance.CommandID{Name: "key:k/other"}
		l, err := s.Load(context.Background(), id, everything, []instance.CommandID{other, server.ID, backend.ID})
		if err != nil || fmt.Sprint(l.Done) != fmt.Sprint(want) {
			t.Errorf("load of done commands: %v, %v; want %v", l.Done, err, want)
		}
		// A writer who looked before it was done decided upon an older revision, too.
		change, err := instance.Decide(stale.Instance, instance.AddPlayers{Players: []instance.Player{{ID: "adam"}}}, "test", stale.Now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(context.Background(), change, []instance.Kept{{ID: backend.ID, Digest: backend.Digest}}); !errors.Is(err, instance.ErrConflict) {
			t.Errorf("repeated command id: %v", err)
		}
	})
}

func TestTheMemoryOfCommandsIsNotUsedUpByOthers(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := linked(t, s)
		once := instance.Envelope{ID: instance.CommandID{Name: "key:k/once"}, Digest: []byte("d")}
		if _, _, err := commit(t, s, id, once, instance.UpdateGameData{}); err != nil {
			t.Fatal(err)
		}
		server := instance.Caller{ServerID: load(t, s, id).Attempt().ServerID}
		number := func(n int64) instance.CommandID { return instance.CommandID{Session: "s", Number: n} }
		for n := range int64(300) { // without a name, and over the link
			must(t, s, id, instance.UpdateGameData{Server: server})
			if _, _, err := commit(t, s, id, instance.Envelope{ID: number(n + 1), Digest: []byte("d")}, instance.UpdateGameData{Server: server}); err != nil {
				t.Fatal(err)
			}
		}
		state := func(command instance.CommandID) string {
			t.Helper()
			l, err := s.Load(context.Background(), id, instance.Needs{}, []instance.CommandID{command})
			done, ok := l.Done[command]
			switch {
			case err != nil:
				t.Fatal(err)
			case done.TooOld:
				return "too old"
			case ok:
				return "kept"
			}
			return "new"
		}
		for command, want := range map[instance.CommandID]string{
			once.ID: "kept", number(300): "kept", number(173): "kept", number(172): "too old", number(1): "too old", number(301): "new", {Session: "other", Number: 300}: "new",
		} {
			if got := state(command); got != want {
				t.Errorf("%v is %s, want %s", command, got, want)
			}
		}
		// A server that takes over counts anew.
		if _, _, err := commit(t, s, id, instance.Envelope{ID: instance.CommandID{Session: "next", Number: 3}, Digest: []byte("d")}, instance.UpdateGameData{}); err != nil {
			t.Fatal(err)
		}
		if got := state(instance.CommandID{Session: "next", Number: 3}) + ", " + state(instance.CommandID{Session: "next", Number: 1}); got != "kept, new" {
			t.Errorf("of the next session: %s", got)
		}
	})
}

func TestServersThatAreGoneDoNotHideThoseThatWait(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s, ctx := redisstore.New(r), context.Background()
		gone := linked(t, s)
		server := load(t, s, gone).Attempt().ServerID
		must(t, s, gone, instance.LoseSession{ServerID: server, SessionEpoch: 1})
		must(t, s, gone, instance.Terminate{}) // nobody acknowledges it
		for p := range r.Partitions() {
			if n, err := r.ZCard(ctx, redisx.Key(p, "undelivered")).Result(); err != nil || n != 0 {
				t.Fatalf("the mailbox of a server that is gone takes a place in partition %d: %d, %v", p, n, err)
			}
		}
		// It hears of it if it comes back.
		must(t, s, gone, instance.AttachSession{ServerID: server, SessionEpoch: 2, GatewayID: "gw", LinkEpoch: load(t, s, gone).Link.Epoch})
		if ids, err := s.Undelivered(ctx, "gw", 0); err != nil || !slices.Equal(ids, []string{gone}) {
			t.Fatalf("undelivered of a server that came back: %v, %v", ids, err)
		}
	})
}

func TestAMailboxIsReadInPiecesThatFit(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		ctx := context.Background()
		id := linked(t, s)
		big := instance.Data{Set: true, Binary: make([]byte, 1<<20), Size: 1 << 20}
		for range 7 { // MiB of notifications; an eighth, with what they take besides, does not fit
			must(t, s, id, instance.UpdateGameData{Data: instance.Update{Data: big}})
		}
		read, after := 0, int64(0)
		for more := true; more; {
			page, rest, err := s.Pull(ctx, id, anyEpoch, after, 100)
			if err != nil || len(page) == 0 || len(page) > 2 {
				t.Fatalf("read %d entries, %v", len(page), err)
			}
			more, read, after = rest, read+len(page), page[len(page)-1].Offset
		}
		if read != 7 {
			t.Errorf("read %d of 7 entries", read)
		}
		if err := s.Ack(ctx, id, anyEpoch, after); err != nil {
			t.Fatal(err)
		}
		for range 7 { // the room is free again
			must(t, s, id, instance.UpdateGameData{Data: instance.Update{Data: big}})
		}
	})
}

func TestRevisionsAndOffsetsOnlyGrow(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := linked(t, s)
		var revision, offset int64
		for n := range 20 {
			_, done := must(t, s, id, instance.AddPlayers{Players: []instance.Player{{ID: fmt.Sprint("p", n)}}})
			if done.Revision <= revision || done.FirstOffset <= offset {
				t.Fatalf("commit %d: revision %d after %d, offset %d after %d", n, done.Revision, revision, done.FirstOffset, offset)
			}
			if n > 0 && done.Previous != offset {
				t.Fatalf("commit %d: previous offset %d, want %d", n, done.Previous, offset)
			}
			revision, offset = done.Revision, done.FirstOffset
		}
	})
}

func TestTheMailboxKeepsEntriesUntilTheyAreAcknowledged(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		ctx := context.Background()
		id := linked(t, s)
		var offsets []int64
		for n := range 3 {
			_, done := must(t, s, id, instance.AddPlayers{Players: []instance.Player{{ID: fmt.Sprint("p", n)}}})
			offsets = append(offsets, done.FirstOffset)
		}
		all, _, err := s.Pull(ctx, id, anyEpoch, 0, 10)
		if err != nil || len(all) != 3 {
			t.Fatalf("pull: %d entries, %v", len(all), err)
		}
		for n, d := range all {
			if d.Offset != offsets[n] || d.Event.PlayersAdded[0].ID != fmt.Sprint("p", n) || n > 0 && d.Previous != offsets[n-1] {
				t.Errorf("entry %d: %+v", n, d)
			}
		}
		if rest, _, err := s.Pull(ctx, id, anyEpoch, offsets[0], 10); err != nil || len(rest) != 2 {
			t.Errorf("pull after the first: %d entries, %v", len(rest), err)
		}
		if err := s.Ack(ctx, id, anyEpoch, offsets[1]); err != nil {
			t.Fatal(err)
		}
		if rest, _, err := s.Pull(ctx, id, anyEpoch, 0, 10); err != nil || len(rest) != 1 || rest[0].Offset != offsets[2] {
			t.Errorf("pull after an ack: %+v, %v", rest, err)
		}
		waiting := func() []string {
			t.Helper()
			ids, err := s.Undelivered(ctx, "gw", 0)
			if err != nil {
				t.Fatal(err)
			}
			return ids
		}
		if got := waiting(); !slices.Equal(got, []string{id}) {
			t.Errorf("undelivered: %v", got)
		}
		// An acknowledgement from the future counts for what is there, and no more.
		if err := s.Ack(ctx, id, anyEpoch, offsets[2]+1e12); err != nil {
			t.Fatal(err)
		}
		if got := waiting(); len(got) != 0 {
			t.Errorf("undelivered after everything was acknowledged: %v", got)
		}
		must(t, s, id, instance.UpdateGameData{})
		if rest, _, err := s.Pull(ctx, id, anyEpoch, 0, 10); err != nil || len(rest) != 1 {
			t.Errorf("pull after a new entry: %+v, %v", rest, err)
		}
		if ids, err := s.Undelivered(ctx, "other", 0); err != nil || len(ids) != 0 {
			t.Errorf("undelivered through another gateway: %v, %v", ids, err)
		}
	})
}

func TestAFreshLinkEmptiesTheMailbox(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := linked(t, s)
		_, done := must(t, s, id, instance.UpdateGameData{})
		must(t, s, id, instance.LinkServer{Server: instance.Caller{ServerID: load(t, s, id).Attempt().ServerID}, SessionEpoch: 2, GatewayID: "gw"})
		if rest, _, err := s.Pull(context.Background(), id, anyEpoch, 0, 10); err != nil || len(rest) != 0 {
			t.Errorf("mailbox after a fresh link: %v, %v", rest, err)
		}
		if got := load(t, s, id); got.LastOffset != done.FirstOffset || got.Link.Floor != done.FirstOffset {
			t.Errorf("the sequence begins again at %d above a floor of %d, was at %d", got.LastOffset, got.Link.Floor, done.FirstOffset)
		}
	})
}

func TestHistoryIsKeptInOrder(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := linked(t, s)
		must(t, s, id, instance.Terminate{Message: "enough"})
		entries, err := s.History(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		var events []string
		for n, e := range entries {
			events = append(events, e.Event)
			if n > 0 && e.Revision < entries[n-1].Revision || e.Time.IsZero() || e.Actor != "test" {
				t.Errorf("entry %d: %+v", n, e)
			}
		}
		if want := []string{"created", "allocating", "linked", "terminated"}; !slices.Equal(events, want) {
			t.Errorf("history %v, want %v", events, want)
		}
	})
}

func TestOnlyOneOfTwoSessionsIsSaved(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		ctx := context.Background()
		first := session.Session{ServerID: "s", Namespace: "default", ID: "a", Epoch: 5, GatewayID: "gw", ResumeKeyHash: []byte{1}, Connected: true, ChangeTime: time.UnixMicro(7)}
		if saved, err := s.SaveSession(ctx, first, 0); err != nil || !saved {
			t.Fatalf("first: %v, %v", saved, err)
		}
		second := first
		second.ID, second.Epoch = "b", 6
		if saved, err := s.SaveSession(ctx, second, 0); err != nil || saved {
			t.Errorf("second upon the same look: %v, %v", saved, err)
		}
		got, _, err := s.LoadSession(ctx, "s")
		if err != nil || fmt.Sprint(got) != fmt.Sprint(first) {
			t.Errorf("loaded %+v, %v", got, err)
		}
		if none, now, err := s.LoadSession(ctx, "nobody"); err != nil || none.Epoch != 0 || now.IsZero() {
			t.Errorf("no session: %+v, %v", none, err)
		}
	})
}

func TestAGatewayThatLapsedCannotRenew(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		ctx := context.Background()
		renew := func(id string, lease time.Duration, want bool) {
			t.Helper()
			if known, err := s.RenewGateway(ctx, id, lease); err != nil || known.IsZero() == want {
				t.Errorf("renew %s: %v, %v; want %v", id, known, err, want)
			}
		}
		renew("a", time.Minute, true)
		renew("a", time.Minute, true)
		if alive, err := s.GatewayAlive(ctx, "a"); err != nil || !alive {
			t.Errorf("alive: %v, %v", alive, err)
		}
		renew("b", time.Microsecond, true)
		renew("c", 0, true) // gives it back
		if released, ranOut, err := s.ExpiredGateways(ctx); err != nil || !slices.Equal(released, []string{"c"}) || !slices.Equal(ranOut, []string{"b"}) {
			t.Errorf("released: %v, ran out: %v, %v", released, ranOut, err)
		}
		renew("c", time.Minute, false)
		renew("b", time.Microsecond, true) // nobody has seen to its links yet
		if over, err := s.CondemnGateway(ctx, "a"); err != nil || over {
			t.Errorf("a lease that stands was ended: %v, %v", over, err)
		}
		if over, err := s.CondemnGateway(ctx, "b"); err != nil || !over {
			t.Errorf("a lease that ran out was not ended: %v, %v", over, err)
		}
		renew("b", time.Minute, false) // although its links are still to be seen to: that may have begun
		if released, ranOut, err := s.ExpiredGateways(ctx); err != nil || !slices.Equal(released, []string{"b", "c"}) || len(ranOut) != 0 {
			t.Errorf("released: %v, ran out: %v, %v", released, ranOut, err)
		}
		if err := s.ForgetGateway(ctx, "b"); err != nil {
			t.Fatal(err)
		}
		renew("b", time.Minute, false)
		if alive, err := s.GatewayAlive(ctx, "b"); err != nil || alive {
			t.Errorf("alive: %v, %v", alive, err)
		}
		id := linked(t, s)
		if links, err := s.LinksThrough(ctx, "gw"); err != nil || !slices.Equal(links, []string{id}) {
			t.Errorf("links: %v, %v", links, err)
		}
		must(t, s, id, instance.LoseGateway{GatewayID: "gw"})
		if links, err := s.LinksThrough(ctx, "gw"); err != nil || len(links) != 0 {
			t.Errorf("links after the loss: %v, %v", links, err)
		}
	})
}
