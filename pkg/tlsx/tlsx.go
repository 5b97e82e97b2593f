// Package tlsx is how Berth's services speak TLS: which files they are given, what is read anew when those change, and where they may do without.
package tlsx

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
)

// KeyPair names the files of a certificate and of its private key, in PEM.
type KeyPair struct {
	// CertFile has the certificate, followed by the intermediates up to the authority, if there are any.
	CertFile string `yaml:"cert_file" env:"CERT_FILE"`
	// KeyFile has its private key.
	KeyFile string `yaml:"key_file" env:"KEY_FILE"`
}

// Enabled reports whether there is a certificate.
func (p KeyPair) Enabled() bool { return p != KeyPair{} }

// Validate returns an error unless both files are named, or none. block is the name of the settings' block, such as "edge_tls".
func (p KeyPair) Validate(block string) error {
	if (p.CertFile == "") == (p.KeyFile == "") {
		return nil
	}
	return fmt.Errorf("%s and %s: must be set both, or none of them", setting(block, "cert_file"), setting(block, "key_file"))
}

// Warn logs that what comes from outside to an address is not encrypted, unless there is a certificate or the address is of this machine. A proxy in front
// may speak TLS: then the warning is about the way between the two.
func (p KeyPair) Warn(block string, log *slog.Logger, addr string) {
	if !p.Enabled() && !Loopback(addr) {
		log.Warn("credentials can be read on the way: there is no TLS at an address off this machine", "addr", addr, "setting", setting(block, "cert_file"))
	}
}

// Open reads the files. It returns nil, without an error, where none are named.
func (p KeyPair) Open(block string, log *slog.Logger) (*Source, error) {
	if !p.Enabled() {
		return nil, nil
	}
	return open(block, p, "", log)
}

// Config is the TLS between services. Set all of it, or nothing.
type Config struct {
	// KeyPair is this service's certificate, with which it serves and with which it calls.
	KeyPair `yaml:",inline"`
	// CAFile has the certificates of the authorities (PEM) that sign those of Berth's services.
	CAFile string `yaml:"ca_file" env:"CA_FILE"`
}

// ServerConfig is Config for a service that others call.
type ServerConfig struct {
	Config `yaml:",inline"`
	// Peers are the names of the services that may call as such: a URI with "://" in it is looked for among the URIs of a caller's certificate, any
	// other name among its DNS names. Both are compared as they are; there are no wildcards.
	Peers []string `yaml:"peers" env:"PEERS" envSeparator:","`
}

// ClientConfig is the TLS of connections to a server that is not one of Berth's services, such as Redis.
type ClientConfig struct {
	// Enabled makes connections speak TLS 1.2 or later.
	Enabled bool `yaml:"enabled" env:"ENABLED"`
	// CAFile has the certificates of the authorities (PEM) that may have signed the server's. Empty: the system's authorities.
	CAFile string `yaml:"ca_file" env:"CA_FILE"`
	// KeyPair is the certificate that is shown to the server; empty: none.
	KeyPair `yaml:",inline"`
	// ServerName is what the server's certificate has to name. Empty: the host that is connected to.
	ServerName string `yaml:"server_name" env:"SERVER_NAME"`
}

// Validate returns an error for settings that do not go together. block is the name of the settings' block, such as "redis.tls".
func (c ClientConfig) Validate(block string) error {
	if !c.Enabled && c != (ClientConfig{}) {
		return fmt.Errorf("%s: is not set, and other settings of %s are: set it to true, or take those out", setting(block, "enabled"), block)
	}
	return c.KeyPair.Validate(block)
}

// Open reads the files. It returns nil, without an error, where TLS is not enabled.
func (c ClientConfig) Open(block string, log *slog.Logger) (*Source, error) {
	if !c.Enabled {
		return nil, nil
	}
	return open(block, c.KeyPair, c.CAFile, log)
}

