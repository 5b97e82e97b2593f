package gamelift_test

import (
	"context"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/services/allocation/providers/gamelift"
	gamelifthost "github.com/berth-dev/berth/test/hosts/gamelift"
)

// relay passes connections on to an address, until their first one is swallowed: it stays open, and nothing comes through any more.
type relay struct {
	to       string
	listener net.Listener
	swallow  atomic.Bool
	mu       sync.Mutex
	conns    []net.Conn
	opened   atomic.Int32
	all      sync.WaitGroup
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{to: to, listener: l}
	r.all.Go(func() {
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
		r.all.Wait()
	})
	return r
}

func (r *relay) connect(in net.Conn) {
	out, err := net.Dial("tcp", r.to)
	if err != nil {
		_ = in.Close()
		return
	}
	first := r.opened.Add(1) == 1
	r.mu.Lock()
	r.conns = append(r.conns, in, out)
	r.mu.Unlock()
	for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
		r.all.Go(func() {
			buffer := make([]byte, 32<<10)
			for {
				n, err := pair[0].Read(buffer)
				if err != nil {
					_ = pair[1].Close()
					return
				}
				if first && r.swallow.Load() {
					continue
				}
				if _, err := pair[1].Write(buffer[:n]); err != nil {
					_ = pair[0].Close()
					return
				}
			}
		})
	}
}

// A connection that has died without a word is left: what comes after it is served on another one.
func TestADeadConnectionIsLeft(t *testing.T) {
	host := gamelifthost.New(account())
	var old atomic.Int32 // requests that did not come by HTTP/2
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			old.Add(1)
		}
		host.ServeHTTP(w, r)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	way := newRelay(t, srv.Listener.Addr().String())
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		host.Close()
	})
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CA_BUNDLE", authority)
	p, err := gamelift.NewPinging(t.Context(), gamelift.Config{
		URL: "https://" + way.listener.Addr().String(), CredentialsFile: credentials(t, accessKey, secretKey),
		Builds: map[string]gamelift.Build{"shooter": {Fleet: fleet}}, Regions: map[string]gamelift.Region{"eu": {Region: "eu-central-1"}},
	}, 20*time.Millisecond, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	gamelift.Hasten(p, 0, 0)
	req := order()
	runs(t, p, req)
	way.swallow.Store(true)
	until(t, exited, func() providerv1.ServerState { // the call that is under way fails, or is made again by net/http
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		resp, err := p.Get(ctx, &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: deployment})
		if err != nil {
			return stopping
		}
		if resp.GetServer().GetState() == running && way.opened.Load() > 1 {
			return exited
		}
		return running
	})
	if n := old.Load(); n != 0 {
		t.Errorf("%d requests not by HTTP/2", n)
	}
}
