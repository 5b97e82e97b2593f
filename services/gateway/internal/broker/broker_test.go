package broker_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"

	"github.com/berth-dev/berth/services/gateway/internal/broker"
	"github.com/berth-dev/berth/services/gateway/internal/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

func next[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: did not come", what)
		panic("unreachable")
	}
}

// listen runs a broker of the life "gw" and returns what it delivers and when it proved itself.
func listen(t *testing.T, client *redisx.Store) (*broker.Broker, <-chan *eventv1.Envelope, <-chan struct{}) {
	t.Helper()
	envelopes, proven := make(chan *eventv1.Envelope, 100), make(chan struct{}, 1)
	b := broker.New(broker.Config{
		Client: client, Interval: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler), Metrics: metrics.New(prometheus.NewRegistry()),
		Deliver: func(e *eventv1.Envelope) { envelopes <- e },
		Message: func(broker.Message) {},
		Again:   func() {},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		b.Run(ctx, "gw", func() {
			select {
			case proven <- struct{}{}:
			default:
			}
		})
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return b, envelopes, proven
}

func publish(t *testing.T, store *redisx.Store, payload []byte) {
	t.Helper()
	if err := store.PublishAll(context.Background(), map[string][]byte{"berth:gw:gw": payload}); err != nil {
		t.Fatal(err)
	}
}

func TestEnvelopesArrive(t *testing.T) {
	redistest.Each(t, func(t *testing.T, store *redisx.Store) {
		b, envelopes, proven := listen(t, store)
		next(t, "the proof", proven)
		if err := b.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		want := &eventv1.Envelope{Deliveries: []*eventv1.Delivery{{InstanceId: "i", Offset: 1}}}
		raw, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		publish(t, store, []byte("\xff no envelope"))
		publish(t, store, raw)
		if got := next(t, "the envelope", envelopes); !proto.Equal(got, want) {
			t.Errorf("%v", got)
		}
	})
}

// A connection over which nothing comes any more, though it stands, is given up: after a failover a subscription may be on a server that nobody
// publishes to.
func TestASilentSubscriptionIsMadeAgain(t *testing.T) {
	store := redistest.Embedded(t)
	p := newProxy(t, store.Addrs()[0])
	through := redistest.Open(t, p.addr)
	b, envelopes, proven := listen(t, through)
	next(t, "the proof", proven)
	p.silence()
	deadline := time.After(patience)
	for b.Ready(t.Context()) == nil {
		select {
		case <-deadline:
			t.Fatal("it says that it is ready")
		case <-time.After(5 * time.Millisecond):
		}
	}
	for len(proven) > 0 {
		<-proven
	}
	next(t, "the proof of the next subscription", proven)
	raw, err := proto.Marshal(&eventv1.Envelope{Deliveries: []*eventv1.Delivery{{InstanceId: "i"}}})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, store, raw)
	next(t, "an envelope", envelopes)
}

// proxy passes connections on until it is told to be silent: then the one that has a subscription stays open, and nothing comes out of it any more.
type proxy struct {
	addr    string
	mu      sync.Mutex
	muted   []*bool
	running sync.WaitGroup
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: ln.Addr().String()}
	var conns []net.Conn
	p.running.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				return
			}
			conns = append(conns, in, out)
			subscribed := new(bool)
			p.running.Go(func() { p.pass(in, out, subscribed, true) })
			p.running.Go(func() { p.pass(out, in, subscribed, false) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		for _, c := range conns {
			_ = c.Close()
		}
		p.running.Wait()
	})
	return p
}

func (p *proxy) pass(from io.Reader, to io.Writer, muted *bool, watch bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		if watch && bytes.Contains(buf[:n], []byte("subscribe")) {
			p.muted = append(p.muted, muted)
		}
		drop := *muted
		p.mu.Unlock()
		if drop {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil && !errors.Is(err, io.EOF) {
			return
		}
	}
}

func (p *proxy) silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.muted {
		*m = true
	}
}
