package standin

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Relay passes connections on to a host until the test ends. It is safe for concurrent use.
type Relay struct {
	// Addr is where it listens.
	Addr string

	to      string
	swallow atomic.Bool
	opened  atomic.Int32
	mu      sync.Mutex
	conns   []net.Conn
	running sync.WaitGroup
}

// NewRelay returns a Relay to an address.
func NewRelay(t testing.TB, to string) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{Addr: l.Addr().String(), to: to}
	r.running.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			r.connect(in)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.mu.Lock()
		for _, c := range r.conns {
			_ = c.Close()
		}
		r.mu.Unlock()
		r.running.Wait()
	})
	return r
}

// Swallow has the first connection stay open from now on with nothing coming through it, as where a NAT has forgotten it. The others go on.
func (r *Relay) Swallow() { r.swallow.Store(true) }

// Opened returns how many connections there were.
func (r *Relay) Opened() int { return int(r.opened.Load()) }

func (r *Relay) connect(in net.Conn) {
	out, err := net.Dial("tcp", r.to)
	if err != nil {
		_ = in.Close()
		return
	}
	first := r.opened.Add(1) == 1
	r.mu.Lock()
	r.conns = append(r.conns, in, out)
	r.mu.Unlock()
	r.running.Go(func() { r.pass(out, in, first) })
	r.running.Go(func() { r.pass(in, out, first) })
}

func (r *Relay) pass(to, from net.Conn, first bool) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if first && r.swallow.Load() {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
