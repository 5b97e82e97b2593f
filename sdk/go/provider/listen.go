package provider

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// TLS is the TLS of a provider that listens on the network: TLS 1.3, and a certificate of every caller. The files are read anew for each connection, so
// that a certificate can be replaced while the provider runs. Set all of it.
type TLS struct {
	// CertFile has the provider's certificate (PEM) with its intermediates, KeyFile its private key.
	CertFile, KeyFile string
	// CAFile has the certificates of the authorities (PEM) that sign those of the callers. Whoever has a certificate of theirs may call: use an
	// authority that is Berth's alone, or name the caller.
	CAFile string
	// Caller is a name that a caller's certificate must have: a URI such as "spiffe://berth/allocation", or a DNS name. Empty: any.
	Caller string
}

// server returns the configuration of a server, once the files can be used.
func (t TLS) server() (*tls.Config, error) {
	if t.CertFile == "" || t.KeyFile == "" || t.CAFile == "" {
		return nil, errors.New("TLS: CertFile, KeyFile and CAFile must be set, all three")
	}
	if _, err := t.load(); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.load() }}, nil
}

func (t TLS) load() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile) // its errors have nothing of the key
	if err != nil {
		return nil, fmt.Errorf("TLS: CertFile and KeyFile: %w", err)
	}
	raw, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, fmt.Errorf("TLS: CAFile: %w", err)
	}
	callers := x509.NewCertPool()
	if !callers.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("TLS: CAFile: %s has no certificate in PEM", t.CAFile)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: callers, VerifyConnection: t.verify,
		SessionTicketsDisabled: true, // a resumed connection would go by the files of the first one
	}, nil
}

// verify returns an error unless the caller, whose certificate is good, has the name.
func (t TLS) verify(s tls.ConnectionState) error {
	if t.Caller == "" {
		return nil
	}
	cert := s.PeerCertificates[0]
	for _, u := range cert.URIs {
		if u.String() == t.Caller {
			return nil
		}
	}
	for _, name := range cert.DNSNames {
		if name == t.Caller {
			return nil
		}
	}
	return fmt.Errorf("the caller's certificate does not have the name %s", t.Caller)
}

// listen opens the address. remove takes away what is left of it.
func listen(ctx context.Context, cfg ServeConfig) (ln net.Listener, remove func() error, err error) {
	if path, ok := strings.CutPrefix(cfg.Address, "unix://"); ok {
		return listenUnix(ctx, path)
	}
	host, _, err := net.SplitHostPort(cfg.Address)
	if err != nil {
		return nil, nil, fmt.Errorf("address %q is neither unix:///path nor host:port", cfg.Address)
	}
	if ip := net.ParseIP(host); cfg.TLS == (TLS{}) && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, nil, fmt.Errorf("address %s is reached from other machines, and bootstrap documents would be sent there in the clear: set TLS, or listen on 127.0.0.1 or a unix socket", cfg.Address)
	}
	ln, err = new(net.ListenConfig).Listen(ctx, "tcp", cfg.Address)
	return ln, func() error { return nil }, err
}

// listenUnix makes the socket in a folder that is this user's alone and moves it to its place: nobody else can connect at any moment. One that was left
// behind is replaced, one that somebody listens on is not. Of several plugins that start at the same time one gets the place.
func listenUnix(ctx context.Context, path string) (net.Listener, func() error, error) {
	if !filepath.IsAbs(path) {
		return nil, nil, fmt.Errorf("address unix://%s: an absolute path is needed, as in unix:///run/plugin.sock", path)
	}
	unlock, err := lock(path)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	if err = free(ctx, path); err != nil {
		return nil, nil, err
	}
	ln, err := place(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	made, err := os.Lstat(path)
	if err != nil {
		return nil, nil, errors.Join(err, ln.Close())
	}
	return moved{ln, path}, func() error { return removeSame(path, made) }, nil
}

// place makes the socket and moves it to its place.
func place(ctx context.Context, path string) (net.Listener, error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(dir) }() // empty by then; a folder that stays hurts nobody
	made := filepath.Join(dir, "s")
	ln, err := new(net.ListenConfig).Listen(ctx, "unix", made)
	if err != nil {
		return nil, err
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	if err = os.Chmod(made, 0o600); err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		return nil, errors.Join(err, ln.Close(), os.Remove(made))
	}
	return ln, nil
}

// removeSame removes the socket, unless another one has taken its place: while this plugin waits for its last calls, the next one may listen already.
func removeSame(path string, made fs.FileInfo) error {
	unlock, err := lock(path)
	if err != nil {
		return nil //nolint:nilerr // the next one starts there at this moment, and replaces it
	}
	defer unlock()
	now, err := os.Lstat(path)
	if err == nil && os.SameFile(made, now) && made.ModTime().Equal(now.ModTime()) { // the number of a file that is gone may be another one's
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// moved is a listener on a socket that was moved to its place.
type moved struct {
	net.Listener
	path string
}

// Addr implements net.Listener: where callers find it, and not where it was made.
func (m moved) Addr() net.Addr { return &net.UnixAddr{Name: m.path, Net: "unix"} }

// dialTime is how long a plugin may take to accept a connection by which it shows that it is there.
const dialTime = time.Second

// free returns an error unless a socket may be made at the path: there is none, or one that nobody listens on. Only a refused connection shows that: a plugin that has too much to
// do, or is another user's, is there as well.
func free(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and no socket: move it away, or listen elsewhere", path)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("%s is in use: another plugin listens there", path), conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return fmt.Errorf("%s is in use, as far as can be seen: %w. If no plugin listens there, remove it", path, err)
	}
}
