// Package api plays one corpus of calls, files of testdata, over gRPC and over REST against all of Berth in one process, and checks that both are
// answered alike and as the contract says.
package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berth-dev/berth/services/berth/dev"
)

// stack is all of Berth in this process, and connections to it.
type stack struct {
	dev  *dev.Stack
	conn *grpc.ClientConn
	http *http.Client
}

// start starts what `berth dev` runs. The build "game" is the example game server, which opens to its players at once and plays on; "silent" never
// links.
func start(t *testing.T) *stack {
	t.Helper()
	dir := t.TempDir()
	server := filepath.Join(dir, "gameserver")
	build := exec.Command("go", "build", "-o", server, "./examples/gameserver")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	config := filepath.Join(dir, "berth.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
providers:
  - name: local
    kind: process
    process:
      regions: [local, r0]
      builds:
        game: {command: %q, args: ["--hold"], endpoints: [{name: game, protocol: tcp}]}
        silent: {command: %q, args: ["--never-link"], endpoints: [{name: game, protocol: tcp}]}
`, server, server), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d, err := dev.New(ctx, dev.Options{Config: config, AnyPort: true, Dir: dir, LogLevel: "error", Out: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- d.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	if err := eventually(func() error { return d.Ready(ctx) }); err != nil {
		t.Fatalf("not ready: %v", err)
	}
	conn, err := grpc.NewClient(d.API, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(func() {
		_ = conn.Close()
		transport.CloseIdleConnections()
	})
	return &stack{dev: d, conn: conn, http: &http.Client{Transport: transport}}
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
