package chaos_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider/chaos"
	"github.com/berth-dev/berth/sdk/go/provider/chaos/chaoshost"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
)

// base is a script that does no harm: pages are so small that a list has several.
func base() chaos.Script { return chaos.Script{PageSize: 2, PollInterval: 10 * time.Millisecond} }

func TestConformanceInMemory(t *testing.T) {
	p := open(t, chaos.Config{Script: base()})
	providertest.Run(t, providertest.Config{Provider: p, Host: chaoshost.New(p, base())})
	if s := p.Stats(); s.Alive != 0 || s.Doubled != 0 {
		t.Errorf("at the end: %+v", s)
	}
}

// Each server is a function.
func TestConformanceWithAHook(t *testing.T) {
	var got sync.Map
	p := open(t, chaos.Config{Script: base(), Run: func(ctx context.Context, order *providerv1.AllocateRequest) error {
		got.Store(order.GetAttemptId(), order.GetBootstrap())
		<-ctx.Done()
		return nil
	}})
	host := chaoshost.New(p, base())
	host.Document = func(ctx context.Context, attempt string) ([]byte, error) {
		return await(ctx, func() ([]byte, bool) {
			raw, ok := got.Load(attempt)
			document, _ := raw.([]byte)
			return document, ok
		})
	}
	providertest.Run(t, providertest.Config{Provider: p, Host: host})
}

// Each server is a process.
func TestConformanceWithACommand(t *testing.T) {
	dir := t.TempDir()
	script := base()
	script.Command = []string{"/bin/sh", "-c", `printf %s "$BERTH_BOOTSTRAP" > "$0/$BERTH_ATTEMPT.part" && mv "$0/$BERTH_ATTEMPT.part" "$0/$BERTH_ATTEMPT" && exec sleep 1000`, dir}
	p := open(t, chaos.Config{Script: script})
	host := chaoshost.New(p, script)
	host.Document = func(ctx context.Context, attempt string) ([]byte, error) {
		return await(ctx, func() ([]byte, bool) {
			raw, err := os.ReadFile(filepath.Join(dir, attempt))
			return raw, err == nil
		})
	}
	providertest.Run(t, providertest.Config{Provider: p, Host: host})
}

func await(ctx context.Context, got func() ([]byte, bool)) ([]byte, error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if value, ok := got(); ok {
			return value, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}
