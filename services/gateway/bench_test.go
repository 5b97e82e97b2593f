package gateway_test

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/google/uuid"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
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
