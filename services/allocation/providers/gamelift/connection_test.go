package gamelift_test

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/services/allocation/providers/gamelift"
	gamelifthost "github.com/berth-dev/berth/test/hosts/gamelift"
	"github.com/berth-dev/berth/test/hosts/standin"
)

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
	way := standin.NewRelay(t, srv.Listener.Addr().String())
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
		URL: "https://" + way.Addr, CredentialsFile: credentials(t, accessKey, secretKey),
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
	way.Swallow()
	until(t, exited, func() providerv1.ServerState { // the call that is under way fails, or is made again by net/http
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		resp, err := p.Get(ctx, &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: deployment})
		if err != nil {
			return stopping
		}
		if resp.GetServer().GetState() == running && way.Opened() > 1 {
			return exited
		}
		return running
	})
	if n := old.Load(); n != 0 {
		t.Errorf("%d requests not by HTTP/2", n)
	}
}
