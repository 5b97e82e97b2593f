package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/freeport"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway"
)

// A gateway that knows by its own clock that its lease may be over takes nothing, whatever the store will say of it.
func TestAGatewayWhoseLeaseMayBeOverServesNobody(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.Lease, c.LeaseInterval = 200*time.Millisecond, 50*time.Millisecond })
	heard := w.hears()
	first, id := w.backend.sessions.gateway(), uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), id)
	w.backend.sessions.set(func(s *sessions) { s.renewErr = errs.New(errs.StoreUnavailable, "down") })
	eventually(t, "readiness goes", func() error {
		if w.app.Ready(context.Background()) == nil {
			return errors.New("it is ready")
		}
		return nil
	})
	relayed := make(chan string, 100)
	w.backend.sessions.set(func(ses *sessions) {
		ses.relays = func(r *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
			relayed <- r.GetRequest().GetMethod()
			return echo(r)
		}
	})
	w.deliver(delivery(id, 1, 0))
	w.publish(&eventv1.Envelope{Messages: []*eventv1.BackendMessage{{InstanceId: id, Topic: "t"}}})
	if r := s.call("Echo", id, nil); r.GetError().GetReason() != string(errs.ServiceUnavailable) || r.GetError().GetRetryAfter().AsDuration() <= 0 {
		t.Errorf("a request was answered with %v", r)
	}
	s.says(id, 1, nil)
	if r := s.answer(0); r.GetError().GetReason() != string(errs.ServiceUnavailable) {
		t.Errorf("a message was answered with %v", r)
	}
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Ack{Ack: &linkv1.Ack{InstanceId: id, Offset: 1}}})
	eventually(t, "the message for the server is dropped", func() error {
		if n := w.count(messagesLost, "NOT_CONNECTED"); n != 1 {
			return fmt.Errorf("%v are", n)
		}
		return nil
	})
	if len(relayed)+len(heard)+len(w.backend.sessions.acked) != 0 {
		t.Error("something was passed on")
	}

	// It was only cut off: it goes on as it was, and what it held back follows.
	w.backend.sessions.set(func(s *sessions) { s.renewErr, s.undelivered = nil, []string{id} })
	eventually(t, "it gets ready again", func() error { return w.app.Ready(context.Background()) })
	if got := s.notified(); got != 1 {
		t.Errorf("%d", got)
	}
	if a := next(t, "the ack", w.backend.sessions.acked); a.GetOffset() != 1 {
		t.Errorf("%v", a)
	}
	if r := s.call("Echo", id, nil); r.GetError() != nil || w.backend.sessions.gateway() != first {
		t.Errorf("%v", r)
	}
}

// What was published while the subscription was lost is fetched when it stands again, and not when a mailbox is found to wait or the next entry shows the gap.
func TestWhatASubscriptionMissedIsFetchedWhenItStandsAgain(t *testing.T) {
	server := redistest.Start(t, t.TempDir(), freeport.Addr(t))
	w := startOn(t, redistest.Open(t, server.Addr), newSessions(), nil)
	id := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), id)
	server.Kill(t)
	eventually(t, "readiness goes", func() error {
		if err := w.app.Ready(context.Background()); err == nil || !strings.Contains(err.Error(), "subscription") {
			return errors.Join(err, errors.New("nothing of the subscription"))
		}
		return nil
	})
	w.commit(delivery(id, 1, 0), delivery(id, 2, 1)) // and nobody is told
	if r := s.call("Echo", id, nil); r.GetError() != nil {
		t.Errorf("%v", r)
	}
	server.Restart(t)
	for want := int64(1); want <= 2; want++ {
		if got := s.notified(); got != want {
			t.Errorf("%d, want %d", got, want)
		}
	}
	eventually(t, "it gets ready again", func() error { return w.app.Ready(context.Background()) })
}

// The settings of the gateway that TestMain's process is, if it is one.
const (
	pausedEdge    = "TEST_PAUSED_EDGE"
	pausedBackend = "TEST_PAUSED_BACKEND"
	pausedStore   = "TEST_PAUSED_STORE"

	pausedLease = time.Second
)

