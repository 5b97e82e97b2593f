package provider_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// author is a provider as an author writes it.
type author struct {
	provider.Provider
	get func(context.Context) (*providerv1.GetResponse, error)
}

func (author) Describe(context.Context, *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return &providerv1.DescribeResponse{Kind: "mine"}, nil
}

func (a author) Get(ctx context.Context, _ *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	return a.get(ctx)
}

// lockedLog is a log that several goroutines write.
type lockedLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// start serves p until the returned function is called, which returns what Serve did.
func start(t *testing.T, cfg provider.ServeConfig, p provider.Provider) (addr net.Addr, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan net.Addr, 1), make(chan error, 1) // one each
	cfg.Ready = func(a net.Addr) { ready <- a }
	go func() { done <- provider.Serve(ctx, cfg, p) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	select {
	case addr = <-ready:
		return addr, stop
	case err := <-done:
		t.Fatal(err)
		return nil, nil
	}
}

func dial(t *testing.T, target string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestServeSettlesTheVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.sock")
	start(t, provider.ServeConfig{Address: "unix://" + path}, author{})
	client := provider.Client(dial(t, "unix://"+path))
	for _, c := range []struct {
		oldest, newest int32
		refused        bool
	}{{0, 0, false}, {1, 1, false}, {1, 7, false}, {0, 2, false}, {2, 3, true}, {3, 2, true}} {
		d, err := client.Describe(t.Context(), &providerv1.DescribeRequest{ContractMin: c.oldest, ContractMax: c.newest})
		switch {
		case c.refused && (provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), "speaks version 1 ")):
			t.Errorf("%d to %d: %v", c.oldest, c.newest, err)
		case !c.refused && (err != nil || d.GetContract() != 1 || d.GetKind() != "mine"):
			t.Errorf("%d to %d: %v, %v", c.oldest, c.newest, d, err)
		}
	}
}

func TestServeMakesFailuresOfPanicsAndOfErrorsWithoutReason(t *testing.T) {
	log := new(lockedLog)
	path := filepath.Join(t.TempDir(), "p.sock")
	next := make(chan func(context.Context) (*providerv1.GetResponse, error), 1) // one call at a time
	start(t, provider.ServeConfig{Address: "unix://" + path, Log: slog.New(slog.NewTextHandler(log, nil))}, author{get: func(ctx context.Context) (*providerv1.GetResponse, error) {
		return (<-next)(ctx)
	}})
	client := provider.Client(dial(t, "unix://"+path))
	for name, c := range map[string]struct {
		get  func(context.Context) (*providerv1.GetResponse, error)
		want providerv1.FailureReason
		says string
	}{
		"panic":       {func(context.Context) (*providerv1.GetResponse, error) { panic("secret detail") }, provider.Ambiguous, "panicked"},
		"plain error": {func(context.Context) (*providerv1.GetResponse, error) { return nil, os.ErrClosed }, provider.Ambiguous, "file already closed"},
		"nothing":     {func(context.Context) (*providerv1.GetResponse, error) { return nil, nil }, provider.Ambiguous, "neither an answer nor an error"},
		"typed": {func(context.Context) (*providerv1.GetResponse, error) {
			return nil, provider.Failure(provider.Quota, "pay")
		}, provider.Quota, "pay"},
		"after it all": {func(context.Context) (*providerv1.GetResponse, error) { return new(providerv1.GetResponse), nil }, 0, ""},
	} {
		next <- c.get
		_, err := client.Get(t.Context(), &providerv1.GetRequest{AttemptId: "a"})
		if provider.ReasonOf(err) != c.want || !strings.Contains(status.Convert(err).Message(), c.says) || strings.Contains(status.Convert(err).Message(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !strings.Contains(log.String(), "secret detail") || !strings.Contains(log.String(), "serve_test.go") {
		t.Errorf("the log does not say where it panicked: %s", log)
	}
}

func TestServeStopsAfterTheCallsUnderWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.sock")
	begun, end := make(chan struct{}), make(chan struct{})
	_, stop := start(t, provider.ServeConfig{Address: "unix://" + path}, author{get: func(context.Context) (*providerv1.GetResponse, error) {
		close(begun)
		<-end
		return &providerv1.GetResponse{Server: &providerv1.Server{AttemptId: "a"}}, nil
	}})
	conn := dial(t, "unix://"+path)
	alive := healthv1.NewHealthClient(conn)
	for _, service := range []string{"", "berth.provider.v1.ProviderService"} {
		if resp, err := alive.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service}); err != nil || resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, resp, err)
		}
	}
	answer := make(chan error, 1)
	go func() {
		_, err := provider.Client(conn).Get(context.Background(), &providerv1.GetRequest{AttemptId: "a"})
		answer <- err
	}()
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	untilNobodyListens(path) // no more calls are taken from the moment it stops
	close(end)
	if err := <-answer; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// The stop may come between the moment when a plugin is ready and its first look for a connection.
