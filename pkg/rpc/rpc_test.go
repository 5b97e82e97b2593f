package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	internalKey = "0123456789abcdef0123456789abcdef"
	apiKey      = apikey.Prefix + "x"
	id          = "5f0c1e52-8f0d-4c53-9a3e-0d9f6f3f7b11"
)

// service answers as a test says.
type service struct {
	instancev1.UnimplementedGameInstanceServiceServer
	get    func(context.Context) error
	watch  func(context.Context) error
	answer *instancev1.GameInstance // in the answers to get, and to watch once that returns
}

func (s *service) GetGameInstance(ctx context.Context, _ *instancev1.GetGameInstanceRequest) (*instancev1.GetGameInstanceResponse, error) {
	return &instancev1.GetGameInstanceResponse{Instance: s.answer}, s.get(ctx)
}

func (s *service) CreateGameInstance(context.Context, *instancev1.CreateGameInstanceRequest) (*instancev1.CreateGameInstanceResponse, error) {
	return &instancev1.CreateGameInstanceResponse{Instance: &instancev1.GameInstance{Id: "made"}}, nil
}

func (s *service) WatchGameInstance(_ *instancev1.WatchGameInstanceRequest, stream grpc.ServerStreamingServer[instancev1.WatchGameInstanceResponse]) error {
	if err := s.watch(stream.Context()); err != nil {
		return err
	}
	return stream.Send(&instancev1.WatchGameInstanceResponse{Instance: s.answer})
}

// serve starts a server and returns a client with an API key.
func serve(t *testing.T, impl *service, log *slog.Logger) (*rpc.Server, instancev1.GameInstanceServiceClient, context.Context) {
	t.Helper()
	srv, conn, ctx := open(t, impl, log, nil)
	return srv, instancev1.NewGameInstanceServiceClient(conn), ctx
}

// serveWith is serve with metrics.
func serveWith(t *testing.T, impl *service, reg prometheus.Registerer) (*grpc.ClientConn, context.Context) {
	t.Helper()
	_, conn, ctx := open(t, impl, slog.New(slog.DiscardHandler), reg)
	return conn, ctx
}

func open(t *testing.T, impl *service, log *slog.Logger, reg prometheus.Registerer) (*rpc.Server, *grpc.ClientConn, context.Context) {
	t.Helper()
	a, err := auth.New(auth.Config{InternalKey: internalKey, APIKeySHA256: apikey.Hash(apiKey)}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := rpc.NewServer(rpc.Config{Services: []string{"berth.instance.v1.GameInstanceService"}, Auth: a, Log: log, Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	instancev1.RegisterGameInstanceServiceServer(srv, impl)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(ln)
	conn, err := rpc.Dial(ln.Addr().String(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = srv.Shutdown(ctx)
	})
	return srv, conn, metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+apiKey)
}

func TestWhatGoesWrongInsideStaysInside(t *testing.T) {
	for name, get := range map[string]func(context.Context) error{
		"error": func(context.Context) error { return errors.New("secret detail") },
		"panic": func(context.Context) error { panic("secret detail") },
		"cause": func(context.Context) error { return errs.Wrap(errors.New("secret detail"), errs.Internal, "x") },
	} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			_, client, ctx := serve(t, &service{get: get}, slog.New(slog.NewTextHandler(&log, nil)))
			_, err := client.GetGameInstance(ctx, &instancev1.GetGameInstanceRequest{InstanceId: id})
			var e *errs.Error
			if !errors.As(rpc.FromStatus(err), &e) || e.Reason != errs.Internal || strings.Contains(e.Message, "secret") || !strings.Contains(e.Message, "request id") {
				t.Errorf("the caller sees %v", err)
			}
			_, requestID, _ := strings.Cut(e.Message, "request id ")
			if !strings.Contains(log.String(), "secret detail") || !strings.Contains(log.String(), requestID) {
				t.Errorf("the log has %s", log.String())
			}
		})
	}
}

// gRPC by itself tells the caller what the encoder said, with no reason, and tells no log.
func TestAnAnswerThatCannotBeEncodedIsADefect(t *testing.T) {
	nothing := func(context.Context) error { return nil }
	impl := &service{get: nothing, watch: nothing, answer: &instancev1.GameInstance{Message: "\xff"}}
	for name, call := range map[string]func(context.Context, instancev1.GameInstanceServiceClient) error{
		"call": func(ctx context.Context, c instancev1.GameInstanceServiceClient) error {
			_, err := c.GetGameInstance(ctx, &instancev1.GetGameInstanceRequest{InstanceId: id})
			return err
		},
		"stream": func(ctx context.Context, c instancev1.GameInstanceServiceClient) error {
			stream, err := c.WatchGameInstance(ctx, &instancev1.WatchGameInstanceRequest{InstanceId: id})
			if err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			_, client, ctx := serve(t, impl, slog.New(slog.NewTextHandler(&log, nil)))
			var e *errs.Error
			if err := call(ctx, client); !errors.As(rpc.FromStatus(err), &e) || e.Reason != errs.Internal || strings.Contains(e.Message, "UTF-8") {
				t.Fatalf("the caller sees %v", err)
			}
			_, requestID, _ := strings.Cut(e.Message, "request id ")
			if requestID == "" || strings.Count(log.String(), requestID) != 1 || !strings.Contains(log.String(), "UTF-8") {
				t.Errorf("request id %q, and the log has %s", requestID, log.String())
			}
		})
	}
}

