package messages_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/errs"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	"github.com/berth-dev/berth/services/gateway/internal/messages"
	"github.com/berth-dev/berth/services/gateway/internal/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is one whose publishing takes until the test says that it is done.
type store struct {
	underway chan struct{} // gets a token when a publishing begins
	done     chan error    // ends it
	mu       sync.Mutex
	got      []*eventv1.ServerMessages
}

func (s *store) Partitions() int         { return 4 }
func (s *store) Partition(id string) int { return int(id[0]) % 4 }
func (s *store) batches() (n, total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.got {
		total += len(m.GetMessages())
	}
	return len(s.got), total
}

func (s *store) PublishAll(_ context.Context, all map[string][]byte) error {
	s.underway <- struct{}{}
	err := <-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, raw := range all {
		m := new(eventv1.ServerMessages)
		if err := proto.Unmarshal(raw, m); err != nil {
			return err
		}
		s.got = append(s.got, m)
	}
	return err
}

func play(t *testing.T, test func(t *testing.T, s *store, p *messages.Publisher, m *metrics.Metrics)) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{underway: make(chan struct{}, 100), done: make(chan error, 100)}
		m := metrics.New(prometheus.NewRegistry())
		p := messages.New(messages.Config{Store: s, Gateway: func() (string, error) { return "gw", nil }, Log: slog.New(slog.DiscardHandler), Metrics: m})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		test(t, s, p, m)
		cancel()
		close(s.done)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func said(instance string, sequence int64, data []byte) messages.Message {
	return messages.Message{Namespace: "n", Instance: instance, Server: "s", Sequence: sequence, Topic: []byte("t"), Data: data}
}

func TestWhatQueuesWhileABatchIsUnderWayIsTheNext(t *testing.T) {
	play(t, func(t *testing.T, s *store, p *messages.Publisher, _ *metrics.Metrics) {
		send := func(from, to int64) {
			for n := from; n <= to; n++ {
				for _, id := range []string{"a", "b"} { // of two channels
					if err := p.Send(said(id, n, fmt.Append(nil, n))); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		send(1, 1)
		<-s.underway
		send(2, 100)
		s.done <- nil
		<-s.underway
		s.done <- nil
		synctest.Wait()
		if n, total := s.batches(); n > 4 || total != 200 {
			t.Fatalf("%d messages in %d batches", total, n)
		}
		last := make(map[string]int64)
		for _, b := range s.got {
			for _, m := range b.GetMessages() {
				want := &eventv1.ServerMessage{Namespace: "n", InstanceId: m.GetInstanceId(), ServerId: "s", Sequence: last[m.GetInstanceId()] + 1, Topic: "t"}
				want.Data = fmt.Append(nil, want.GetSequence())
				if !proto.Equal(m, want) || b.GetGatewayId() != "gw" {
					t.Fatalf("%v of %s, want %v", m, b.GetGatewayId(), want)
				}
				last[m.GetInstanceId()]++
			}
		}
	})
}

// What does not fit into the next envelope is dropped, and what is queued is not.
func TestTheQueueIsBounded(t *testing.T) {
	for name, c := range map[string]struct{ size, atMost int }{"in bytes": {16 << 10, 64}, "in number": {0, 8192}} {
		t.Run(name, func(t *testing.T) {
			play(t, func(t *testing.T, s *store, p *messages.Publisher, m *metrics.Metrics) {
				if err := p.Send(said("a", 1, nil)); err != nil {
					t.Fatal(err)
				}
				<-s.underway
				sent, dropped := 0, 0
				for n := int64(2); n < 10_000; n++ {
					switch err := p.Send(said("a", n, make([]byte, c.size))); {
					case err == nil && dropped == 0:
						sent++
					case errs.Is(err, errs.ServiceUnavailable):
						dropped++
					default:
						t.Fatalf("%v after %d were dropped", err, dropped)
					}
				}
				if sent == 0 || sent > c.atMost || testutil.ToFloat64(m.MessagesLost.WithLabelValues("SERVICE_UNAVAILABLE")) != float64(dropped) {
					t.Errorf("%d of at most %d are queued, %d dropped", sent, c.atMost, dropped)
				}
				if err := p.Send(said("b", 1, nil)); err != nil {
					t.Errorf("another channel's queue is full, too: %v", err)
				}
				s.done <- nil
				<-s.underway
				s.done <- nil
				synctest.Wait()
				if _, total := s.batches(); total != sent+2 {
					t.Errorf("%d were published of %d", total, sent+2)
				}
			})
		})
	}
}

func TestSendersHearOfAStoreThatTakesNothing(t *testing.T) {
	play(t, func(t *testing.T, s *store, p *messages.Publisher, m *metrics.Metrics) {
		for _, step := range []struct {
			outcome error
			before  errs.Reason
		}{{errors.New("away"), ""}, {errors.New("away"), errs.StoreUnavailable}, {nil, errs.StoreUnavailable}, {nil, ""}} {
			if err := p.Send(said("a", 1, nil)); errs.ReasonOf(err) != step.before {
				t.Errorf("%v, want %v", err, step.before)
			}
			<-s.underway
			s.done <- step.outcome
			synctest.Wait()
		}
		if in, lost := testutil.ToFloat64(m.MessagesIn), testutil.ToFloat64(m.MessagesLost.WithLabelValues("STORE_UNAVAILABLE")); in != 2 || lost != 2 {
			t.Errorf("%v published, %v lost", in, lost)
		}
	})
}
