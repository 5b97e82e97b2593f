//go:build linux

package process_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/services/allocation/providers/process"
)

const (
	// childMode makes this binary behave as a game server.
	childMode = "PROVIDER_TEST_CHILD"
	// childReady tells a grandchild that file 3 waits for it to be ready.
	childReady = "PROVIDER_TEST_READY"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		child(mode)
		return
	}
	goleak.VerifyTestMain(m)
}

// child says "ready" once it is what its mode says.
func child(mode string) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	switch mode {
	case "serve": // stops when asked
		fmt.Println("ready")
		<-asked
	case "talk": // writes lines until it is asked to stop
		fmt.Println("ready")
		for line := 0; ; line++ {
			select {
			case <-asked:
				return
			case <-time.After(time.Millisecond):
				fmt.Println("line", line, strings.Repeat(".", 1000))
			}
		}
	case "greedy": // says its limits and what it gets beyond that for memory
		var files unix.Rlimit
		for files.Cur != 64 { // they are set when it runs already
			_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &files)
		}
		_, err := unix.Mmap(-1, 0, 1<<30, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		fmt.Println("memory:", err)
		fmt.Println("ready")
		<-asked
	case "crash":
		os.Exit(3)
	case "suicide":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "stubborn": // does not stop when asked
		fmt.Println("ready", os.Getpid())
		if os.Getenv(childReady) != "" {
			_ = os.NewFile(3, "ready").Close()
		}
		for range asked {
			fmt.Println("asked")
		}
	case "parent": // has a child that does not stop when asked, and stops itself
		grandchild()
		<-asked
	case "orphan": // leaves a child behind
		grandchild()
	case "service": // runs a provider, as a service would that is then killed
		service()
	case "report": // says what it was given, without the secrets
		report()
		<-asked
	}
}

// grandchild starts a process in the same group and waits until it is ready.
func grandchild() {
	r, w, err := os.Pipe()
	if err != nil {
		os.Exit(1)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childMode+"=stubborn", childReady+"=3")
	cmd.Stdout, cmd.ExtraFiles = os.Stdout, []*os.File{w}
	if err := cmd.Start(); err != nil {
		os.Exit(1)
	}
	_ = w.Close()
	_, _ = io.ReadAll(r) // ends when the grandchild closes its end
}

func service() {
	p, err := process.New(context.Background(), config(os.Getenv("PROVIDER_TEST_DIR"), discard()))
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := p.Allocate(context.Background(), order("serve", attempt(1))); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("ready")
	select {}
}

func report() {
	var names []string
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		names = append(names, name)
	}
	document, err := bootstrap.Find(context.Background())
	if err != nil {
		fmt.Println("bootstrap:", err)
		return
	}
	for _, e := range document.Endpoints {
		fmt.Printf("endpoint %s %s %d %s\n", e.Name, e.Host, e.Port, e.Protocol)
	}
	fmt.Println("tokens", document.Game.Reveal() == gameToken, document.Social.Reveal() == socialToken)
	fmt.Println("args", strings.Join(os.Args[1:], " "))
	dir, _ := os.Getwd()
	fmt.Println("dir", dir)
	fmt.Println("env", strings.Join(names, " "))
	fmt.Println("ready")
}
