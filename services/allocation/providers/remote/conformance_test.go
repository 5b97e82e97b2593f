package remote_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/chaos"
	"github.com/berth-dev/berth/sdk/go/provider/chaos/chaoshost"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/remote"
)

// garbling is a chaos provider: for this side of the socket its nonsense is a host's.
type garbling struct {
	*chaoshost.Host
}

// Garble implements providertest.Host.
func (p garbling) Garble(context.Context) error {
	s, garbled := p.Base, []chaos.Step{{Garble: true}}
	s.Allocate, s.Get, s.List, s.Release = garbled, garbled, garbled, garbled
	return p.Set(s)
}

// document waits until the attempt's server has its document.
func document(ctx context.Context, documents *sync.Map, attempt string) ([]byte, error) {
	for ctx.Err() == nil {
		if raw, ok := documents.Load(attempt); ok {
			return raw.([]byte), nil
		}
		time.Sleep(time.Millisecond)
	}
	return nil, ctx.Err()
}

func TestConformance(t *testing.T) {
	dir, err := os.MkdirTemp("", "remote") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	base := chaos.Script{PageSize: 2, PollInterval: 10 * time.Millisecond}
	var documents sync.Map
	behind, err := chaos.New(chaos.Config{Script: base, Run: func(ctx context.Context, order *providerv1.AllocateRequest) error {
		documents.Store(order.GetAttemptId(), order.GetBootstrap())
		<-ctx.Done()
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	address := "unix://" + filepath.Join(dir, "s")
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, served := make(chan struct{}), make(chan error, 1)
	go func() {
		served <- provider.Serve(ctx, provider.ServeConfig{Address: address, Log: slog.New(slog.DiscardHandler), Ready: func(net.Addr) { close(ready) }}, behind)
	}()
	t.Cleanup(func() {
		stop()
		behind.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-served:
		t.Fatal(err)
	}
	p, err := remote.New(t.Context(), remote.Config{Name: "chaos", Log: slog.New(slog.DiscardHandler), Address: address})
	if err != nil {
		t.Fatal(err)
	}
	host := garbling{chaoshost.New(behind, base)}
	host.Document = func(ctx context.Context, attempt string) ([]byte, error) { return document(ctx, &documents, attempt) }
	providertest.Run(t, providertest.Config{Provider: p, Host: host})
	if err := p.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	if s := behind.Stats(); s.Alive != 0 || s.Doubled != 0 {
		t.Errorf("at the end: %+v", s)
	}
}
