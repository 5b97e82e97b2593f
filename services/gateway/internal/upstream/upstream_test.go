package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/berth-dev/berth/pkg/errs"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/rpc"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/berth-dev/berth/sdk/go/token"

	"github.com/berth-dev/berth/services/gateway/internal/metrics"
)

// fakeService answers the calls of acks and closes with what the test says. That relayed calls survive broken streams is tested with real ones, in
// package gateway.
type fakeService struct {
	sessionv1.SessionServiceClient
	mu     sync.Mutex
	err    error
	acks   [][]*sessionv1.MailboxAck
	closes []*sessionv1.CloseSessionRequest
	tries  int
	left   time.Duration // until the deadline of the last call about a session
}

func (f *fakeService) AckNotifications(_ context.Context, req *sessionv1.AckNotificationsRequest, _ ...grpc.CallOption) (*sessionv1.AckNotificationsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tries++
	if f.err != nil {
		return nil, f.err
	}
	f.acks = append(f.acks, req.GetAcks())
	return &sessionv1.AckNotificationsResponse{}, nil
}

func (f *fakeService) OpenSession(ctx context.Context, _ *sessionv1.OpenSessionRequest, _ ...grpc.CallOption) (*sessionv1.OpenSessionResponse, error) {
	deadline, _ := ctx.Deadline()
	f.left = time.Until(deadline)
	return &sessionv1.OpenSessionResponse{}, nil
}

func (f *fakeService) CloseSession(ctx context.Context, req *sessionv1.CloseSessionRequest, _ ...grpc.CallOption) (*sessionv1.CloseSessionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	deadline, _ := ctx.Deadline()
	f.left = time.Until(deadline)
	f.tries++
	if f.err != nil {
		return nil, f.err
	}
	f.closes = append(f.closes, req)
	return &sessionv1.CloseSessionResponse{}, nil
}

func (f *fakeService) answerWith(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func away() error { return rpc.Status(errs.New(errs.StoreUnavailable, "away")).Err() }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func ack(instance string, epoch, offset int64) *sessionv1.MailboxAck {
	return &sessionv1.MailboxAck{InstanceId: instance, LinkEpoch: epoch, Offset: offset}
}

func TestOnlyTheNewestAcknowledgementOfAnInstanceIsSent(t *testing.T) {
	a := newAcks(nil, quiet())
	for _, x := range []*sessionv1.MailboxAck{ack("i", 1, 5), ack("i", 1, 9), ack("i", 1, 7), ack("j", 2, 3), ack("j", 1, 99)} {
		a.add(x)
	}
	got := make(map[string]int64)
	for _, x := range a.batch() {
		got[x.GetInstanceId()] = x.GetOffset()
	}
	if len(got) != 2 || got["i"] != 9 || got["j"] != 3 {
		t.Errorf("%v", got)
	}
}

func TestAcknowledgementsAreBatchedWithinTheLimit(t *testing.T) {
	a := newAcks(nil, quiet())
	for n := range ackBatch + 5 {
		a.add(ack(fmt.Sprint(n), 1, 1))
	}
	if first, second := a.batch(), a.batch(); len(first) != ackBatch || len(second) != 5 || a.batch() != nil {
		t.Errorf("batches of %d and %d", len(first), len(second))
	}
}

func TestAcknowledgementsAreKeptWhileNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeService{err: away()}
		a := newAcks(f, quiet())
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { a.run(ctx) })
		a.add(ack("i", 1, 5))
		time.Sleep(10 * time.Second)
		a.add(ack("i", 1, 6))
		f.answerWith(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if len(f.acks) != 1 || f.acks[0][0].GetOffset() != 6 || f.tries > 25 {
			t.Errorf("%v after %d tries", f.acks, f.tries)
		}
		f.answerWith(rpc.Status(errs.New(errs.ValidationFailed, "never")).Err())
		a.add(ack("i", 1, 7))
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(a.waiting); n != 0 {
			t.Errorf("%d refused acknowledgements wait", n)
		}
		cancel()
		running.Wait()
	})
}

func ended(server string, epoch int64) *sessionv1.CloseSessionRequest {
	return &sessionv1.CloseSessionRequest{ServerId: server, SessionEpoch: epoch}
}

func TestEndsOfSessionsAreToldUntilAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeService{err: away()}
		c := newCloses(f, quiet())
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { c.run(ctx) })
		if err := c.flush(ctx); err != nil {
			t.Errorf("flush of nothing: %v", err)
		}
		for n := range 100 {
			c.add(ended(fmt.Sprint(n), 1))
		}
		short, done := context.WithTimeout(ctx, 10*time.Second)
		defer done()
		if err := c.flush(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("flush while nobody answers: %v", err)
		}
		synctest.Wait()
		if f.tries > 8*25 {
			t.Errorf("%d tries within 10 s", f.tries)
		}
		f.answerWith(nil)
		if err := c.flush(ctx); err != nil {
			t.Error(err)
		}
		told := make(map[string]bool)
		for _, req := range f.closes {
			told[req.GetServerId()] = true
		}
		if len(told) != 100 || len(f.closes) != 100 {
			t.Errorf("%d servers, %d calls", len(told), len(f.closes))
		}
		cancel()
		running.Wait()
	})
}

