package gameinstance_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"

	"github.com/berth-dev/berth/pkg/freeport"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/berth-dev/berth/services/gameinstance"
)

// match is an instance with its server, as the server knows them.
type match struct {
	id, server, resumeKey string
	session, epoch, floor int64
}

// begin begins a match through gateway "gw".
func (w *world) begin(connects bool) *match {
	w.t.Helper()
	m := &match{id: w.create().GetId()}
	m.server = ids.Server(ids.Attempt(m.id, 1))
	opened := w.open(m.id, &linkv1.Hello{})
	m.resumeKey, m.session = opened.GetResumeKey(), opened.GetSessionEpoch()
	linked, err := w.link(m.id)
	if err != nil {
		w.t.Fatal(err)
	}
	m.epoch, m.floor = linked.GetLinkEpoch(), linked.GetOffset()
	if connects {
		w.connect(m)
	}
	return m
}

func (w *world) connect(m *match) {
	w.t.Helper()
	if _, err := w.servers.ConnectPlayers(w.asServer(m.server), &gameserverv1.ConnectPlayersRequest{InstanceId: m.id}); err != nil {
		w.t.Fatal(err)
	}
}

// lose says that a match's socket is gone.
func (w *world) lose(m *match) {
	w.t.Helper()
	if _, err := w.sessions.CloseSession(internally(), &sessionv1.CloseSessionRequest{ServerId: m.server, SessionEpoch: m.session, InstanceIds: []string{m.id}}); err != nil {
		w.t.Fatal(err)
	}
}

// resume brings a match's server back through a gateway.
func (w *world) resume(m *match, gateway string) {
	w.t.Helper()
	if _, err := w.sessions.RenewGateway(internally(), &sessionv1.RenewGatewayRequest{GatewayId: gateway, Lease: durationpb.New(time.Minute)}); err != nil {
		w.t.Fatal(err)
	}
	req := openRequest(m.id, &linkv1.Hello{ResumeKey: m.resumeKey, Instances: []*linkv1.HelloInstance{{InstanceId: m.id, LinkEpoch: m.epoch, LastOffset: m.floor}}})
	req.GatewayId = gateway
	out, err := w.sessions.OpenSession(internally(), req)
	if err != nil || len(out.GetLinks()) != 1 {
		w.t.Fatalf("a server that came back has the links %v, %v", out.GetLinks(), err)
	}
	m.session = out.GetSessionEpoch()
}

// happened returns the newest entry of an instance's history with an event, and how many there are.
func (w *world) happened(id, event string) (newest *instancev1.HistoryEntry, times int) {
	out, err := w.instances.ListHistory(as(viewerKey), &instancev1.ListHistoryRequest{InstanceId: id})
	if err != nil {
		return nil, 0 // the store may be away
	}
	for _, e := range out.GetEntries() {
		if e.GetEvent() == event {
			newest = e
			times++
		}
	}
	return newest, times
}