// Name returns the name by which Berth's services know each other unless tls.peers says otherwise: a URI in the certificate, such as
// "spiffe://berth/gateway".
func Name(service string) string { return "spiffe://berth/" + service }

// block is the block of these settings.
const block = "tls"

// Enabled reports whether services speak TLS.
func (c Config) Enabled() bool { return c != Config{} }

// Open reads the files. It returns nil, without an error, where none are named.
func (c Config) Open(log *slog.Logger) (*Source, error) {
	if !c.Enabled() {
		return nil, nil
	}
	return open(block, c.KeyPair, c.CAFile, log)
}

// Validate returns an error for files that do not go together and, without TLS, for each address that is not on this machine, unless insecure allows
// it. addrs has, by the names of their settings, the addresses on which a service listens and the gRPC targets that it calls.
func (c Config) Validate(insecure bool, addrs map[string]string) error {
	if c.Enabled() {
		if c.CertFile == "" || c.KeyFile == "" || c.CAFile == "" {
			return fmt.Errorf("%s, %s and %s: must be set all three, or none of them", setting(block, "cert_file"), setting(block, "key_file"), setting(block, "ca_file"))
		}
		return nil
	}
	if insecure {
		return nil
	}
	var bad []error
	for _, name := range offLoopback(addrs) {
		bad = append(bad, fmt.Errorf("%s: without TLS others in the network of %s can read and forge what services say to each other; set %s, %s and %s, "+
			"or, where the network is Berth's alone, insecure: true (BERTH_INSECURE)",
			setting("", name), addrs[name], setting(block, "cert_file"), setting(block, "key_file"), setting(block, "ca_file")))
	}
	return errors.Join(bad...)
}

// Warn logs, once for a service, that it goes without TLS off this machine.
func (c Config) Warn(log *slog.Logger, addrs map[string]string) {
	if far := offLoopback(addrs); !c.Enabled() && len(far) > 0 {
		log.Warn("services talk without TLS, as insecure (BERTH_INSECURE) allows: whoever can read or write in their network has all power over them",
			"settings", strings.Join(far, ", "))
	}
}

// offLoopback returns the names of the addresses that are not on this machine, in order.
func offLoopback(addrs map[string]string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(addrs)) {
		if addrs[name] != "" && !Loopback(addrs[name]) {
			names = append(names, name)
		}
	}
	return names
}

// ListenAddr returns the address of a listener, or addr where there is none yet.
func ListenAddr(ln net.Listener, addr string) string {
	if ln != nil {
		return ln.Addr().String()
	}
	return addr
}

// Loopback reports whether an address (host:port) or gRPC target is for certain on this machine.
func Loopback(addr string) bool {
	for _, scheme := range []string{"unix:", "unix-abstract:"} {
		if strings.HasPrefix(addr, scheme) {
			return true
		}
	}
	for _, scheme := range []string{"dns:", "passthrough:", "ipv4:", "ipv6:"} {
		if rest, ok := strings.CutPrefix(addr, scheme); ok {
			addr = rest
			if authority, ok := strings.CutPrefix(rest, "//"); ok { // "//server/host:port"
				_, addr, _ = strings.Cut(authority, "/")
			}
			break
		}
	}
	for one := range strings.SplitSeq(addr, ",") {
		host, _, err := net.SplitHostPort(one)
		if err != nil {
			host = strings.Trim(one, "[]")
		}
		ip := net.ParseIP(host)
		if !strings.EqualFold(host, "localhost") && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}

// setting names a setting and its variable. Those of a list's entries have none.
func setting(block, key string) string {
	switch {
	case block == "":
		return fmt.Sprintf("%s (BERTH_%s)", key, strings.ToUpper(key))
	case strings.Contains(block, "[]"):
		return block + "." + key
	}
	return fmt.Sprintf("%s.%s (BERTH_%s_%s)", block, key, strings.ToUpper(strings.ReplaceAll(block, ".", "_")), strings.ToUpper(key))
}
