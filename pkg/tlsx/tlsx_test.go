package tlsx_test

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/tlsx"
	"github.com/berth-dev/berth/pkg/tlsx/tlsxtest"
)

func TestWhatIsLoopback(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:7101": true, "127.8.8.8:1": true, "[::1]:7101": true, "localhost:7101": true, "LOCALHOST:1": true, "localhost": true, "::1": true,
		"dns:///127.0.0.1:7101": true, "dns:localhost:7101": true, "dns://8.8.8.8/localhost:1": true, "passthrough:///[::1]:1": true,
		"unix:/run/berth.sock": true, "unix:///run/berth.sock": true, "ipv4:127.0.0.1:1,127.0.0.2:1": true, "ipv6:[::1]:80": true,

		"0.0.0.0:7101": false, ":7101": false, "[::]:7101": false, "10.0.0.1:7101": false, "game-instance:7101": false, "localhost.evil.example:1": false,
		"dns:///game-instance:7101": false, "dns://127.0.0.1/game-instance:1": false, "ipv4:127.0.0.1:1,10.0.0.1:1": false, "xds:///localhost": false,
	} {
		if got := tlsx.Loopback(addr); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}

func TestPlaintextStaysOnThisMachineUnlessItIsAllowed(t *testing.T) {
	whole := tlsx.Config{KeyPair: tlsx.KeyPair{CertFile: "c", KeyFile: "k"}, CAFile: "a"}
	half := whole
	half.CAFile = ""
	far, near := map[string]string{"grpc_addr": "0.0.0.0:7101", "allocation": "127.0.0.1:1"}, map[string]string{"grpc_addr": "127.0.0.1:7101"}
	for name, c := range map[string]struct {
		cfg      tlsx.Config
		insecure bool
		addrs    map[string]string
		want     []string // in the error; none: no error
	}{
		"near":                 {addrs: near},
		"far":                  {addrs: far, want: []string{"grpc_addr (BERTH_GRPC_ADDR)", "0.0.0.0:7101", "BERTH_TLS_CERT_FILE", "BERTH_TLS_KEY_FILE", "BERTH_TLS_CA_FILE", "BERTH_INSECURE"}},
		"far and allowed":      {addrs: far, insecure: true},
		"far with TLS":         {cfg: whole, addrs: far},
		"not all of the files": {cfg: half, addrs: near, insecure: true, want: []string{"tls.ca_file (BERTH_TLS_CA_FILE)", "all three"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.cfg.Validate(c.insecure, c.addrs)
			if (err != nil) != (c.want != nil) {
				t.Fatal(err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not say %s", err, want)
				}
			}
			if err != nil && strings.Contains(err.Error(), "allocation") {
				t.Errorf("%v names an address of this machine", err)
			}
			var log bytes.Buffer
			c.cfg.Warn(slog.New(slog.NewTextHandler(&log, nil)), c.addrs)
			if warned := strings.Contains(log.String(), "level=WARN"); warned != (c.insecure && c.want == nil || name == "far") {
				t.Errorf("warned: %s", log.String())
			}
		})
	}
}

func TestHalfAPairIsRefused(t *testing.T) {
	err := tlsx.KeyPair{CertFile: "c"}.Validate("edge_tls")
	if err == nil || !strings.Contains(err.Error(), "edge_tls.key_file (BERTH_EDGE_TLS_KEY_FILE)") {
		t.Error(err)
	}
}

func TestCredentialsInPlaintextAreWarnedOf(t *testing.T) {
	for name, c := range map[string]struct {
		pair   tlsx.KeyPair
		addr   string
		warned bool
	}{
		"near":         {addr: "127.0.0.1:7001"},
		"far":          {addr: "0.0.0.0:7001", warned: true},
		"everywhere":   {addr: ":7001", warned: true},
		"far with TLS": {pair: tlsx.KeyPair{CertFile: "c", KeyFile: "k"}, addr: "0.0.0.0:7001"},
	} {
		var log bytes.Buffer
		c.pair.Warn("edge_tls", slog.New(slog.NewTextHandler(&log, nil)), c.addr)
		if warned := strings.Contains(log.String(), "BERTH_EDGE_TLS_CERT_FILE"); warned != c.warned {
			t.Errorf("%s: %s", name, log.String())
		}
	}
}

func TestFilesThatCannotBeUsedAreSaidAtTheStart(t *testing.T) {
	a := tlsxtest.NewAuthority(t)
	otherCert, _ := a.Issue(t, time.Time{})
	_, key := a.Issue(t, time.Time{})
	for name, c := range map[string]struct {
		spoil func(f tlsxtest.Files)
		want  string
	}{
		"no certificate":        {func(f tlsxtest.Files) { _ = os.Remove(f.CertFile) }, "tls.cert_file (BERTH_TLS_CERT_FILE)"},
		"no key":                {func(f tlsxtest.Files) { _ = os.Remove(f.KeyFile) }, "tls.key_file (BERTH_TLS_KEY_FILE)"},
		"another's key":         {func(f tlsxtest.Files) { f.Write(t, otherCert, nil, nil) }, "tls.cert_file (BERTH_TLS_CERT_FILE) and tls.key_file"},
		"no authority in it":    {func(f tlsxtest.Files) { f.Write(t, nil, nil, []byte("x")) }, "tls.ca_file (BERTH_TLS_CA_FILE)"},
		"a key as an authority": {func(f tlsxtest.Files) { f.Write(t, nil, nil, append(key, a.PEM...)) }, "PRIVATE KEY"},
		"one broken authority": {func(f tlsxtest.Files) {
			f.Write(t, nil, nil, append(bytes.Replace(a.PEM, []byte("MII"), []byte("AII"), 1), a.PEM...))
		}, "tls.ca_file"},
		"nothing wrong": {func(tlsxtest.Files) {}, ""},
		"two authorities, space": {func(f tlsxtest.Files) {
			f.Write(t, nil, nil, append(append(a.PEM, '\n'), tlsxtest.NewAuthority(t).PEM...))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := tlsxtest.NewFiles(t, a)
			c.spoil(f)
			_, err := f.Open(slog.New(slog.DiscardHandler))
			if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Error(err)
			}
		})
	}
}