// await waits until an event is in an instance's history.
func (w *world) await(id, event string) *instancev1.HistoryEntry {
	w.t.Helper()
	tick, late := time.NewTicker(20*time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for {
		if e, times := w.happened(id, event); times > 0 {
			return e
		}
		select {
		case <-tick.C:
		case <-late:
			w.t.Fatalf("%s never was %s: %v", id, event, w.get(id))
		}
	}
}

// Each outage is longer than the deadlines, and the hold after it too.
const (
	deadline = 4 * time.Second
	away     = 5 * time.Second
	hold     = 10 * time.Second
)

func short(cfg *gameinstance.Config) {
	cfg.Timeouts = gameinstance.Timeouts{Allocation: deadline, Link: deadline, ConnectPlayers: deadline, DisconnectGrace: deadline, Retention: time.Hour}
	cfg.Timers.Gap, cfg.Timers.Hold = time.Second, hold
}

// outage is a way in which Berth may be away.
type outage struct {
	store *redisx.Store
	// leave and back are called at its beginning and its end; nil: game-instance itself is away.
	leave, back func()
}

func outages() map[string]func(t *testing.T) outage {
	return map[string]func(t *testing.T) outage{
		"redis-server was killed": func(t *testing.T) outage {
			// The file is synced with each write: while a sync of the usual kind takes its time, Redis holds writes back, and would lose them here.
			dir, at := t.TempDir(), freeport.Addr(t)
			p := redistest.Start(t, dir, at, "--appendfsync", "always")
			return outage{redistest.Open(t, at), func() { _ = p.Cmd.Process.Kill() }, func() { redistest.Start(t, dir, at) }}
		},
		"redis-server stood still": func(t *testing.T) outage {
			p := redistest.Start(t, t.TempDir(), freeport.Addr(t))
			signal := func(s syscall.Signal) func() { return func() { _ = p.Cmd.Process.Signal(s) } }
			return outage{redistest.Open(t, p.Addr), signal(syscall.SIGSTOP), signal(syscall.SIGCONT)}
		},
		"the embedded store was away": func(t *testing.T) outage {
			m := miniredis.RunT(t)
			return outage{redistest.Open(t, m.Addr()), m.Close, func() {
				if err := m.Restart(); err != nil {
					t.Error(err)
				}
			}}
		},
		"all replicas were away":             func(t *testing.T) outage { return outage{store: redistest.Open(t, redistest.Server(t))} },
		"all replicas of dev mode were away": func(t *testing.T) outage { return outage{store: redistest.Embedded(t)} },
	}
}

// Berth was away for longer than all deadlines. No match ends because of it: a server that comes back goes on, one that does not is given up only after
// the hold.
func TestTimeInWhichBerthWasAwayDoesNotCount(t *testing.T) {
	for name, prepare := range outages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := prepare(t)
			w := startAt(t, o.store, newPeers(t), short)
			back, gone := w.begin(true), w.begin(true)
			opening, placing := w.begin(false), w.create().GetId() // waits for its server to open to players, and for a server
			w.lose(back)
			w.lose(gone)
			if o.leave != nil {
				o.leave()
			} else {
				w.stop()
			}
			<-time.After(away)
			returned := time.Now()
			if o.leave != nil {
				o.back()
			} else {
				w = startAt(t, o.store, w.peers, short)
			}

			w.await(back.id, "deadline_held")
			w.resume(back, "gw")
			w.await(opening.id, "deadline_held")
			w.connect(opening)
			w.await(gone.id, "deadline_held")
			w.await(placing, "deadline_held")
			for id, want := range map[string]instancev1.GameInstance_Reason{gone.id: instancev1.GameInstance_REASON_SERVER_LOST, placing: instancev1.GameInstance_REASON_ALLOCATION_TIMEOUT} {
				e := w.await(id, "terminated")
				if after := e.GetTime().AsTime().Sub(returned); after < hold {
					t.Errorf("given up %s after the return: %s", after, e.GetDetail())
				}
				if got := w.get(id).GetReason(); got != want {
					t.Errorf("given up for %s, want %s", got, want)
				}
			}
			for _, m := range []*match{back, opening} {
				if got := w.get(m.id); got.GetState() != instancev1.GameInstance_STATE_RUNNING || !got.GetLink().GetConnected() {
					t.Errorf("a server that came back has %v", got)
				}
			}
		})
	}
}

// Nobody ever looked at the timers of a new keyspace, but nothing was missed either.
func TestANewKeyspaceIsNotHeld(t *testing.T) {
	t.Parallel()
	w := start(t, func(cfg *gameinstance.Config) {
		short(cfg)
		cfg.Timers.Gap = 20 * time.Second // a slow machine must not look like a gap
	})
	id := w.create().GetId()
	w.await(id, "terminated")
	if e, held := w.happened(id, "deadline_held"); held > 0 {
		t.Errorf("held: %s", e.GetDetail())
	}
}

func TestManyLinksThatAreLostAtOnceAreNotGivenUp(t *testing.T) {
	t.Parallel()
	w := start(t, func(cfg *gameinstance.Config) { cfg.Timeouts.DisconnectGrace = 8 * time.Second })
	matches := make([]*match, 20)
	for n := range matches {
		matches[n] = w.begin(true)
	}
	// Their gateway is gone.
	if _, err := w.sessions.RenewGateway(internally(), &sessionv1.RenewGatewayRequest{GatewayId: "gw", Release: true, Lease: durationpb.New(0)}); err != nil {
		t.Fatal(err)
	}
	for _, m := range matches {
		w.await(m.id, "deadline_held")
	}
	for _, m := range matches {
		w.resume(m, "gw2")
	}
	for _, m := range matches {
		if got := w.get(m.id); got.GetState() != instancev1.GameInstance_STATE_RUNNING || !got.GetLink().GetConnected() {
			t.Errorf("a server that came back has %v", got)
		}
	}
	// One that is lost alone is given up as always.
	alone := matches[7]
	_, before := w.happened(alone.id, "deadline_held")
	w.lose(alone)
	w.await(alone.id, "terminated")
	lost, _ := w.happened(alone.id, "disconnected")
	ended, _ := w.happened(alone.id, "terminated")
	if after := ended.GetTime().AsTime().Sub(lost.GetTime().AsTime()); after < 8*time.Second {
		t.Errorf("given up %s after the loss", after)
	}
	if _, held := w.happened(alone.id, "deadline_held"); held != before || w.get(alone.id).GetReason() != instancev1.GameInstance_REASON_SERVER_LOST {
		t.Errorf("held %d times more, ended as %v", held-before, w.get(alone.id))
	}
	for _, m := range matches {
		if got := w.get(m.id).GetState(); m != alone && got != instancev1.GameInstance_STATE_RUNNING {
			t.Errorf("another one is %s", got)
		}
	}
}
