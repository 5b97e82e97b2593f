package agones_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	allocationpb "github.com/berth-dev/berth/pkg/gen/agones/allocation"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/agones"
	agoneshost "github.com/berth-dev/berth/test/hosts/agones"
)

const secret = "eyJhbGciOiJSUzI1NiIsImtpZCI6IkNqRXo2aUlvbGxEQmNjV0V2Y0RfIn0"

// says answers with a status of gRPC.
func says(code int, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { agoneshost.Say(w, code, message) }
}

// answers answers with a message.
func answers(message []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { agoneshost.Answer(w, message) }
}

// plain answers with HTTP only, as what stands before an allocator may.
func plain(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestFailuresOverGRPC(t *testing.T) {
	for name, c := range map[string]struct {
		with http.HandlerFunc
		want providerv1.FailureReason
		says string
	}{
		"none ready":            {says(8, "there is no available GameServer to allocate"), provider.NoCapacity, "no available GameServer"},
		"none ready, as it is":  {says(14, "there is no available GameServer to allocate"), provider.NoCapacity, "no available GameServer"},
		"contention":            {says(10, "too many concurrent requests have overwhelmed the system"), provider.RateLimited, "Contention"},
		"labels":                {says(422, "spec.metadata.labels: Invalid value "+secret), provider.Invalid, "spec.metadata.labels"},
		"argument":              {says(3, "no namespace"), provider.Invalid, "no namespace"},
		"caller":                {says(16, "who are you"), provider.Unauthenticated, "who are you"},
		"proxy":                 {says(7, "RBAC: access denied"), provider.Unauthenticated, "access denied"},
		"away":                  {says(14, "no healthy upstream"), provider.Unavailable, "no healthy upstream"},
		"broken":                {says(13, "etcd "+secret), provider.Ambiguous, "etcd …"},
		"unknown":               {says(2, "unknown issue"), provider.Ambiguous, "unknown issue"},
		"time-out":              {says(4, "remote allocation total timeout exceeded"), provider.Ambiguous, "timeout exceeded"},
		"a status of HTTP":      {says(500, "leader changed"), provider.Ambiguous, "leader changed"},
		"no allocator":          {says(12, "unknown service allocation.AllocationService"), provider.Unavailable, "agones.allocator.url"},
		"the REST side's port":  {plain(404, "404 page not found"), provider.Unavailable, "and its protocol right"},
		"proxy without backend": {plain(503, "<html>"), provider.Unavailable, "HTTP 503"},
		"proxy gave up":         {plain(504, "<html>"), provider.Ambiguous, "HTTP 504"},
		"proxy without a login": {plain(403, "<html>"), provider.Unauthenticated, "HTTP 403"},
		"proxy is busy":         {plain(429, secret), provider.RateLimited, "HTTP 429"},
		"HTML":                  {plain(200, "<html>"), provider.Ambiguous, "200"},
		"no name":               {answers(nil), provider.Ambiguous, "no name of a GameServer"},
		"no message":            {answers([]byte(`{"gameServerName": "x"}`)), provider.Ambiguous, "unmarshal"},
		"too large":             {answers(make([]byte, 5<<20)), provider.Ambiguous, "larger than max"},
		"too large, it says": {func(w http.ResponseWriter, _ *http.Request) {
			agoneshost.Say(w, 0, "")
			_, _ = w.Write([]byte{0, 1, 0, 0, 0})
		}, provider.Ambiguous, "larger than max"},
		"broken off": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, provider.Ambiguous, "RST_STREAM"},
		"no status": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			_, _ = w.Write([]byte{0, 0, 0, 0, 0})
		}, provider.Ambiguous, "trailers"},
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t, fleets(), "grpc")
			host.Answer(c.with)
			_, err := open(t, cfg).Allocate(t.Context(), order())
			if provider.ReasonOf(err) != c.want || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), secret) {
				t.Errorf("got %v; want %v with %q", err, c.want, c.says)
			}
		})
	}
}