// The error of a call to another service is as much a cause as any other.
func TestAPeersWordsAreNotPassedOn(t *testing.T) {
	peer := status.Error(codes.Unavailable, "dial tcp 10.1.2.3:7101: connection refused")
	_, client, ctx := serve(t, &service{get: func(context.Context) error { return rpc.FromStatus(peer) }}, slog.New(slog.DiscardHandler))
	_, err := client.GetGameInstance(ctx, &instancev1.GetGameInstanceRequest{InstanceId: id})
	var e *errs.Error
	if !errors.As(rpc.FromStatus(err), &e) || e.Reason != errs.ServiceUnavailable || strings.Contains(err.Error(), "10.1.2.3") || e.RetryAfter == 0 {
		t.Errorf("the caller sees %v", err)
	}
}

func TestInventedMethodsMakeNoMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	conn, ctx := serveWith(t, &service{}, reg)
	for n := range 20 {
		_ = conn.Invoke(ctx, fmt.Sprintf("/invented/Method%d", n), &instancev1.GetGameInstanceRequest{}, &instancev1.GetGameInstanceResponse{})
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if len(f.GetMetric()) != 1 {
			t.Errorf("%s has %d series", f.GetName(), len(f.GetMetric()))
		}
	}
}

func TestErrorsKeepReasonMessageAndRetryOverTheWire(t *testing.T) {
	_, client, ctx := serve(t, &service{get: func(context.Context) error {
		return errs.New(errs.StoreUnavailable, "away").Retry(3 * time.Second)
	}}, slog.New(slog.DiscardHandler))
	_, err := client.GetGameInstance(ctx, &instancev1.GetGameInstanceRequest{InstanceId: id})
	var e *errs.Error
	if !errors.As(rpc.FromStatus(err), &e) || e.Reason != errs.StoreUnavailable || e.Message != "away" || e.RetryAfter != 3*time.Second {
		t.Errorf("arrived as %+v", e)
	}
}

func TestAServiceThatIsAwayIsUnavailableWithoutItsAddress(t *testing.T) {
	conn, err := rpc.Dial("127.0.0.1:1", "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = instancev1.NewGameInstanceServiceClient(conn).GetGameInstance(context.Background(), &instancev1.GetGameInstanceRequest{})
	var e *errs.Error
	if !errors.As(rpc.FromStatus(err), &e) || e.Reason != errs.ServiceUnavailable || strings.Contains(e.Message, "127.0.0.1") || e.RetryAfter == 0 {
		t.Errorf("away: %+v", e)
	}
}

func TestStreamsEndWithTheServer(t *testing.T) {
	started := make(chan struct{})
	srv, client, ctx := serve(t, &service{watch: func(ctx context.Context) error {
		close(started)
		<-ctx.Done()
		return ctx.Err()
	}}, slog.New(slog.DiscardHandler))
	stream, err := client.WatchGameInstance(ctx, &instancev1.WatchGameInstanceRequest{InstanceId: id})
	if err != nil {
		t.Fatal(err)
	}
	<-started
	stopped := make(chan error, 1)
	go func() { stopped <- srv.Shutdown(context.Background()) }()
	if _, err := stream.Recv(); errs.ReasonOf(rpc.FromStatus(err)) != errs.ServiceUnavailable {
		t.Errorf("the stream ended with %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A program that is stopped while it starts has not failed.
func TestAServerIsStoppedBeforeItHasBegun(t *testing.T) {
	for range 50 {
		a, err := auth.New(auth.Config{InternalKey: internalKey}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		program, err := app.New(ctx, app.Config{Log: slog.New(slog.DiscardHandler)}, app.Module{Name: "m", Build: func(ctx context.Context, b *app.Builder) error {
			srv, err := rpc.NewServer(rpc.Config{Auth: a, Log: b.Log()})
			if err != nil {
				return err
			}
			ln, err := b.Listen(ctx, "grpc", "127.0.0.1:0")
			if err != nil {
				return err
			}
			srv.Mount(b, "grpc", ln)
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := program.Run(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCallsUnderWayAreFinished(t *testing.T) {
	started, finish := make(chan struct{}), make(chan struct{})
	srv, client, ctx := serve(t, &service{get: func(context.Context) error {
		close(started)
		<-finish
		return nil
	}}, slog.New(slog.DiscardHandler))
	answered := make(chan error, 1)
	go func() {
		_, err := client.GetGameInstance(ctx, &instancev1.GetGameInstanceRequest{InstanceId: id})
		answered <- err
	}()
	<-started
	stopped := make(chan error, 1)
	go func() { stopped <- srv.Shutdown(context.Background()) }()
	close(finish)
	if err := <-answered; err != nil {
		t.Errorf("a call under way ended with %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
