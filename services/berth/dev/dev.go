// Package dev runs all of Berth in one process: the same four service values that run apart in production, with an embedded store.
package dev

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/egress"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/allocation"
	"github.com/berth-dev/berth/services/allocation/providers"
	"github.com/berth-dev/berth/services/allocation/providers/attach"
	"github.com/berth-dev/berth/services/allocation/providers/process"
	"github.com/berth-dev/berth/services/gameinstance"
	"github.com/berth-dev/berth/services/gateway"
	"github.com/berth-dev/berth/services/tokenissuer"
)

// Options say what to run.
type Options struct {
	// Config is a file with the builds to run.
	Config string
	// Attach waits for servers that people start by hand instead of starting any.
	Attach bool
	// APIAddr, GRPCAddr, EdgeAddr and AdminAddr are where to listen.
	APIAddr, GRPCAddr, EdgeAddr, AdminAddr string
	// AllowedHosts are names, beside those of this machine, by which requests may call the API and the edge.
	AllowedHosts []string
	// AnyPort listens on free ports instead.
	AnyPort bool
	// Redis is the address of an empty Redis to use instead of the embedded store: for benchmarks. All keys are made anew at each start, so what
	// is in it cannot be used again.
	Redis string
	// Dir is the folder for game servers' logs and the attach bootstrap, made if it is not there; empty: one that is made for this run and removed at
	// its end.
	Dir string
	// Quiet prints no banner.
	Quiet bool
	// LogLevel is debug, info, warn or error.
	LogLevel string
	// Command is run once everything is up; empty: none.
	Command []string
	// Out is where the banner goes.
	Out io.Writer
}

// File is the configuration file of `berth dev`.
type File struct {
	// Providers are the hosting providers, as in the allocation service's configuration.
	Providers []providers.Config `yaml:"providers"`
	// Placement says at which of them servers are looked for, as there.
	Placement allocation.Placement `yaml:"placement"`
	// Timeouts are for instances that do not say.
	Timeouts gameinstance.Timeouts `yaml:"timeouts" envPrefix:"TIMEOUT_"`
	// Limits are the gateway's.
	Limits gateway.Limits `yaml:"limits" envPrefix:"LIMIT_"`
	// Auth has callers beside the API key of the run.
	Auth Callers `yaml:"auth"`
	// Egress says to which addresses beyond the internet Berth connects.
	Egress egress.Config `yaml:"egress" envPrefix:"EGRESS_"`
}

// defaults are those of the file. Everybody on a laptop has one address, so that is not counted.
func defaults() File {
	file := File{Timeouts: gameinstance.Default().Timeouts, Limits: gateway.Default().Limits}
	file.Limits.Rates.Exempt = []string{"127.0.0.0/8", "::1/128"}
	return file
}

// Callers are who may call beside the holder of the API key.
type Callers struct {
	// OIDC are the identity providers whose tokens are taken, as in the services' configuration.
	OIDC []auth.OIDC `yaml:"oidc"`
}

// Stack is all of Berth in this process.
type Stack struct {
	// API is the API's gRPC address.
	API string
	// APIURL is the API's base URL for REST.
	APIURL string
	// Gateway is the base URL for game servers.
	Gateway string
	// Admin is the base URL for health and metrics.
	Admin string
	// Key is the API key, made anew at each start.
	Key string
	// Builds are the builds that can be run.
	Builds []string

	dir string
	app *app.App
}

// Run runs Berth until ctx is cancelled or the command ends.
func Run(ctx context.Context, o Options) error {
	s, err := New(ctx, o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		stopped <- s.app.Run(ctx)
	}()
	if err := s.ready(ctx, ended); err != nil {
		cancel()
		return errors.Join(err, <-stopped)
	}
	if !o.Quiet {
		s.banner(o)
	}
	if len(o.Command) == 0 {
		return <-stopped
	}
	ran := make(chan error, 1)
	go func() { ran <- s.command(ctx, o.Command) }()
	select {
	case err = <-ran:
		cancel()
		return errors.Join(err, <-stopped)
	case err = <-stopped:
		cancel()
		return errors.Join(err, <-ran)
	}
}

