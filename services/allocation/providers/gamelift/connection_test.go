package gamelift_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	smithyhttp "github.com/aws/smithy-go/transport/http"

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

// slowConn is late to say that the end of a request is written.
type slowConn struct {
	net.Conn
	end  string
	till <-chan struct{}
}

func (c slowConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if bytes.HasSuffix(b, []byte(c.end)) {
		<-c.till
	}
	return n, err
}

// An answer that has begun before a request is said to be written is read to its end: what the SDK does then to the request is nothing that failed.
func TestAnAnswerThatIsEarly(t *testing.T) {
	const end = "the end"
	closed, wrote := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "first ")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-wrote:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "second")
	}))
	t.Cleanup(srv.Close)
	base := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return slowConn{conn, end, closed}, err
	}}
	t.Cleanup(base.CloseIdleConnections)
	body := strings.Repeat("x", 1<<16) + end // more than net/http gathers: it is written at once
	stack, err := smithyhttp.NewStackRequest().(*smithyhttp.Request).SetStream(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if stack.URL, err = url.Parse(srv.URL); err != nil {
		t.Fatal(err)
	}
	stack.Method, stack.ContentLength = http.MethodPost, int64(len(body))
	req := stack.Build(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { close(wrote) }}))
	resp, err := gamelift.Transport(base).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_ = req.Body.Close() // as the SDK does
	close(closed)
	if all, err := io.ReadAll(resp.Body); err != nil || string(all) != "first second" {
		t.Errorf("got %q, %v", all, err)
	}
}
