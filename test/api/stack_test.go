// Package api plays one corpus of calls, files of testdata, over gRPC and over REST against all of Berth's services in one process, and checks that both
// are answered alike and as the contract says.
package api

import (
	"bufio"
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/auth/oidc/oidctest"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/allocation"
	"github.com/berth-dev/berth/services/allocation/providers"
	"github.com/berth-dev/berth/services/allocation/providers/process"
	"github.com/berth-dev/berth/services/gameinstance"
	"github.com/berth-dev/berth/services/gateway"
	"github.com/berth-dev/berth/services/tokenissuer"
)

// stack is all of Berth in this process, and connections to it.
type stack struct {
	// conns are the connections over gRPC, by program.
	conns map[string]*grpc.ClientConn
	http  *http.Client
	// api and edge are the base URLs of the gateway, for backends and for game servers.
	api, edge string
	// identity is an identity provider whose tokens all services take, signed with signs.
	identity *oidctest.Issuer
	signs    oidctest.Key
}

// internalKey is that of all services.
var internalKey = conf.Secret(rand.Text() + rand.Text())

// The names of keys that no role names.
const (
	noKey        = "none"      // no credentials at all
	serviceKey   = "internal"  // that of the services
	unknownKey   = "unknown"   // nobody has made it
	elsewhereKey = "elsewhere" // an admin's, of the namespace "elsewhere" only
	poolKey      = "pool"      // that of a pool's servers, which includes no other role
)

// secretOf returns the API key of a name.
func secretOf(name string) string { return apikey.Prefix + "of-the-corpus-" + name }

// keys are the API keys that all services know: one of each role, that of pools, and that of another namespace.
func keys() []auth.APIKey {
	out := []auth.APIKey{{Name: elsewhereKey, SHA256: apikey.Hash(secretOf(elsewhereKey)), Role: auth.RoleAdmin, Namespaces: []string{"elsewhere"}}}
	out = append(out, auth.APIKey{Name: poolKey, SHA256: apikey.Hash(secretOf(poolKey)), Role: auth.RolePool})
	for role, r := range keyRoles {
		name := keyOf(role)
		out = append(out, auth.APIKey{Name: name, SHA256: apikey.Hash(secretOf(name)), Role: auth.Role(strings.TrimPrefix(r.String(), "ROLE_"))})
	}
	return out
}

// keyNames returns the names of all of them.
func keyNames() []string {
	var out []string
	for _, k := range keys() {
		out = append(out, k.Name)
	}
	return out
}

// stacks are those that the cases play on, started when the first one does.
type stacks struct {
	t       *testing.T
	local   process.Config
	started map[string]*stack
}

// of returns the stack of a name for a way; that without a name is for both.
func (s *stacks) of(name, way string) *stack {
	if name != "" {
		name += " " + way
	}
	if s.started[name] == nil {
		s.started[name] = start(s.t, s.local)
	}
	return s.started[name]
}

