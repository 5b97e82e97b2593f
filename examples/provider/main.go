// Command provider is a plugin for Berth: a hosting provider that is a process of its own. It hands out a list of machines, one game server on each. For
// a server it writes a file into a folder that is shared with the machines; what runs there starts a game server when the file of its machine appears, with
// the bootstrap document in it, and stops it when the file goes. docs/providers.md says how to run and check it.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/berth-dev/berth/sdk/go/provider"
)

func main() {
	address := flag.String("address", "unix:///run/berth/machines.sock", "where to listen: unix:///path, or host:port with the flags of TLS")
	var tls provider.TLS
	flag.StringVar(&tls.CertFile, "tls-cert", "", "file of the certificate")
	flag.StringVar(&tls.KeyFile, "tls-key", "", "file of its key")
	flag.StringVar(&tls.CAFile, "tls-ca", "", "file of the authorities of those who may call")
	var m machines
	flag.StringVar(&m.dir, "dir", "machines", "folder with a file for each machine that has a server")
	flag.StringVar(&m.build, "build", "example", "the build that the machines have")
	flag.Func("machine", "REGION/HOST:PORT of a machine; any number of times", m.add)
	flag.Parse()
	if err := run(*address, tls, &m); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(address string, tls provider.TLS, m *machines) error {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return provider.Serve(ctx, provider.ServeConfig{Address: address, TLS: tls, Ready: func(a net.Addr) { slog.Info("listening", "addr", a.String()) }}, m)
}
