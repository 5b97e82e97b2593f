package app_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/berth-dev/berth/pkg/app"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// order notes what happened, in order.
type order struct {
	mu   sync.Mutex
	what []string
}

func (o *order) note(what string) func(context.Context) error {
	return func(context.Context) error {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.what = append(o.what, what)
		return nil
	}
}

func TestEverythingStopsInOrder(t *testing.T) {
	var o order
	m := app.Module{Name: "m", Build: func(_ context.Context, b *app.Builder) error {
		b.OnStop(app.StageStore, "store", o.note("store"))
		b.OnStop(app.StageDrain, "drain", o.note("drain"))
		b.OnStop(app.StageLast, "last", o.note("last"))
		b.OnStop(app.StageGRPC, "grpc", o.note("grpc"))
		b.OnStop(app.StageHTTP, "http", o.note("http"))
		b.Run("worker", func(ctx context.Context) error {
			<-ctx.Done()
			return o.note("worker")(ctx)
		})
		return nil
	}}
	ctx, cancel := context.WithCancel(context.Background())
	a, err := app.New(ctx, app.Config{Log: quiet}, m)
	if err != nil {
		t.Fatal(err)
	}
	if a.Ready(ctx) == nil {
		t.Error("ready before it runs")
	}
	cancel()
	if err := a.Run(ctx); err != nil {
		t.Error(err)
	}
	if want := []string{"drain", "http", "grpc", "worker", "store", "last"}; !slices.Equal(o.what, want) {
		t.Errorf("stopped %v, want %v", o.what, want)
	}
	if a.Ready(context.Background()) == nil {
		t.Error("ready after the stop")
	}
}

func TestAFailedBuildUnwindsWhatWasBuilt(t *testing.T) {
	var o order
	var addr string
	good := app.Module{Name: "good", Build: func(ctx context.Context, b *app.Builder) error {
		ln, err := b.Listen(ctx, "x", "127.0.0.1:0")
		if err != nil {
			return err
		}
		addr = ln.Addr().String()
		b.OnStop(app.StageStore, "store", o.note("store"))
		return nil
	}}
	bad := app.Module{Name: "bad", Build: func(context.Context, *app.Builder) error { return errors.New("no luck") }}
	_, err := app.New(context.Background(), app.Config{Log: quiet}, good, bad)
	if err == nil || !strings.Contains(err.Error(), "bad: no luck") {
		t.Errorf("error %v", err)
	}
	if !slices.Equal(o.what, []string{"store"}) {
		t.Errorf("unwound %v", o.what)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("the listener was left open: %v", err)
	}
	_ = ln.Close()
}

func TestTheFirstFailureStopsEverything(t *testing.T) {
	var o order
	m := app.Module{Name: "m", Build: func(_ context.Context, b *app.Builder) error {
		b.Run("steady", func(ctx context.Context) error { <-ctx.Done(); return o.note("steady")(ctx) })
		b.Run("broken", func(context.Context) error { return errors.New("broke") })
		b.OnStop(app.StageStore, "store", func(context.Context) error { return errors.New("does not close") })
		return nil
	}}
	a, err := app.New(context.Background(), app.Config{Log: quiet}, m)
	if err != nil {
		t.Fatal(err)
	}
	err = a.Run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "broke") || !strings.Contains(err.Error(), "does not close") {
		t.Errorf("error %v", err)
	}
	if !slices.Equal(o.what, []string{"steady"}) {
		t.Errorf("stopped %v", o.what)
	}
}

func TestAdminTellsLivenessFromReadiness(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := client.Get("http://" + ln.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	var earlyCode int
	var earlyBody string
	m := app.Module{Name: "m", Build: func(_ context.Context, b *app.Builder) error {
		earlyCode, earlyBody = get("/readyz")
		b.ReadyWhen("store", func(context.Context) error { return errors.New("away") })
		return nil
	}}
	ctx, cancel := context.WithCancel(context.Background())
	a, err := app.New(ctx, app.Config{Log: quiet, AdminListener: ln}, m)
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- a.Run(ctx) }()
	if code, _ := get("/healthz"); code != http.StatusOK {
		t.Errorf("liveness %d while the store is away", code)
	}
	// Whoever asks while a module is still being built must not be told that nothing is missing.
	if code, body := earlyCode, earlyBody; code != http.StatusServiceUnavailable || !strings.Contains(body, "starting") {
		t.Errorf("readiness %d %s while starting", code, body)
	}
	for a.Ready(ctx) != nil && strings.Contains(a.Ready(ctx).Error(), "starting") {
		runtime.Gosched()
	}
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "store: away") {
		t.Errorf("readiness %d %s", code, body)
	}
	if code, body := get("/metrics"); code != http.StatusOK || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics %d", code)
	}
	cancel()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestAStopThatHangsSaysWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		a, err := app.New(t.Context(), app.Config{Log: slog.New(slog.DiscardHandler)}, app.Module{Name: "m", Build: func(_ context.Context, b *app.Builder) error {
			b.Run("stubborn", func(context.Context) error { <-stuck; return nil })
			b.Run("obedient", func(ctx context.Context) error { <-ctx.Done(); return nil })
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err = a.Run(ctx)
		if err == nil || !strings.Contains(err.Error(), "stubborn") || strings.Contains(err.Error(), "obedient") {
			t.Errorf("it stopped with %v", err)
		}
		close(stuck)
	})
}
