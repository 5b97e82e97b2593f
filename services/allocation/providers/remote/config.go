package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berth-dev/berth/pkg/tlsx"
)

// Config configures a Provider. Builds and regions are the plugin's to name.
type Config struct {
	// Name of the provider, for messages. Set by the service.
	Name string `yaml:"-"`
	// Log is where the provider says that its plugin came or went. Set by the service.
	Log *slog.Logger `yaml:"-"`
	// Address is where the plugin listens: unix:///run/berth/plugin.sock, or host:port. Needed.
	Address string `yaml:"address"`
	// TLS is the TLS of the connection to host:port, with a certificate of this service. Needed off this machine: bootstrap documents go over it.
	TLS tlsx.ClientConfig `yaml:"tls"`
}

// block is the block of the TLS settings.
const block = "providers[].remote.tls"

func (c Config) validate() error {
	if c.Log == nil {
		return errors.New("log: is needed")
	}
	if path, ok := strings.CutPrefix(c.Address, "unix://"); ok {
		switch {
		case !filepath.IsAbs(path):
			return fmt.Errorf("remote.address: %q has no absolute path, as in unix:///run/berth/plugin.sock", c.Address)
		case c.TLS != (tlsx.ClientConfig{}):
			return errors.New("remote.tls: is for a plugin on the network; a unix socket is guarded by its file mode: take it out")
		}
		return nil
	}
	if host, port, err := net.SplitHostPort(c.Address); err != nil || host == "" || port == "" || strings.Contains(c.Address, "/") {
		return fmt.Errorf("remote.address: %q is neither unix:///path nor host:port, where the plugin listens", c.Address)
	}
	if err := c.TLS.Validate(block); err != nil {
		return err
	}
	switch {
	case c.TLS.Enabled && !c.TLS.KeyPair.Enabled():
		return errors.New("remote.tls.cert_file and remote.tls.key_file: are needed; by them the plugin knows who calls")
	case !c.TLS.Enabled && !tlsx.Loopback(c.Address):
		return fmt.Errorf("remote.tls.enabled: %s is another machine, and bootstrap documents would go there in the clear: set it to true, "+
			"with cert_file, key_file and ca_file, or run the plugin on this machine", c.Address)
	}
	return nil
}

// target is the address as gRPC is told it.
func (c Config) target() string {
	if strings.HasPrefix(c.Address, "unix://") {
		return c.Address
	}
	return "dns:///" + c.Address
}

// transport opens the files, if there are any.
func (c Config) transport() (credentials.TransportCredentials, error) {
	source, err := c.TLS.Open(block, c.Log)
	if err != nil {
		return nil, err
	}
	if source == nil {
		return insecure.NewCredentials(), nil
	}
	like := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLS.ServerName}) // the name becomes the authority, which is what is verified
	return fresh{like, source}, nil
}

// fresh are credentials that take the newest files for each connection.
type fresh struct {
	credentials.TransportCredentials // what the connection is like otherwise
	source                           *tlsx.Source
}

// ClientHandshake implements credentials.TransportCredentials.
func (f fresh) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(f.source.OutsideConfig("")).ClientHandshake(ctx, authority, conn)
}

// Clone implements credentials.TransportCredentials.
func (f fresh) Clone() credentials.TransportCredentials {
	return fresh{f.TransportCredentials.Clone(), f.source}
}