// start starts the services, with a provider that runs game servers on this machine.
func start(t *testing.T, local process.Config) *stack {
	t.Helper()
	local.StateDir = t.TempDir()
	ls := map[string]net.Listener{}
	for _, name := range []string{gameInstance, tokenIssuer, allocations, "edge", "api", "admin"} {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		ls[name] = l
	}
	redis := redisx.Config{Addrs: []string{redistest.Server(t)}, Partitions: 16}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	provider := providers.Config{Name: "local", Kind: "process", Process: local}
	signs := oidctest.NewKey(t, "k1")
	identity := oidctest.New(t, signs)
	a, err := app.New(context.Background(), app.Config{Log: log, AdminListener: ls["admin"]}, modules(ls, redis, provider, identity)...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	if err := eventually(func() error { return a.Ready(ctx) }); err != nil {
		t.Fatalf("not ready: %v", err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	s := &stack{
		conns: map[string]*grpc.ClientConn{}, http: &http.Client{Transport: transport}, api: "http://" + ls["api"].Addr().String(), edge: "http://" + ls["edge"].Addr().String(),
		identity: identity, signs: signs,
	}
	for _, program := range []string{gameInstance, tokenIssuer, allocations} {
		conn, err := grpc.NewClient(ls[program].Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		s.conns[program] = conn
	}
	return s
}

// modules are the services, wired to each other.
func modules(ls map[string]net.Listener, redis redisx.Config, provider providers.Config, identity *oidctest.Issuer) []app.Module {
	creds := auth.Config{InternalKey: internalKey, APIKeys: keys(), OIDC: []auth.OIDC{takes(identity)}}
	at := func(program string) string { return ls[program].Addr().String() }

	ti := tokenissuer.Default()
	ti.Redis, ti.Auth, ti.GRPCListener, ti.SealingKey = redis, creds, ls[tokenIssuer], conf.Secret(rand.Text()+rand.Text())

	gi := gameinstance.Default()
	gi.Redis, gi.Auth, gi.GRPCListener, gi.TokenIssuer, gi.Allocation = redis, creds, ls[gameInstance], at(tokenIssuer), at(allocations)

	al := allocation.Default()
	al.Redis, al.Auth, al.GRPCListener, al.TokenIssuer, al.GameInstance = redis, creds, ls[allocations], at(tokenIssuer), at(gameInstance)
	al.GatewayURL, al.Providers = "http://"+at("edge"), []providers.Config{provider}

	gw := gateway.Default()
	gw.Redis, gw.Auth, gw.EdgeListener, gw.APIListener = redis, creds, ls["edge"], ls["api"]
	gw.GameInstance, gw.TokenIssuer, gw.Allocation = at(gameInstance), at(tokenIssuer), at(allocations)
	gw.Limits.Rates.Exempt, gw.Limits.Rates.Credential.PerSecond = []string{"127.0.0.0/8"}, 0 // all tests share one address and one key

	ti.Egress, gi.Egress, al.Egress = identity.Egress(), identity.Egress(), identity.Egress()
	return []app.Module{tokenissuer.Module(ti), gameinstance.Module(gi), allocation.Module(al), gateway.Module(gw)}
}

// local is what runs game servers on this machine. The build "game" is the example game server, which opens to its players at once and plays on; "silent"
// never links.
func local(t *testing.T) process.Config {
	t.Helper()
	dir := t.TempDir()
	server := filepath.Join(dir, "gameserver")
	build := exec.Command("go", "build", "-o", server, "./examples/gameserver")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	endpoints := []process.Endpoint{{Name: "game", Protocol: "tcp"}}
	return process.Config{
		StopWithService: true, Regions: []string{"local", "r0"}, MaxServers: 1000,
		Builds: map[string]process.Build{
			"game":   {Command: server, Args: []string{"--hold"}, Endpoints: endpoints},
			"silent": {Command: server, Args: []string{"--never-link"}, Endpoints: endpoints},
		},
	}
}

// eventually waits until a condition holds, and returns what it lacked at last.
func eventually(condition func() error) error {
	deadline := time.Now().Add(patience)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		err := condition()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-poll.C
	}
}

// documented is what the table of docs/errors.md says about a reason.
type documented struct {
	code string
	http []string
}

// errorTable reads the table of docs/errors.md.
func errorTable(t *testing.T) map[string]documented {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "docs", "errors.md"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := map[string]documented{}
	for scan := bufio.NewScanner(f); scan.Scan(); {
		cells := strings.Split(scan.Text(), "|")
		if len(cells) == 7 && strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
			reason, code := strings.Trim(cells[1], " `"), strings.Trim(cells[2], " `")
			table[reason] = documented{code, status3.FindAllString(cells[3], -1)}
		}
	}
	if len(table) == 0 {
		t.Fatal("docs/errors.md has no table")
	}
	return table
}
