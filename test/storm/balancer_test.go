package storm

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/test/stack"
)

// balancer is what stands before the gateways: new connections go round among those that are ready, as behind a Service of Kubernetes; open ones are left
// alone, whatever becomes of the gateway.
type balancer struct {
	addr     string
	backends []*backend
	turn     atomic.Uint64
	opened   atomic.Int64 // connections that were made to a gateway
	ended    atomic.Int64 // of those, how many have ended

	mu   sync.Mutex
	open map[net.Conn]struct{}
}

// backend is a gateway.
type backend struct {
	addr  string
	ready atomic.Bool
}

// newBalancer serves until the end of the test.
func newBalancer(t testing.TB, s *stack.Stack) *balancer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{addr: ln.Addr().String(), open: map[net.Conn]struct{}{}}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for n, name := range []string{stack.GatewayA, stack.GatewayB} {
		g := &backend{addr: strings.TrimPrefix(s.Edges[n], "http://")}
		g.ready.Store(true)
		b.backends = append(b.backends, g)
		all.Go(func() { g.watch(ctx, s.Procs[name]) })
	}
	all.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { b.serve(client) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = ln.Close()
		b.cut()
		all.Wait()
	})
	return b
}

// watch asks the gateway whether it is ready.
func (g *backend) watch(ctx context.Context, p *stack.Process) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, 2*time.Second)
		status, _, err := p.Probe(asking, "/readyz")
		cancel()
		g.ready.Store(err == nil && status == http.StatusOK)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// dial connects to the next gateway that is ready and takes the connection.
func (b *balancer) dial() (net.Conn, error) {
	first := b.turn.Add(1)
	for n := range b.backends {
		g := b.backends[(first+uint64(n))%uint64(len(b.backends))]
		if !g.ready.Load() {
			continue
		}
		if conn, err := net.DialTimeout("tcp", g.addr, time.Second); err == nil {
			return conn, nil
		}
	}
	return nil, errors.New("no gateway is ready")
}

// serve passes everything on, both ways, until either side ends the connection.
func (b *balancer) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := b.dial()
	if err != nil {
		return
	}
	b.opened.Add(1)
	b.note(client, true)
	defer func() { b.note(client, false); b.ended.Add(1) }()
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	_, _ = io.Copy(client, server)
	_ = client.Close()
	_ = server.Close()
	both.Wait()
}

func (b *balancer) note(c net.Conn, open bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if open {
		b.open[c] = struct{}{}
	} else {
		delete(b.open, c)
	}
}

// cut ends all connections.
func (b *balancer) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.open {
		_ = c.Close()
	}
}
