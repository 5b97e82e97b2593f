package stack

import (
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/berth-dev/berth/services/berth/dev"
)

// AllInOne runs what `berth dev` runs with these options, in the folder o.Dir and on ports of its own, in this process, so that the race detector sees it
// all. It returns when Berth is ready, and stops it with the test.
func AllInOne(t testing.TB, o dev.Options) *dev.Stack {
	t.Helper()
	o.AnyPort, o.LogLevel, o.Out = true, "error", io.Discard
	ctx, cancel := context.WithCancel(context.Background())
	d, err := dev.New(ctx, o)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- d.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("stop: %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	Eventually(t, "the all-in-one is ready", func() error { return d.Ready(ctx) })
	return d
}