func TestAPluginThatIsStoppedAtOnceEndsWell(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.sock")
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		if err := provider.Serve(ctx, provider.ServeConfig{Address: "unix://" + path, Ready: func(net.Addr) { cancel() }}, author{}); err != nil {
			t.Fatal(err)
		}
	}
}

// A plugin stops and waits for a call. Meanwhile the next one starts, finds that nobody listens, and takes the place.
func TestAPluginThatStopsLeavesTheSocketOfTheNext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.sock")
	begun, end := make(chan struct{}), make(chan struct{})
	_, stop := start(t, provider.ServeConfig{Address: "unix://" + path}, author{get: func(context.Context) (*providerv1.GetResponse, error) {
		close(begun)
		<-end
		return new(providerv1.GetResponse), nil
	}})
	old := dial(t, "unix://"+path)
	answer := make(chan error, 1)
	go func() {
		_, err := provider.Client(old).Get(context.Background(), &providerv1.GetRequest{AttemptId: "a"})
		answer <- err
	}()
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	untilNobodyListens(path)
	start(t, provider.ServeConfig{Address: "unix://" + path}, author{})
	close(end)
	if err := <-answer; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, err := provider.Client(dial(t, "unix://"+path)).Describe(t.Context(), new(providerv1.DescribeRequest)); err != nil {
		t.Errorf("the next one cannot be reached: %v", err)
	}
}

// untilNobodyListens returns once connections are refused.
func untilNobodyListens(path string) {
	for {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return
		}
		_ = conn.Close()
	}
}

// Eight plugins find a socket that was left behind, all at the same time. Each of them may take it; only one can be found there then.
func TestOfPluginsThatStartTogetherOneServes(t *testing.T) {
	const plugins = 8
	for range 20 {
		dir := t.TempDir()
		path := filepath.Join(dir, "p.sock")
		leave(t, path)
		ctx, cancel := context.WithCancel(t.Context())
		ready, ended := make(chan struct{}, plugins), make(chan error, plugins) // one each
		for range plugins {
			go func() {
				ended <- provider.Serve(ctx, provider.ServeConfig{Address: "unix://" + path, Ready: func(net.Addr) { ready <- struct{}{} }}, author{})
			}()
		}
		for range plugins - 1 {
			select {
			case err := <-ended:
				if err == nil || !strings.Contains(err.Error(), "in use") {
					t.Errorf("it ends with %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%d plugins serve", len(ready))
			}
		}
		<-ready
		if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
			t.Errorf("beside the socket there is something: %v, %v", list, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// leave makes a socket on which nobody listens, as a killed process leaves it.
func leave(t *testing.T, path string) {
	t.Helper()
	left, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = left.Close()
}

// A call that heeds its context is cut off; one that does not would keep a graceful stop for ever.
func TestStopIsBounded(t *testing.T) {
	for name, heeds := range map[string]bool{"heeds its context": true, "does not": false} {
		t.Run(name, func(t *testing.T) {
			begun, end := make(chan struct{}), make(chan struct{})
			srv := grpc.NewServer()
			over := make(chan struct{})
			srv.RegisterService(&grpc.ServiceDesc{ServiceName: "s", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "M", Handler: func(_ any, ctx context.Context, _ func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				defer close(over)
				close(begun)
				if heeds {
					<-ctx.Done()
				} else {
					<-end
				}
				return nil, status.Error(codes.Canceled, "")
			}}}}, nil)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- srv.Serve(ln) }()
			conn := dial(t, ln.Addr().String())
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				_ = conn.Invoke(context.Background(), "/s/M", &providerv1.GetRequest{}, &providerv1.GetResponse{})
			}()
			<-begun
			if err := provider.Stop(srv, time.Millisecond); (err == nil) != heeds {
				t.Error(err)
			}
			close(end)
			<-over
			<-answered
			<-served
		})
	}
}

func TestServeListensWhereOnlyItsUserCanConnect(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "p.sock")
	leave(t, path)
	if addr, _ := start(t, provider.ServeConfig{Address: "unix://" + path}, author{}); addr.String() != path {
		t.Errorf("it says that it listens on %s", addr)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("beside the socket there is something: %v, %v", list, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("keep me"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // what is not refused would be served
	defer cancel()
	for address, says := range map[string]string{
		"unix://" + path: "in use", "unix://" + file: "no socket", "unix://relative": "absolute path", "0.0.0.0:0": "set TLS", ":0": "set TLS",
		"nowhere": "neither unix:///path nor host:port",
	} {
		if err := provider.Serve(ctx, provider.ServeConfig{Address: address}, author{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "keep me" {
		t.Errorf("a file that is no socket was touched: %q, %v", raw, err)
	}
	if _, err := provider.Client(dial(t, "unix://"+path)).Describe(t.Context(), new(providerv1.DescribeRequest)); err != nil {
		t.Errorf("the one that was there first: %v", err)
	}
	err = provider.Serve(ctx, provider.ServeConfig{Address: "127.0.0.1:0", TLS: provider.TLS{CertFile: "x"}}, author{})
	if err == nil || !strings.Contains(err.Error(), "all three") {
		t.Errorf("half a TLS: %v", err)
	}
}
