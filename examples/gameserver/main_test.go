package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
)

func TestListen(t *testing.T) {
	free, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	game := bootstrap.Endpoint{Name: "game", Host: "127.0.0.1", Port: uint16(port), Protocol: "tcp"}
	public := game
	public.Host = "198.51.100.7"

	for name, tc := range map[string]struct {
		endpoints []bootstrap.Endpoint
		flag      string
		wantPort  bool // that of the endpoint
		loopback  bool
		announces bool // tells Berth where it is
	}{
		"endpoint on this machine": {[]bootstrap.Endpoint{game}, "", true, true, false},
		"public endpoint":          {[]bootstrap.Endpoint{public}, "", true, false, false},
		"no endpoint":              {nil, "", false, true, true},
		"another address":          {[]bootstrap.Endpoint{public}, "127.0.0.1:0", false, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			l, opts, err := listen(t.Context(), &bootstrap.Document{Endpoints: tc.endpoints}, tc.flag)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			at := l.Addr().(*net.TCPAddr)
			if (at.Port == port) != tc.wantPort || at.IP.IsLoopback() != tc.loopback || (len(opts) == 1) != tc.announces {
				t.Errorf("listens on %s with %d options", at, len(opts))
			}
		})
	}
}

func TestMisbehaviour(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	if err := run(t.Context(), config{crashBeforeLink: true}, log); !errors.Is(err, errCrash) {
		t.Errorf("-crash-before-link: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, config{neverLink: true}, log); err != nil {
		t.Errorf("-never-link, told to stop: %v", err)
	}
}

func TestRunNeedsABootstrapDocument(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, env := range []string{bootstrap.EnvDocument, bootstrap.EnvFile, bootstrap.EnvFD} {
		t.Setenv(env, "")
	}
	var none *bootstrap.NotFoundError
	if err := run(t.Context(), config{}, slog.New(slog.DiscardHandler)); !errors.As(err, &none) {
		t.Errorf("got %v", err)
	}
}
