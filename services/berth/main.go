// Command berth runs all of Berth in one process for development, and has the operators' tools.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/services/berth/dev"
)

func main() {
	root := &cobra.Command{
		Use: "berth", Short: "The open backend between a game's services and its dedicated game servers",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(devCommand(), apiKeyCommand(), providerCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { _, _ = fmt.Fprintln(cmd.OutOrStdout(), "berth", version()) },
	})

	ctx, stop := app.UntilSignal(context.Background())
	err := root.ExecuteContext(ctx)
	stop()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		os.Exit(exit.ExitCode()) // the command that ran within has said why
	case err != nil:
		_, _ = fmt.Fprintln(os.Stderr, "berth:", err)
		os.Exit(1)
	}
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func devCommand() *cobra.Command {
	o := dev.Options{Out: os.Stdout}
	cmd := &cobra.Command{
		Use:   "dev [flags] [-- COMMAND [ARGS]]",
		Short: "Run all services in one process, with an embedded store that keeps nothing",
		Long: `Runs game-instance, token-issuer, allocation and gateway in one process, with an embedded store: nothing needs to be
installed, and nothing is kept when it stops. Prints where it listens and the curl that starts a match; Ctrl-C, or closing the terminal, stops it, and
every game server that it started.

With a COMMAND, runs it once everything is up and stops with its exit code. The command finds in its environment:
  BERTH_API         gRPC address of the API, host:port
  BERTH_API_URL     base URL of the API over REST
  BERTH_GATEWAY     base URL that game servers use
  BERTH_API_KEY     the API key`,
		Example: `  berth dev --config examples/berth.dev.yaml
  berth dev --config examples/berth.dev.yaml -- bin/matchmaker --build example
  berth dev --attach`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Command = args
			if o.AnyPort && !o.Attach && !cmd.Flags().Changed("dir") {
				o.Dir = "" // one beside another wants a folder of its own, as it wants ports of its own
			}
			log, err := app.Process{LogLevel: o.LogLevel, LogFormat: "text"}.Logger()
			if err != nil {
				return err
			}
			app.LogDrivers(log)
			return dev.Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Config, "config", "", "file with the builds to run (examples/berth.dev.yaml shows one)")
	f.BoolVar(&o.Attach, "attach", false, "start no servers: an instance waits for one that you start by hand; deadlines are off")
	f.StringVar(&o.APIAddr, "api-addr", "127.0.0.1:7002", "where the API listens for REST")
	f.StringVar(&o.GRPCAddr, "grpc-addr", "127.0.0.1:7101", "where the API listens for gRPC")
	f.StringVar(&o.EdgeAddr, "edge-addr", "127.0.0.1:7001", "where game servers connect")
	f.StringVar(&o.AdminAddr, "admin-addr", "127.0.0.1:7190", "where health, metrics and pprof are served")
	f.StringSliceVar(&o.AllowedHosts, "allowed-hosts", nil, "names, beside localhost and its addresses, by which the API and the edge may be called (their Host): my-laptop.lan,host.docker.internal")
	f.BoolVar(&o.AnyPort, "any-port", false, "listen on free ports of 127.0.0.1 instead; without --dir and --attach, in a folder that is removed at the end")
	f.StringVar(&o.Dir, "dir", ".berth", "folder for game servers' logs and the attach bootstrap")
	f.BoolVar(&o.Quiet, "quiet", false, "print no banner")
	f.StringVar(&o.LogLevel, "log-level", "warn", "debug, info, warn or error")
	return cmd
}
