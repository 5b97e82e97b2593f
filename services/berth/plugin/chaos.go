package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/chaos"
)

const (
	headerTimeout = 5 * time.Second
	statsStop     = time.Second
)

// ChaosOptions say where a chaos provider listens and what goes wrong at it.
type ChaosOptions struct {
	// Listen is where: unix:///path, or host:port of this machine.
	Listen string
	// Script is a file in YAML; empty: nothing goes wrong.
	Script string
	// Stats is where counts are served over HTTP, on this machine only; empty: nowhere.
	Stats string
	// Log is where servers that start and end are logged.
	Log *slog.Logger
	// Out gets a line for each address once it is listened on, and the counts as JSON at the end.
	Out io.Writer
}

// Chaos serves a chaos provider until ctx ends.
func Chaos(ctx context.Context, o ChaosOptions) error {
	script, err := o.script()
	if err != nil {
		return err
	}
	p, err := chaos.New(chaos.Config{Script: script, Log: o.Log})
	if err != nil {
		return err
	}
	defer p.Close()
	stats, err := o.serveStats(ctx, p)
	if err != nil {
		return err
	}
	ready := func(addr net.Addr) {
		shown := o.Listen
		if !strings.HasPrefix(shown, "unix:") { // port 0 has become one
			shown = addr.String()
		}
		_, _ = fmt.Fprintln(o.Out, "listening", shown)
	}
	served := make(chan error, 1) // it ends once
	go func() {
		served <- provider.Serve(ctx, provider.ServeConfig{Address: o.Listen, Log: o.Log, Ready: ready}, p)
	}()
	select {
	case err = <-served: // it cannot listen
		return errors.Join(err, stats())
	case <-ctx.Done():
	}
	counts, err := json.Marshal(p.Stats()) // before all servers are ended
	_, _ = fmt.Fprintf(o.Out, "%s\n", counts)
	p.Close() // ends the calls that hang, for which Serve waits
	return errors.Join(err, <-served, stats())
}

func (o ChaosOptions) script() (chaos.Script, error) {
	if o.Script == "" {
		return chaos.Script{}, nil
	}
	raw, err := os.ReadFile(o.Script)
	if err != nil {
		return chaos.Script{}, fmt.Errorf("script: %w", err)
	}
	script, err := chaos.Parse(raw)
	if err != nil {
		return script, fmt.Errorf("script %s: %w", o.Script, err)
	}
	return script, nil
}

// serveStats serves the counts until the returned function is called.
func (o ChaosOptions) serveStats(ctx context.Context, p *chaos.Provider) (stop func() error, err error) {
	if o.Stats == "" {
		return func() error { return nil }, nil
	}
	host, _, err := net.SplitHostPort(o.Stats)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("stats: %q is no host:port of this machine: whoever reaches it can change the script", o.Stats)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", o.Stats)
	if err != nil {
		return nil, fmt.Errorf("stats: %w", err)
	}
	srv := &http.Server{Handler: p.Handler(), ReadHeaderTimeout: headerTimeout}
	served := make(chan error, 1) // it ends once
	go func() { served <- srv.Serve(ln) }()
	_, _ = fmt.Fprintf(o.Out, "stats http://%s\n", ln.Addr())
	return func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statsStop)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close() // whoever is slow is cut off
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}, nil
}
