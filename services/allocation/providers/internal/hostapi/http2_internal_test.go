package hostapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/berth-dev/berth/test/hosts/standin"
)

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
	relay := standin.NewRelay(t, srv.Listener.Addr().String())
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	c, err := newClient(Config{Host: "Host", URL: "https://" + relay.Addr, TLS: &tls.Config{RootCAs: pool}},
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
	relay.Swallow()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for err = look(ctx); err != nil; err = look(ctx) {
		if ctx.Err() != nil {
			t.Fatalf("the dead connection was never left: %v", err)
		}
	}
	if n := relay.Opened(); n < 2 {
		t.Errorf("%d connections", n)
	}
}

func TestConnectionsAreAskedForASignOfLife(t *testing.T) {
	c, err := New(Config{Host: "Host", URL: "https://api.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.http.Transport.(*http.Transport).HTTP2; got.SendPingTimeout != Pings().SendPingTimeout || got.PingTimeout != Pings().PingTimeout || got.PingTimeout == 0 {
		t.Errorf("got %+v", got)
	}
}