// New builds everything and opens the listeners; Run or Serve must follow.
func New(ctx context.Context, o Options) (*Stack, error) {
	file := defaults()
	if o.Config != "" {
		if err := conf.Load(o.Config, &file); err != nil {
			return nil, err
		}
	}
	log, err := app.Process{LogLevel: o.LogLevel, LogFormat: "text"}.Logger()
	if err != nil {
		return nil, err
	}
	if err := check(o); err != nil {
		return nil, err
	}
	dir, err := openFolder(o.Dir)
	if err != nil {
		return nil, err
	}
	prepare(&file, o, dir.path)
	ls, err := listen(ctx, o)
	if err != nil {
		return nil, errors.Join(err, dir.close())
	}
	s := &Stack{
		API: ls.instance.Addr().String(), APIURL: "http://" + ls.api.Addr().String(), Gateway: "http://" + ls.edge.Addr().String(),
		Admin: "http://" + ls.admin.Addr().String(), Key: apikey.Prefix + rand.Text(), dir: dir.path,
	}
	for _, p := range file.Providers {
		s.Builds = append(s.Builds, p.Attach.Builds...)
		s.Builds = append(s.Builds, slices.Sorted(maps.Keys(p.Process.Builds))...)
	}
	modules, redis := []app.Module{dir.module()}, redisx.Config{Addrs: []string{o.Redis}}
	if o.Redis == "" {
		store, err := startStore()
		if err != nil {
			return nil, errors.Join(err, ls.close(), dir.close())
		}
		redis, modules = store.config(), append(modules, store.module())
	}
	modules = append(modules, s.services(file, ls, redis, o.AllowedHosts)...)
	s.app, err = app.New(ctx, app.Config{Log: log, AdminListener: ls.admin}, modules...)
	if errors.Is(err, process.ErrFolderInUse) {
		err = fmt.Errorf("another berth runs in the folder %s: choose another with --dir (%w)", dir.path, err)
	}
	if err != nil {
		return nil, errors.Join(err, ls.close())
	}
	return s, nil
}

// attachPort is where players find a game server that was started by hand.
const attachPort = 7777

// pairLifetime is the longest that a token pair can have: nobody who sits at a debugger should lose the server's credentials.
const pairLifetime = 24 * time.Hour

// check returns an error for options that do not go together.
func check(o Options) error {
	switch {
	case o.Attach && o.Config != "":
		return errors.New("--attach starts no servers, so it takes no --config")
	case !o.Attach && o.Config == "":
		return errors.New("which game servers to run? name a file with --config (examples/berth.dev.yaml shows one), or use --attach")
	}
	return nil
}

// prepare completes the file for what the options ask for.
func prepare(file *File, o Options, dir string) {
	if o.Attach {
		file.Providers = []providers.Config{{Name: "attach", Kind: "attach", Attach: attach.Config{
			File: filepath.Join(dir, "bootstrap.json"), Builds: []string{"attach"}, Endpoints: []attach.Endpoint{{Name: "game", Port: attachPort, Protocol: "tcp"}},
		}}}
		file.Timeouts = gameinstance.Timeouts{Retention: file.Timeouts.Retention}
	}
	for n := range file.Providers {
		p := &file.Providers[n]
		// The store forgets everything at the end, so nothing may outlive it.
		p.Process.StopWithService, p.Attach.StopWithService = true, true
		if p.Process.StateDir == "" {
			p.Process.StateDir = filepath.Join(dir, "servers", p.Name)
		}
	}
}