// What is in the way of gRPC may say RESOURCE_EXHAUSTED, too. It says then when to come back, and until then nobody asks.
func TestThrottledOverGRPC(t *testing.T) {
	for code, want := range map[int]providerv1.FailureReason{8: provider.RateLimited, 14: provider.Unavailable} {
		host, cfg := start(t, fleets(), "grpc")
		host.Answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			agoneshost.Say(w, code, "not now")
		})
		p := open(t, cfg)
		_, err := p.Allocate(t.Context(), order())
		if provider.ReasonOf(err) != want || provider.RetryAfterOf(err).Seconds() != 7 {
			t.Errorf("code %d: %v, after %v", code, err, provider.RetryAfterOf(err))
		}
		host.Answer(func(http.ResponseWriter, *http.Request) { t.Errorf("code %d: it was asked again", code) })
		if _, err := p.Allocate(t.Context(), order()); provider.ReasonOf(err) != provider.RateLimited {
			t.Errorf("code %d: %v", code, err)
		}
	}
}

// The client has codes of its own for what breaks on the way, RESOURCE_EXHAUSTED among them: they are no word of the allocator.
func TestACodeOfTheClientIsNoAnswer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1) // one connection
	go func() { served <- calm(listener) }()
	_, cfg := start(t, fleets(), "grpc")
	cfg.Allocator.URL = "http://" + listener.Addr().String()
	p := open(t, cfg)
	if _, err := p.Allocate(t.Context(), order()); provider.ReasonOf(err) != provider.Ambiguous || !strings.Contains(err.Error(), "ENHANCE_YOUR_CALM") {
		t.Errorf("got %v", err)
	}
	_ = p.Close(t.Context())
	listener.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// calm takes one connection, and tells its first call to be calm.
func calm(listener net.Listener) error {
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return err
	}
	f := http2.NewFramer(conn, conn)
	if err := f.WriteSettings(); err != nil {
		return err
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return nil // the client has gone
		}
		if frame.Header().Type == http2.FrameHeaders {
			if err := f.WriteRSTStream(frame.Header().StreamID, http2.ErrCodeEnhanceYourCalm); err != nil {
				return err
			}
		}
	}
}

// realServer is an allocator made of gRPC's own server, as agones-allocator is where its gRPC side has a port for itself.
type realServer struct {
	allocationpb.UnimplementedAllocationServiceServer
	asked chan *allocationpb.AllocationRequest
}

func (s realServer) Allocate(_ context.Context, req *allocationpb.AllocationRequest) (*allocationpb.AllocationResponse, error) {
	s.asked <- req
	return nil, status.Error(codes.ResourceExhausted, "there is no available GameServer to allocate")
}

func TestARealServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	impl, srv, served := realServer{asked: make(chan *allocationpb.AllocationRequest, 3)}, grpc.NewServer(), make(chan error, 1) // it is asked three times; one Serve
	allocationpb.RegisterAllocationServiceServer(srv, impl)
	go func() { served <- srv.Serve(listener) }()
	_, cfg := start(t, fleets(), "grpc")
	cfg.Allocator.URL = "http://" + listener.Addr().String()
	req := order()
	if _, err := open(t, cfg).Allocate(t.Context(), req); provider.ReasonOf(err) != provider.NoCapacity {
		t.Errorf("got %v", err)
	}
	asked := <-impl.asked
	if asked.GetNamespace() != "games" || asked.GetGameServerSelectors()[0].GetMatchLabels()["agones.dev/fleet"] != "shooter" ||
		asked.GetMetadata().GetAnnotations()["berth.dev/bootstrap"] != string(req.GetBootstrap()) || asked.GetMetadata().GetLabels()["berth.dev/attempt"] != req.GetAttemptId() {
		t.Errorf("asked for %v", asked)
	}
	srv.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// What cannot be reached has started nothing.
func TestNobodyListens(t *testing.T) {
	for _, way := range []string{"grpc", "rest"} {
		_, cfg := start(t, fleets(), way)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg.Allocator.URL = "https://" + listener.Addr().String()
		listener.Close()
		if _, err := open(t, cfg).Allocate(t.Context(), order()); provider.ReasonOf(err) != provider.Unavailable || !strings.Contains(err.Error(), "cannot be reached") {
			t.Errorf("%s: %v", way, err)
		}
	}
}

