package hostapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// relay hands connections on to a server.
type relay struct {
	net.Listener
	to    string
	mu    sync.Mutex
	dead  bool // the first connection: whatever comes on it is lost, and nobody says so
	conns int
	all   sync.WaitGroup
}

func (r *relay) serve() {
	for {
		in, err := r.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", r.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		r.mu.Lock()
		r.conns++
		first := r.conns == 1
		r.mu.Unlock()
		r.all.Go(func() { r.copy(out, in, first) })
		r.all.Go(func() { r.copy(in, out, first) })
	}
}

func (r *relay) copy(to, from net.Conn, first bool) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		r.mu.Lock()
		lost := first && r.dead
		r.mu.Unlock()
		if lost {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (r *relay) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dead = true
}

// A connection of HTTP/2 on which nothing comes any more is left for another one.
func TestADeadConnectionIsLeft(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("called by %s", r.Proto)
		}
		_, _ = io.WriteString(w, "{}")
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: ln, to: srv.Listener.Addr().String()}
	r.all.Go(r.serve)
	defer r.all.Wait()
	defer ln.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	c, err := newClient(Config{Host: "Host", URL: "https://" + ln.Addr().String(), TLS: &tls.Config{RootCAs: pool}},
		http.HTTP2Config{SendPingTimeout: 50 * time.Millisecond, PingTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	look := func(ctx context.Context) error {
		return c.Do(ctx, Call{Operation: Read("look", 0), Method: http.MethodGet, Path: "/"})
	}
	if err := look(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.kill()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for err = look(ctx); err != nil; err = look(ctx) {
		if ctx.Err() != nil {
			t.Fatalf("the dead connection was never left: %v", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns < 2 {
		t.Errorf("%d connections", r.conns)
	}
}

func TestConnectionsAreAskedForASignOfLife(t *testing.T) {
	c, err := New(Config{Host: "Host", URL: "https://api.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.http.Transport.(*http.Transport).HTTP2; got.SendPingTimeout != sendPingTimeout || got.PingTimeout != pingTimeout {
		t.Errorf("got %+v", got)
	}
}
