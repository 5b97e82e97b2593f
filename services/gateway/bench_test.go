package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// BenchmarkRequests measures requests over sockets to a backend that echoes them, all within one process: socket, gateway, relay stream and back.
func BenchmarkRequests(b *testing.B) {
	payload := bytes.Repeat([]byte("x"), 128)
	for _, c := range []struct{ sockets, inFlight int }{{1, 1}, {1, 16}, {64, 1}, {64, 8}} {
		b.Run(fmt.Sprintf("sockets=%d/inflight=%d", c.sockets, c.inFlight), func(b *testing.B) {
			w := start(b, nil)
			sockets := make([]*socket, c.sockets)
			for i := range sockets {
				sockets[i] = w.open(w.backend.issuer.pair(b), &linkv1.Hello{})
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			b.ResetTimer()
			var all sync.WaitGroup
			for i, s := range sockets {
				n := b.N / len(sockets)
				if i == 0 {
					n += b.N % len(sockets)
				}
				all.Go(func() {
					for sent, answered := 0, 0; answered < n; {
						if sent < n && sent-answered < c.inFlight {
							s.request("Echo", "", payload)
							sent++
							continue
						}
						if f, err := s.read(); err != nil || f.GetResponse().GetError() != nil {
							b.Errorf("%v, %v", f, err)
							return
						}
						answered++
					}
				})
			}
			all.Wait()
			b.StopTimer()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N), "mallocs/op") // of client, gateway and backend
		})
	}
}

// BenchmarkNotifications measures what is published on Redis until it is read from a socket.
func BenchmarkNotifications(b *testing.B) {
	w := start(b, nil)
	id := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(b), id)
	const batch = 50
	b.ResetTimer()
	for n := 0; n < b.N; n += batch {
		e := new(eventv1.Envelope)
		for i := range batch {
			e.Deliveries = append(e.Deliveries, delivery(id, int64(n+i+1), int64(n+i)))
		}
		w.commit(e.Deliveries...)
		w.publish(e)
		for range batch {
			s.notified()
		}
	}
}

// BenchmarkIdleConnections reports the memory of a linked socket that is silent; its client's end, in the same process, is in it. There is nothing to repeat.
func BenchmarkIdleConnections(b *testing.B) {
	w := start(b, nil)
	const n = 1000
	sockets := make([]*socket, n)
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := inUse()
	for i := range sockets {
		sockets[i] = w.open(w.backend.issuer.pair(b), &linkv1.Hello{})
	}
	b.ReportMetric(float64(inUse()-before)/n, "B/conn")
	b.ReportMetric(0, "ns/op")
	runtime.KeepAlive(sockets)
}

// said encodes a message of a server, as an SDK sends it over a socket.
func said(tb testing.TB, s *socket, instance string, sequence int64, data []byte) []byte {
	tb.Helper()
	raw, err := proto.Marshal(&linkv1.Frame{Kind: &linkv1.Frame_Message{Message: &linkv1.Message{
		InstanceId: instance, Auth: &linkv1.Credentials{Game: s.welcome.GetGameHandle(), Social: s.welcome.GetSocialHandle()}, LinkEpoch: 1, Sequence: sequence,
		Topic: "chat", Data: &typev1.Data{Kind: &typev1.Data_Binary{Binary: data}},
	}}})
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// skip reads a frame and forgets it.
func (s *socket) skip() error {
	_, r, err := s.ws.Reader(context.Background())
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	return err
}

// BenchmarkMessagesUp measures messages of servers until Redis has them for a backend. The mallocs are those of clients, gateway and backend.
func BenchmarkMessagesUp(b *testing.B) {
	w := startOn(b, redistest.Open(b, redistest.Server(b)), newSessions(), nil)
	const sockets = 64
	sub := w.store.Subscribe(b.Context(), redisx.MessageChannels()...)
	defer func() { _ = sub.Close() }()
	var frames [sockets][]byte
	var all [sockets]*socket
	for i := range all {
		id := uuid.NewString()
		all[i] = w.linked(w.backend.issuer.pair(b), id)
		frames[i] = said(b, all[i], id, 1, bytes.Repeat([]byte("x"), 128))
	}
	underway := make(chan struct{}, 8*sockets) // so that nothing is dropped
	mallocs(b, func() {
		var sending sync.WaitGroup
		for i, s := range all {
			sending.Go(func() {
				for n := i; n < b.N; n += sockets {
					underway <- struct{}{}
					if err := s.ws.Write(context.Background(), websocket.MessageBinary, frames[i]); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		for got := 0; got < b.N; {
			m, err := sub.ReceiveMessage(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			for range countFields(b, []byte(m.Payload), 2) {
				<-underway
				got++
			}
		}
		sending.Wait()
	})
}

// BenchmarkMessagesDown measures messages of a backend from Redis until they are read from sockets.
func BenchmarkMessagesDown(b *testing.B) {
	w := startOn(b, redistest.Open(b, redistest.Server(b)), newSessions(), nil)
	const sockets = 64
	var all [sockets]*socket
	e := new(eventv1.Envelope)
	for i := range all {
		id := uuid.NewString()
		all[i] = w.linked(w.backend.issuer.pair(b), id)
		e.Messages = append(e.Messages, &eventv1.BackendMessage{InstanceId: id, Topic: "chat", Data: bytes.Repeat([]byte("x"), 128)})
	}
	raw, err := proto.Marshal(e)
	if err != nil {
		b.Fatal(err)
	}
	channel := redisx.GatewayChannel(w.backend.sessions.gateway())
	mallocs(b, func() {
		for n := 0; n < b.N; n += sockets {
			if err := w.store.Publish(b.Context(), channel, raw).Err(); err != nil {
				b.Fatal(err)
			}
			for _, s := range all {
				if err := s.skip(); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// countFields returns how often a field is in an encoded message.
func countFields(b *testing.B, raw []byte, number protowire.Number) (count int) {
	b.Helper()
	for len(raw) > 0 {
		got, _, n := protowire.ConsumeField(raw)
		if n < 0 {
			b.Fatal(protowire.ParseError(n))
		}
		if got == number {
			count++
		}
		raw = raw[n:]
	}
	return count
}

// mallocs reports the allocations of the whole process.
func mallocs(b *testing.B, measured func()) {
	b.Helper()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	b.ResetTimer()
	measured()
	b.StopTimer()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N), "mallocs/op")
}
