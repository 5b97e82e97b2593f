package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/berth/plugin"
)

func providerCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "provider", Short: "Tools for hosting providers that are processes of their own"}
	cmd.AddCommand(verifyCommand(), chaosCommand())
	return cmd
}

func verifyCommand() *cobra.Command {
	o := plugin.VerifyOptions{Out: os.Stdout}
	cmd := &cobra.Command{
		Use: "verify --address ADDRESS [flags]", Short: "Check a provider for all that Berth builds on", Args: cobra.NoArgs,
		Long: `Runs the conformance suite on a provider: calls it as the allocation service does, and looks at what it answers. Prints a line for each check, with
the reason if it failed or was skipped, and ends with status 1 if one failed.

It starts real servers, few at a time, with a bootstrap document that leads to no gateway, and gives back all of them, also when it is interrupted once. What it
cannot give back, it names. They are marked as a deployment of their own, so the provider can be in use meanwhile; with --deployment, nothing else may
have that mark: List is empty before. Checks for which the host has to misbehave need the suite in a test of Go.

The checks, of which --check names some:
` + checkNames(),
		Example: `  berth provider verify --address unix:///run/berth/plugin.sock
  berth provider verify --address plugin.example.com:7300 --ca ca.pem --cert allocation.pem --key allocation.key --build shooter --region eu`,
		RunE: func(cmd *cobra.Command, _ []string) error { return plugin.Verify(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.Address, "address", "", "where the provider listens: unix:///path or host:port")
	f.StringVar(&o.CA, "ca", "", "file with the authorities that the provider's certificate is of (PEM; default: those of the system). Without --ca, --cert, --key and --server-name there is no TLS")
	f.StringVar(&o.Cert, "cert", "", "file with the certificate to call it with (PEM)")
	f.StringVar(&o.Key, "key", "", "file with the key of that certificate (PEM)")
	f.StringVar(&o.ServerName, "server-name", "", "what the provider's certificate has to name (default: the host of the address)")
	f.StringVar(&o.Build, "build", "", "build to run (default: the first that the provider names)")
	f.StringVar(&o.Region, "region", "", "region to run in (default: the first that the provider names)")
	f.StringVar(&o.Deployment, "deployment", "", "what the servers are marked with; nothing else may have that mark (default: one of this run's own)")
	f.StringSliceVar(&o.Checks, "check", nil, "names of checks to run, with commas between them (default: all)")
	f.IntVar(&o.MaxServers, "max-servers", 0, "how many servers it may have at once; checks that need more are skipped (default 3)")
	f.DurationVar(&o.Limit, "limit", 0, "how long each check may take, with the end of its servers (default 30s)")
	f.StringSliceVar(&o.BootstrapCommand, "bootstrap-command", nil, "command, and its arguments after commas, that gets an attempt's id and prints the document that its server got")
	if err := cmd.MarkFlagRequired("address"); err != nil {
		panic(fmt.Sprintf("a flag of this command: %v", err))
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if strings.HasSuffix(err.Error(), "--check") { // without a name
			return fmt.Errorf("%w, of these:\n%s", err, checkNames())
		}
		return err
	})
	return cmd
}

// checkNames lists the names of the checks in lines for a terminal.
func checkNames() string {
	const perLine = 6
	var lines []string
	for names := range slices.Chunk(providertest.Checks(), perLine) {
		lines = append(lines, "  "+strings.Join(names, ", "))
	}
	return strings.Join(lines, ",\n")
}

func chaosCommand() *cobra.Command {
	o := plugin.ChaosOptions{Out: os.Stdout}
	level := ""
	cmd := &cobra.Command{
		Use: "chaos --listen ADDRESS [flags]", Short: "Run a provider at which things go wrong, for tests", Args: cobra.NoArgs,
		Long: `Serves a provider whose servers are in its memory, or commands, and at which goes wrong what a script says: delays, failures, lost replies, servers that
come late, or twice. Prints where it listens, and at the end what it counted, as JSON; meanwhile the counts are at --stats, where the script can be
replaced, too. It is no provider for players.`,
		Example: `  berth provider chaos --listen unix:///tmp/chaos.sock --script chaos.yaml --stats 127.0.0.1:7390
  curl -s http://127.0.0.1:7390/stats
  curl -s -T other.yaml http://127.0.0.1:7390/script`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := app.Process{LogLevel: level, LogFormat: "text"}.Logger()
			if err != nil {
				return err
			}
			o.Log = log
			return plugin.Chaos(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Listen, "listen", "", "where the allocation service calls it: unix:///path, or host:port of this machine")
	f.StringVar(&o.Script, "script", "", "file with what goes wrong (YAML); without it nothing does")
	f.StringVar(&o.Stats, "stats", "", "host:port of this machine where the counts are served over HTTP")
	f.StringVar(&level, "log-level", "warn", "debug, info, warn or error")
	if err := cmd.MarkFlagRequired("listen"); err != nil {
		panic(fmt.Sprintf("a flag of this command: %v", err))
	}
	return cmd
}