// TestPausedGatewayProcess is no test: it is the gateway that TestAGatewayThatWasPausedBeyondItsLease pauses.
func TestPausedGatewayProcess(t *testing.T) {
	if os.Getenv(pausedEdge) == "" {
		t.Skip("it is the other process of another test")
	}
	cfg := gateway.Default()
	var err error
	if cfg.EdgeListener, err = net.Listen("tcp", os.Getenv(pausedEdge)); err != nil {
		t.Fatal(err)
	}
	cfg.APIListener, cfg.Auth = listenAny(t), auth.Config{InternalKey: internalKey}
	cfg.GameInstance, cfg.TokenIssuer, cfg.Allocation = os.Getenv(pausedBackend), os.Getenv(pausedBackend), os.Getenv(pausedBackend)
	cfg.Redis = redisx.Config{Addrs: []string{os.Getenv(pausedStore)}}
	cfg.Lease, cfg.LeaseInterval = pausedLease, pausedLease/4
	run(t, gateway.Module(cfg))
	select {} // until it is killed
}

// stopped returns nil when no thread of a process runs any more: the signal stops them one after the other.
func stopped(pid int) error {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return err
	}
	for _, stat := range stats {
		raw, err := os.ReadFile(stat)
		if err != nil {
			return err
		}
		if state := raw[bytes.LastIndexByte(raw, ')')+2]; state != 'T' {
			return fmt.Errorf("%s is in state %c", stat, state)
		}
	}
	return nil
}

// A gateway that was stopped for longer than its lease and goes on must not serve what has queued before it meanwhile: others may serve it by now.
func TestAGatewayThatWasPausedBeyondItsLease(t *testing.T) {
	store, ses := redistest.Embedded(t), newSessions()
	w := &world{tb: t, store: store, backend: startBackend(t, "", newIssuer(t), ses), edge: freeport.Addr(t), http: &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(w.http.CloseIdleConnections)
	cmd := exec.Command(os.Args[0], "-test.run=^TestPausedGatewayProcess$")
	cmd.Env = append(os.Environ(), pausedEdge+"="+w.edge, pausedBackend+"="+w.backend.addr, pausedStore+"="+storeAddr(store))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })

	c, id := w.backend.issuer.pair(t), uuid.NewString()
	var s *socket
	eventually(t, "the gateway takes a server", func() (err error) { s, _, err = w.dial(c, nil); return err })
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{}}})
	s.welcome = s.receive().GetWelcome()
	if r := s.call("Link", id, nil); r.GetError() != nil {
		t.Fatal(r)
	}
	first := ses.gateway()
	relayed := make(chan string, 100)
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it stands still", func() error { return stopped(cmd.Process.Pid) })
	ses.set(func(s *sessions) {
		s.lapseOnce = true // the store will say so, too, when it is asked
		s.relays = func(r *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
			relayed <- r.GetRequest().GetMethod()
			return echo(r)
		}
	})
	for range 20 {
		s.request("Echo", id, nil)
	}
	w.publish(&eventv1.Envelope{Deliveries: []*eventv1.Delivery{delivery(id, 1, 0)}})
	<-time.After(pausedLease + 200*time.Millisecond) // the process cannot know how long it was away in any other way
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for code := linkv1.CloseCode(0); code == 0; {
		f, err := s.read()
		switch {
		case err != nil:
			t.Fatalf("the connection ended without Goodbye: %v", err)
		case f.GetGoodbye() != nil:
			code = f.GetGoodbye().GetCode()
			if code != linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE || !f.GetGoodbye().GetReconnect() {
				t.Errorf("%v", f)
			}
		case f.GetResponse().GetError().GetReason() != string(errs.ServiceUnavailable):
			t.Errorf("served after its lease: %v", f)
		}
	}
	if n := len(relayed); n != 0 {
		t.Errorf("%d requests were passed on", n)
	}
	eventually(t, "another life begins", func() error {
		if ses.gateway() == first {
			return errors.New("it is the same id")
		}
		return nil
	})
}
