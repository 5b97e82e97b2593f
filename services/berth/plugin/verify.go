// Package plugin has the operator's tools for providers that are processes of their own: one checks them, the other one is a provider at which things go wrong.
package plugin

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
)

// maxHeaders bounds the headers of an answer, such as the words of a failure, as the allocation service does.
const maxHeaders = 64 << 10

// VerifyOptions say which provider to check, and how.
type VerifyOptions struct {
	// Address is where it listens: unix:///path or host:port.
	Address string
	// CA, Cert and Key are files in PEM: the authorities that the provider's certificate is of, by default those of the system, and the certificate to call it with. Without
	// any of them, and without ServerName, there is no TLS.
	CA, Cert, Key string
	// ServerName is what the provider's certificate has to name. Default: the host of the address.
	ServerName string
	// Build, Region, Deployment, Checks, MaxServers and Limit are those of providertest.Config.
	Build, Region, Deployment string
	Checks                    []string
	MaxServers                int
	Limit                     time.Duration
	// BootstrapCommand gets an attempt's id as its last argument and prints the bootstrap document that its server got.
	BootstrapCommand []string
	// Out is where the results go.
	Out io.Writer
}

// Verify checks a provider and prints each result. It returns an error if a check failed.
func Verify(ctx context.Context, o VerifyOptions) error {
	transport, err := o.transport()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(o.Address, grpc.WithTransportCredentials(transport), grpc.WithMaxHeaderListSize(maxHeaders))
	if err != nil {
		return fmt.Errorf("address %q is neither unix:///path nor host:port: %w", o.Address, err)
	}
	defer func() { _ = conn.Close() }()
	cfg := providertest.Config{
		Provider: provider.Client(conn), Build: o.Build, Region: o.Region, Deployment: o.Deployment, Checks: o.Checks, MaxServers: o.MaxServers, Limit: o.Limit,
	}
	if len(o.BootstrapCommand) > 0 {
		cfg.Host = commandHost{command: o.BootstrapCommand}
	}
	report, err := providertest.Verify(ctx, cfg, func(r providertest.Result) { printResult(o.Out, r) })
	if err != nil {
		return err
	}
	passed, failed, skipped := report.Count(providertest.Passed), report.Count(providertest.Failed), report.Count(providertest.Skipped)
	_, _ = fmt.Fprintf(o.Out, "\n%d checks: %d passed, %d failed, %d skipped\n", len(report), passed, failed, skipped)
	switch {
	case failed > 0:
		return fmt.Errorf("%d of %d checks failed", failed, len(report))
	case ctx.Err() != nil: // what was cut off has verified nothing
		return errors.New("interrupted: not all checks have run")
	default:
		return nil
	}
}

func printResult(out io.Writer, r providertest.Result) {
	_, _ = fmt.Fprintf(out, "%-8s %-24s %6.1fs\n", r.Status, r.Name, r.Took.Seconds())
	if r.Why != "" {
		_, _ = fmt.Fprintf(out, "         %s\n", r.Why)
	}
}

func (o VerifyOptions) transport() (credentials.TransportCredentials, error) {
	if o.CA == "" && o.Cert == "" && o.Key == "" && o.ServerName == "" {
		return insecure.NewCredentials(), nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.ServerName}
	if o.CA != "" {
		raw, err := os.ReadFile(o.CA)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("--ca: %s has no certificate in PEM", o.CA)
		}
	}
	if o.Cert != "" || o.Key != "" {
		pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, fmt.Errorf("--cert, --key: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(cfg), nil
}

// commandHost asks a command what a server got.
type commandHost struct {
	providertest.Unsupported
	command []string
}

// Bootstrap implements providertest.Host.
func (h commandHost) Bootstrap(ctx context.Context, attempt string) ([]byte, error) {
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, h.command[0], append(h.command[1:len(h.command):len(h.command)], attempt)...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(h.command, " "), err, strings.TrimSpace(said.String()))
	}
	return bytes.TrimRight(out.Bytes(), "\n"), nil
}