func TestAnEndThatNobodyNeedsIsNotTold(t *testing.T) {
	c := newCloses(nil, quiet()) // nobody works on it
	c.add(ended("taken over", 1))
	c.add(ended("newer", 1))
	c.add(ended("newer", 3))
	c.add(ended("newer", 2))
	c.takenOver("taken over", 2)
	c.takenOver("newer", 3)
	if len(c.waiting) != 1 || c.waiting["newer"].GetSessionEpoch() != 3 {
		t.Errorf("%v", c.waiting)
	}
	c.forget()
	if err := c.flush(t.Context()); err != nil || len(c.waiting) != 0 {
		t.Errorf("%v, %v", c.waiting, err)
	}
}

// Instances are dealt with one after the other, so a server that has many gets more time to open its session, and the end of it too.
func TestACallAboutManyInstancesMayTakeLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeService{}
		c := &Client{sessions: f, opening: make(chan struct{}, maxOpening)}
		for n, want := range map[int]time.Duration{1: 5005 * time.Millisecond, 1000: 10 * time.Second} {
			if _, err := c.OpenSession(t.Context(), token.Server{}, "g", &linkv1.Hello{Instances: make([]*linkv1.HelloInstance, n)}); err != nil || f.left != want {
				t.Errorf("%d instances: a session may take %v to open, want %v (%v)", n, f.left, want, err)
			}
			if newCloses(f, quiet()).send(t.Context(), &sessionv1.CloseSessionRequest{InstanceIds: make([]string, n)}); f.left != want {
				t.Errorf("%d instances: its end may take %v to tell, want %v", n, f.left, want)
			}
		}
	})
}

// slowOpening opens sessions one a second.
type slowOpening struct {
	sessionv1.SessionServiceClient
	now, most atomic.Int64
}

func (s *slowOpening) OpenSession(context.Context, *sessionv1.OpenSessionRequest, ...grpc.CallOption) (*sessionv1.OpenSessionResponse, error) {
	s.most.Store(max(s.most.Load(), s.now.Add(1)))
	defer s.now.Add(-1)
	<-time.After(time.Second)
	return &sessionv1.OpenSessionResponse{}, nil
}

// The servers of a gateway that died all came at once, every session took too long to open, and all came again.
func TestSessionsAreOpenedAFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowOpening{}
		c := &Client{sessions: s, opening: make(chan struct{}, maxOpening)}
		var opened, refused atomic.Int64
		var all sync.WaitGroup
		for range 10 * maxOpening {
			all.Go(func() {
				switch _, err := c.OpenSession(t.Context(), token.Server{}, "g", &linkv1.Hello{}); {
				case err == nil:
					opened.Add(1)
				case errs.Is(err, errs.ServiceUnavailable):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		// Those of the second in which the wait ends may be served or not.
		if n := opened.Load(); n < 5*maxOpening || n > 6*maxOpening || refused.Load() != 10*maxOpening-n || s.most.Load() > maxOpening {
			t.Errorf("%d opened, %d refused, %d at once", n, refused.Load(), s.most.Load())
		}
	})
}

// hangingOpening never opens a session.
type hangingOpening struct {
	sessionv1.SessionServiceClient
}

func (hangingOpening) OpenSession(ctx context.Context, _ *sessionv1.OpenSessionRequest, _ ...grpc.CallOption) (*sessionv1.OpenSessionResponse, error) {
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

// The wait for a turn and the call for many instances together took longer than a server waits for Welcome.
func TestAnOpeningEndsBeforeTheServerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{sessions: hangingOpening{}, opening: make(chan struct{}, 1)}
		c.opening <- struct{}{}
		time.AfterFunc(4*time.Second, func() { <-c.opening })
		begin := time.Now()
		_, err := c.OpenSession(t.Context(), token.Server{}, "g", &linkv1.Hello{Instances: make([]*linkv1.HelloInstance, 1000)})
		if took := time.Since(begin); took != openingTime || errs.ReasonOf(err).Kind() != errs.KindDeadlineExceeded {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

func TestAFullLaneRefusesAtOnce(t *testing.T) {
	l := newLane(nil, quiet(), metrics.New(prometheus.NewRegistry())) // without a stream
	refused := 0
	submit := func(size int) {
		l.submit(&call{deadline: time.Now().Add(time.Minute), size: size, request: &sessionv1.RelayRequest{Request: &linkv1.Request{}}, done: func(_ *sessionv1.RelayResponse, err error) {
			if !errs.Is(err, errs.ServiceUnavailable) {
				t.Errorf("failed with %v", err)
			}
			refused++
		}})
	}
	submit(maxBytes + 1) // one call always has room
	submit(1)
	if refused != 1 || len(l.calls) != 1 {
		t.Fatalf("%d refused, %d wait", refused, len(l.calls))
	}
	l.expire(time.Now().Add(time.Hour))
	if refused != 2 || len(l.calls) != 0 || len(l.queue) != 0 || l.bytes != 0 {
		t.Fatalf("after the deadline: %d refused, %d wait, %d queued, %d bytes", refused, len(l.calls), len(l.queue), l.bytes)
	}
	for range maxCalls + 10 {
		submit(1)
	}
	if refused != 12 || len(l.calls) != maxCalls {
		t.Errorf("%d refused, %d wait", refused, len(l.calls))
	}
}