// serve answers handshakes of a server with src, and returns its address.
func serve(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				_, _ = conn.Write([]byte("x"))
			}()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String()
}

// connect makes a connection, and waits until the other side has accepted it.
func connect(addr string, cfg *tls.Config) (tls.ConnectionState, error) {
	conn, err := tls.Dial("tcp", addr, cfg)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); n == 0 {
		return tls.ConnectionState{}, err
	}
	return conn.ConnectionState(), nil
}

func TestFilesAreReadAnewAndTheLastGoodOnesStay(t *testing.T) {
	a, b := tlsxtest.NewAuthority(t), tlsxtest.NewAuthority(t)
	server, client := tlsxtest.NewFiles(t, a, "first"), tlsxtest.NewFiles(t, a)
	var log bytes.Buffer
	var elapsed atomic.Int64
	now := func() time.Time { return time.Unix(elapsed.Load(), 0) }
	source := func(f tlsxtest.Files) *tlsx.Source {
		s, err := f.Open(slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		s.SetClock(now)
		return s
	}
	serverSource, clientSource := source(server), source(client)
	addr := serve(t, serverSource.ServerConfig())
	name := func() string {
		t.Helper()
		state, err := connect(addr, clientSource.ClientConfig(true).Clone())
		if err != nil {
			return "refused: " + err.Error()
		}
		return strings.Join(state.PeerCertificates[0].DNSNames[1:], "")
	}
	expect := func(what, want string) {
		t.Helper()
		if got := name(); !strings.HasPrefix(got, want) {
			t.Errorf("%s: the server is %q and not %q", what, got, want)
		}
	}
	expect("at first", "first")

	cert, key := a.Issue(t, time.Time{}, "second")
	server.Write(t, cert, key, nil)
	expect("before the next look", "first")
	elapsed.Add(1)
	expect("replaced", "second")

	server.Write(t, []byte("half a"), nil, nil)
	for range 3 {
		elapsed.Add(1)
		expect("broken", "second")
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("a broken file was logged %d times: %s", n, log.String())
	}
	if err := os.Remove(server.KeyFile); err != nil {
		t.Fatal(err)
	}
	elapsed.Add(1)
	expect("gone", "second")

	// Another authority signs from now on: first both are believed, then only the new one.
	both := append(bytes.Clone(a.PEM), b.PEM...)
	server.Write(t, cert, key, both)
	client.Write(t, nil, nil, both)
	elapsed.Add(1)
	expect("both believed", "second")
	cert, key = b.Issue(t, time.Time{}, "third")
	server.Write(t, cert, key, nil)
	elapsed.Add(1)
	expect("the server's is new", "third")
	server.Write(t, nil, nil, b.PEM)
	elapsed.Add(1)
	expect("the client's is old", "refused: remote error: tls: ")
	cert, key = b.Issue(t, time.Time{})
	client.Write(t, cert, key, b.PEM)
	elapsed.Add(1)
	expect("the client's is new too", "third")
	if strings.Contains(log.String(), "PRIVATE") {
		t.Error(log.String())
	}
}

func TestServicesSpeakOnlyTLS13AndThePublic12(t *testing.T) {
	f := tlsxtest.NewFiles(t, tlsxtest.NewAuthority(t))
	s, err := f.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		server *tls.Config
		max    uint16
		ok     bool
	}{
		"service, 1.2": {s.ServerConfig(), tls.VersionTLS12, false}, "service, 1.3": {s.ServerConfig(), tls.VersionTLS13, true},
		"public, 1.1": {s.PublicConfig(), tls.VersionTLS11, false}, "public, 1.2": {s.PublicConfig(), tls.VersionTLS12, true},
	} {
		client := s.ClientConfig(false)
		client.MinVersion, client.MaxVersion = tls.VersionTLS10, c.max
		if _, err := connect(serve(t, c.server), client); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A ticket would carry what was verified into connections that are made once it no longer holds.
func TestServicesDoNotResumeConnections(t *testing.T) {
	f := tlsxtest.NewFiles(t, tlsxtest.NewAuthority(t))
	s, err := f.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	addr, client := serve(t, s.ServerConfig()), s.ClientConfig(true)
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for range 2 {
		if state, err := connect(addr, client); err != nil || state.DidResume {
			t.Errorf("resumed: %v, %v", state.DidResume, err)
		}
	}
}

func TestListenAddr(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	if got := tlsx.ListenAddr(ln, "x"); got != ln.Addr().String() {
		t.Error(got)
	}
	if got := tlsx.ListenAddr(nil, "x"); got != "x" {
		t.Error(got)
	}
}