// services returns the four services, wired to each other.
func (s *Stack) services(file File, ls *listeners, redis redisx.Config, hosts []string) []app.Module {
	redis.Partitions = 16
	creds := auth.Config{
		InternalKey: conf.Secret(rand.Text() + rand.Text()),
		APIKeys:     []auth.APIKey{{Name: "dev", SHA256: apikey.Hash(s.Key), Role: auth.RoleAdmin}},
		OIDC:        file.Auth.OIDC,
	}
	instanceAddr, issuerAddr, allocationAddr := ls.instance.Addr().String(), ls.issuer.Addr().String(), ls.allocation.Addr().String()

	ti := tokenissuer.Default()
	ti.Redis, ti.Auth, ti.GRPCListener, ti.SealingKey = redis, creds, ls.issuer, conf.Secret(rand.Text()+rand.Text())
	ti.PairLifetime = pairLifetime

	gi := gameinstance.Default()
	gi.Redis, gi.Auth, gi.GRPCListener, gi.TokenIssuer, gi.Allocation, gi.Timeouts = redis, creds, ls.instance, issuerAddr, allocationAddr, file.Timeouts

	al := allocation.Default()
	al.Redis, al.Auth, al.GRPCListener, al.TokenIssuer, al.GameInstance = redis, creds, ls.allocation, issuerAddr, instanceAddr
	al.GatewayURL, al.Providers, al.Placement = s.Gateway, file.Providers, file.Placement

	gw := gateway.Default()
	gw.Redis, gw.Auth, gw.EdgeListener, gw.APIListener = redis, creds, ls.edge, ls.api
	gw.GameInstance, gw.TokenIssuer, gw.Allocation = instanceAddr, issuerAddr, allocationAddr
	gw.Limits, gw.AllowedHosts = file.Limits, slices.Concat(ls.hosts(), hosts)

	ti.Egress, gi.Egress, al.Egress = file.Egress, file.Egress, file.Egress
	for _, a := range []*audit.Settings{&ti.Audit, &gi.Audit, &al.Audit, &gw.Audit} {
		a.Stdout = false // it is the command's, and the banner's
	}
	return []app.Module{tokenissuer.Module(ti), gameinstance.Module(gi), allocation.Module(al), gateway.Module(gw)}
}

// listeners are opened before anything is built, so that everybody knows everybody's address.
type listeners struct{ instance, issuer, allocation, edge, api, admin net.Listener }

func listen(ctx context.Context, o Options) (*listeners, error) {
	ls := &listeners{}
	const any = "127.0.0.1:0"
	for _, l := range []struct {
		to         *net.Listener
		flag, addr string
	}{
		{&ls.instance, "--grpc-addr", o.GRPCAddr}, {&ls.edge, "--edge-addr", o.EdgeAddr}, {&ls.api, "--api-addr", o.APIAddr}, {&ls.admin, "--admin-addr", o.AdminAddr},
		{&ls.issuer, "", any}, {&ls.allocation, "", any},
	} {
		if o.AnyPort {
			l.addr = any
		}
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.addr)
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%s is taken by another program: choose another address with %s, or --any-port", l.addr, l.flag)
		}
		if err != nil {
			return nil, errors.Join(err, ls.close())
		}
		*l.to = ln
	}
	return ls, nil
}

// hosts are the names by which game servers and tools call the API and the edge where nobody has another: this machine's own, and the addresses that were
// chosen for the two. No page of another site has one of them: what its name stands for its owner can change, but not the name that browsers send.
func (l *listeners) hosts() []string {
	names := []string{"localhost"}
	for _, ln := range []net.Listener{l.edge, l.api} {
		if addr, ok := ln.Addr().(*net.TCPAddr); ok && !addr.IP.IsUnspecified() {
			names = append(names, addr.IP.String())
		}
	}
	return names
}

func (l *listeners) close() error {
	var failed []error
	for _, ln := range []net.Listener{l.instance, l.issuer, l.allocation, l.edge, l.api, l.admin} {
		if ln == nil {
			continue
		}
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// Serve runs the services until ctx is cancelled.
func (s *Stack) Serve(ctx context.Context) error { return s.app.Run(ctx) }

// Ready returns nil once the services can serve, and otherwise what is missing.
func (s *Stack) Ready(ctx context.Context) error { return s.app.Ready(ctx) }

// startDeadline bounds the time until everything is ready.
const startDeadline = 20 * time.Second

// ready waits until the services can serve.
func (s *Stack) ready(ctx context.Context, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		missing := s.app.Ready(ctx)
		if missing == nil {
			return nil
		}
		select {
		case <-ended:
			return errors.New("stopped before it was ready")
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", missing)
		case <-poll.C:
		}
	}
}

// command runs the user's command with the addresses in its environment.
func (s *Stack) command(ctx context.Context, argv []string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "BERTH_API="+s.API, "BERTH_API_URL="+s.APIURL, "BERTH_GATEWAY="+s.Gateway, "BERTH_API_KEY="+s.Key)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd.Run()
}
