package gateway_test

import (
	"context"
	"errors"
	"testing"

	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// stopping stops a gateway in the background and returns a channel that is closed when it has stopped.
func (w *world) stopping() <-chan struct{} {
	stopped := make(chan struct{})
	go func() { defer close(stopped); w.stop() }()
	w.tb.Cleanup(func() { <-stopped })
	return stopped
}

// moved reads until the server is told to move.
func (s *socket) moved() *linkv1.Move {
	s.tb.Helper()
	for {
		if m := s.receive().GetMove(); m != nil {
			return m
		}
	}
}

// The whole move, as an SDK makes it: it goes on over the old connection, opens the next one elsewhere, resumes there, and leaves.
func TestAServerMovesFromAGatewayThatStops(t *testing.T) {
	one, two := pairOfGateways(t, nil)
	creds := one.register()
	first := one.plays(creds)
	first.works("before")
	stopped := one.stopping()
	move := first.moved()
	if move.GetDeadline().AsDuration() <= 0 {
		t.Errorf("told to move: %v", move)
	}
	if one.app.Ready(context.Background()) == nil {
		t.Error("a gateway that moves its servers away is ready")
	}
	_, resp, err := one.dial(one.backend.issuer.pair(t), nil)
	if err == nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("the upgrade was answered with %v, %v", resp, err)
	}
	first.works("on its way") // the old connection is as good as before

	second := &playing{instance: first.instance, socket: two.open(creds, &linkv1.Hello{
		ResumeKey: first.welcome.GetResumeKey(), Instances: []*linkv1.HelloInstance{{InstanceId: first.instance, LinkEpoch: first.epoch, LastRequest: first.lastID}},
	})}
	if len(second.welcome.GetInstances()) != 1 {
		t.Fatalf("Welcome is %v", second.welcome)
	}
	second.epoch, second.lastID = second.welcome.GetInstances()[0].GetLinkEpoch(), first.lastID
	second.works("there")
	if err := first.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("the old connection did not end as the server ended it: %v", err)
	}
	next(t, "the end of the gateway", stopped)
	second.works("after")
	if got := two.stored(first.instance); got != "after" {
		t.Errorf("the data is %q", got)
	}
}

// That its session is taken over does not close the connection of a server that was told to move: it leaves by itself.
func TestAMovingServersConnectionIsNotClosedWhenItHasAnother(t *testing.T) {
	w := start(t, nil)
	c, id := w.backend.issuer.pair(t), uuid.NewString()
	s := w.linked(c, id)
	stopped := w.stopping()
	s.moved()
	w.publish(&eventv1.Envelope{Replaced: []*eventv1.SessionReplaced{{ServerId: c.server, SessionEpoch: 2}}, Deliveries: nil})
	w.deliver(delivery(id, 1, 0))
	s.notified() // so the gateway knows
	s.call("Echo", "", nil)
	s.says(id, 1, nil)
	if r := s.answer(0); r.GetError().GetReason() != string(errs.StaleLinkEpoch) { // it speaks over the other one
		t.Errorf("a message over the old connection is answered with %v", r)
	}
	if err := s.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("%v", err)
	}
	next(t, "the end of the gateway", stopped)
	if len(w.backend.sessions.closed) != 0 {
		t.Error("the end of the old connection was told, although the server has another one")
	}
}

// One that was told to move, has another connection and does not leave is not told to come back.
func TestAMovingServerThatStaysIsSentAwayForGood(t *testing.T) {
	w := start(t, nil)
	c := w.backend.issuer.pair(t)
	s := w.open(c, &linkv1.Hello{})
	w.stopping()
	s.moved()
	w.publish(&eventv1.Envelope{Replaced: []*eventv1.SessionReplaced{{ServerId: c.server, SessionEpoch: 2}}})
	if code := s.closed(); code != linkv1.CloseCode_CLOSE_CODE_REPLACED {
		t.Errorf("closed with %v", code)
	}
}

// What a server asked before it connected again is answered before its old connection is closed.
func TestAReplacedConnectionIsClosedAfterItsLastAnswer(t *testing.T) {
	w := start(t, nil)
	c, witness := w.backend.issuer.pair(t), uuid.NewString()
	s, other := w.open(c, &linkv1.Hello{}), w.linked(w.backend.issuer.pair(t), witness)
	asked, goOn := make(chan struct{}), make(chan struct{})
	w.backend.sessions.set(func(ses *sessions) {
		ses.relays = func(r *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
			if r.GetRequest().GetMethod() == "Slow" {
				close(asked)
				<-goOn
			}
			return echo(r)
		}
	})
	slow := s.request("Slow", "", nil)
	next(t, "the request", asked)
	w.publish(&eventv1.Envelope{Replaced: []*eventv1.SessionReplaced{{ServerId: c.server, SessionEpoch: 9}}})
	w.deliver(delivery(witness, 1, 0))
	other.notified() // so the gateway knows
	close(goOn)
	if r := s.answer(slow); r.GetError() != nil {
		t.Errorf("%v", r)
	}
	if code := s.closed(); code != linkv1.CloseCode_CLOSE_CODE_REPLACED {
		t.Errorf("closed with %v", code)
	}
}

// An answer that does not come does not keep a replaced connection.
func TestAReplacedConnectionDoesNotWaitForEver(t *testing.T) {
	w := start(t, nil)
	c := w.backend.issuer.pair(t)
	s := w.open(c, &linkv1.Hello{})
	asked := make(chan struct{})
	w.backend.sessions.set(func(ses *sessions) {
		ses.relays = func(*sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) { close(asked); return nil, nil }
	})
	s.request("Slow", "", nil)
	next(t, "the request", asked)
	w.publish(&eventv1.Envelope{Replaced: []*eventv1.SessionReplaced{{ServerId: c.server, SessionEpoch: 9}}})
	f, err := s.read()
	if err != nil || errors.Is(err, context.DeadlineExceeded) || f.GetGoodbye().GetCode() != linkv1.CloseCode_CLOSE_CODE_REPLACED {
		t.Errorf("%v, %v", f, err)
	}
}