// A new certificate needs no restart: neither after the allocator refused the old one.
func TestANewCertificate(t *testing.T) {
	for _, way := range []string{"grpc", "rest"} {
		_, cfg := start(t, fleets(), way)
		good := map[string][]byte{}
		for _, name := range []string{cfg.Allocator.CertFile, cfg.Allocator.KeyFile} {
			good[name], _ = os.ReadFile(name)
		}
		cert, key := certificate(t)
		write(t, map[string][]byte{cfg.Allocator.CertFile: cert, cfg.Allocator.KeyFile: key})
		p, req := open(t, cfg), order()
		if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Unauthenticated {
			t.Errorf("%s: %v", way, err)
		}
		write(t, good)
		err := provider.Failure(provider.Unavailable, "not asked")
		for deadline, tries := t.Context(), 0; err != nil && deadline.Err() == nil && tries < 50; tries++ { // gRPC makes a pause between connections
			_, err = p.Allocate(t.Context(), req)
		}
		if err != nil {
			t.Errorf("%s: %v", way, err)
		}
	}
}

func write(t *testing.T, files map[string][]byte) {
	t.Helper()
	for name, content := range files {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Without a protocol in the settings it is gRPC: HTTP/2, with the path and the framing that every client of AllocationService has.
func TestGRPCOnTheWire(t *testing.T) {
	host, cfg := start(t, fleets(), "grpc")
	cfg.Allocator.Protocol = ""
	seen := make(chan *http.Request, 1)
	var body []byte
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		seen <- r
		agoneshost.Say(w, 3, "enough")
	})
	_, err := open(t, cfg).Allocate(t.Context(), order())
	if provider.ReasonOf(err) != provider.Invalid {
		t.Error(err)
	}
	r := <-seen
	if r.ProtoMajor != 2 || r.URL.Path != "/allocation.AllocationService/Allocate" || r.Header.Get("Content-Type") != "application/grpc" || len(r.TLS.PeerCertificates) != 1 {
		t.Errorf("got %s %s %v", r.Proto, r.URL.Path, r.Header)
	}
	if !bytes.HasPrefix(body[5:], []byte("\x0a\x05games")) { // field 1
		t.Errorf("it begins with %q", body[:min(len(body), 20)])
	}
}

// The stand-in refuses what an allocator refuses: a message that is none, and a method that it does not have.
func TestWrongShapesOverGRPC(t *testing.T) {
	_, cfg := start(t, fleets(), "grpc")
	call := caller(t, cfg)
	for name, c := range map[string]struct {
		path, body string
		code       string
	}{
		"JSON":         {"/allocation.AllocationService/Allocate", "\x00\x00\x00\x00\x15" + `{"namespace":"games"}`, "13"},
		"half":         {"/allocation.AllocationService/Allocate", "\x00\x00\x00\x00\x07\x0a\x05ga", "13"},
		"no UTF-8":     {"/allocation.AllocationService/Allocate", "\x00\x00\x00\x00\x04\x0a\x02\xff\xfe", "13"},
		"compressed":   {"/allocation.AllocationService/Allocate", "\x01\x00\x00\x00\x00", "12"},
		"a method":     {"/allocation.AllocationService/Release", "\x00\x00\x00\x00\x00", "12"},
		"no namespace": {"/allocation.AllocationService/Allocate", "\x00\x00\x00\x00\x00", "8"},
	} {
		if got := call(c.path, c.body); got != c.code {
			t.Errorf("%s: code %s; want %s", name, got, c.code)
		}
	}
}

// caller returns a client of the gRPC side that knows nothing of gRPC: it returns the status of a call.
func caller(t *testing.T, cfg agones.Config) func(path, body string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS(t, cfg), ForceAttemptHTTP2: true}}
	t.Cleanup(client.CloseIdleConnections)
	return func(path, body string) string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, cfg.Allocator.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.Trailer.Get("Grpc-Status")
	}
}
