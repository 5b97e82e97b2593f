package gateway_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway"
)

func TestAReplacedSessionIsClosed(t *testing.T) {
	w := start(t, nil)
	c := w.backend.issuer.pair(t)
	s := w.open(c, &linkv1.Hello{})
	w.publish(&eventv1.Envelope{Replaced: []*eventv1.SessionReplaced{{ServerId: c.server, SessionEpoch: 1}, {ServerId: uuid.NewString(), SessionEpoch: 9}}})
	s.call("Echo", "", nil) // it is epoch 1 itself
	w.publish(&eventv1.Envelope{Replaced: []*eventv1.SessionReplaced{{ServerId: c.server, SessionEpoch: 2}}})
	if code := s.closed(); code != linkv1.CloseCode_CLOSE_CODE_REPLACED {
		t.Errorf("closed with %v", code)
	}
}

func TestAServerThatConnectsAgainHereReplacesItself(t *testing.T) {
	w := start(t, nil)
	c, id := w.backend.issuer.pair(t), uuid.NewString()
	old := w.linked(c, id)
	s := w.open(c, &linkv1.Hello{ResumeKey: old.welcome.GetResumeKey(), Instances: []*linkv1.HelloInstance{{InstanceId: id, LinkEpoch: 1}}})
	if code := old.closed(); code != linkv1.CloseCode_CLOSE_CODE_REPLACED {
		t.Errorf("closed with %v", code)
	}
	w.deliver(delivery(id, 1, 0))
	if got := s.notified(); got != 1 {
		t.Errorf("%d", got)
	}
	_ = s.ws.CloseNow()
	// The end of the old session was not told: the new one took over.
	if req := next(t, "CloseSession", w.backend.sessions.closed); req.GetSessionEpoch() != 2 {
		t.Errorf("%v", req)
	}
}

// The news that a session was taken over may come while that session is still being opened here.
func TestASessionReplacedWhileItOpensIsClosed(t *testing.T) {
	w := start(t, nil)
	c := w.backend.issuer.pair(t)
	goOn := make(chan struct{})
	w.backend.sessions.set(func(s *sessions) {
		s.opens = func(*sessionv1.OpenSessionRequest) (*sessionv1.OpenSessionResponse, error) {
			<-goOn
			return &sessionv1.OpenSessionResponse{SessionId: "s", SessionEpoch: 5, ResumeKey: "k"}, nil
		}
	})
	witness := uuid.NewString()
	s, _, err := w.dial(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{}}})
	next(t, "OpenSession", w.backend.sessions.opened)
	w.backend.sessions.set(func(s *sessions) { s.opens = nil })
	other := w.linked(w.backend.issuer.pair(t), witness)
	w.publish(&eventv1.Envelope{Replaced: []*eventv1.SessionReplaced{{ServerId: c.server, SessionEpoch: 6}}})
	w.deliver(delivery(witness, 1, 0))
	other.notified() // so the gateway knows
	close(goOn)
	if code := s.closed(); code != linkv1.CloseCode_CLOSE_CODE_REPLACED {
		t.Errorf("closed with %v", code)
	}
}

func TestALapsedLeaseClosesAllAndBeginsAnotherLife(t *testing.T) {
	w := start(t, nil)
	first := w.backend.sessions.gateway()
	a, b := w.open(w.backend.issuer.pair(t), &linkv1.Hello{}), w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	w.backend.sessions.set(func(s *sessions) { s.lapseOnce = true })
	for _, s := range []*socket{a, b} {
		if code := s.closed(); code != linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE {
			t.Errorf("closed with %v", code)
		}
	}
	eventually(t, "another life begins", func() error {
		if id := w.backend.sessions.gateway(); id == first {
			return errors.New("it is the same id")
		}
		return w.app.Ready(context.Background())
	})
	for len(w.backend.sessions.opened) > 0 {
		<-w.backend.sessions.opened
	}
	id := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), id)
	if req := next(t, "OpenSession", w.backend.sessions.opened); req.GetGatewayId() != w.backend.sessions.gateway() {
		t.Errorf("the session was opened in life %s", req.GetGatewayId())
	}
	w.deliver(delivery(id, 1, 0)) // on the new channel
	if got := s.notified(); got != 1 {
		t.Errorf("%d", got)
	}
}

func TestDrainSendsEveryServerElsewhere(t *testing.T) {
	w := start(t, nil)
	id := w.backend.sessions.gateway()
	var all []*socket
	servers := make(map[string]bool)
	for range 30 {
		c := w.backend.issuer.pair(t)
		servers[c.server] = true
		all = append(all, w.open(c, &linkv1.Hello{}))
	}
	silent, _, err := w.dial(w.backend.issuer.pair(t), nil) // has not said hello
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	began := time.Now()
	go func() { defer close(stopped); w.stop() }()
	for _, s := range append(all, silent) {
		if code := s.closed(); code != linkv1.CloseCode_CLOSE_CODE_GOING_AWAY {
			t.Errorf("closed with %v", code)
		}
	}
	<-stopped
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	for range 30 {
		delete(servers, next(t, "CloseSession", w.backend.sessions.closed).GetServerId())
	}
	if len(servers) != 0 {
		t.Errorf("the ends of %d sessions were not told", len(servers))
	}
	if released := next(t, "the lease's release", w.backend.sessions.released); released != id {
		t.Errorf("lease of %s was released, want %s", released, id)
	}
}

// A peer that neither reads nor closes does not keep the gateway from stopping in time.
func TestDrainIsNotHeldUpByADeadPeer(t *testing.T) {
	w := start(t, nil)
	w.open(w.backend.issuer.pair(t), &linkv1.Hello{}) // nobody reads it again
	began := time.Now()
	w.stop()
	if took := time.Since(began); took > 7*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if len(w.backend.sessions.closed) != 1 {
		t.Error("the end of its session was not told")
	}
}

func TestReadinessNamesWhatIsMissing(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.Lease, c.LeaseInterval = 200*time.Millisecond, 50*time.Millisecond })
	w.backend.stop()
	eventually(t, "readiness goes", func() error {
		if err := w.app.Ready(context.Background()); err == nil || !strings.Contains(err.Error(), "game-instance") {
			return errors.New("readiness says nothing of game-instance")
		}
		return nil
	})
	_, resp, err := w.dial(w.backend.issuer.pair(t), nil)
	if err == nil || resp.StatusCode != 503 {
		t.Errorf("the upgrade was answered with %v, %v", resp, err)
	}
}
