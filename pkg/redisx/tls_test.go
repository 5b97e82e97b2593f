package redisx_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/berth-dev/berth/pkg/freeport"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/pkg/tlsx"
	"github.com/berth-dev/berth/pkg/tlsx/tlsxtest"
)

// withTLS starts a server that speaks TLS at the address that is returned, and asks its callers for a certificate.
func withTLS(t *testing.T, server tlsxtest.Files) string {
	t.Helper()
	plain, addr := freeport.Addr(t), freeport.Addr(t)
	redistest.Start(t, t.TempDir(), plain, "--tls-port", addr[strings.LastIndex(addr, ":")+1:],
		"--tls-cert-file", server.CertFile, "--tls-key-file", server.KeyFile, "--tls-ca-cert-file", server.CAFile)
	return addr
}

func TestTheStoreIsReachedOverTLS(t *testing.T) {
	ours, others := tlsxtest.NewAuthority(t), tlsxtest.NewAuthority(t)
	server, client, stranger := tlsxtest.NewFiles(t, ours, "redis.example"), tlsxtest.NewFiles(t, ours), tlsxtest.NewFiles(t, others)
	addr := withTLS(t, server)
	good := tlsx.ClientConfig{Enabled: true, CAFile: client.CAFile, KeyPair: client.KeyPair}
	with := func(change func(*tlsx.ClientConfig)) tlsx.ClientConfig {
		c := good
		change(&c)
		return c
	}
	for name, c := range map[string]struct {
		tls  tlsx.ClientConfig
		says string // in the error; empty: it is opened
	}{
		"right":                 {good, ""},
		"by another name":       {with(func(c *tlsx.ClientConfig) { c.ServerName = "redis.example" }), ""},
		"a name it has not":     {with(func(c *tlsx.ClientConfig) { c.ServerName = "elsewhere.example" }), "elsewhere.example"},
		"another authority":     {with(func(c *tlsx.ClientConfig) { c.CAFile = stranger.CAFile }), "unknown authority"},
		"the system's":          {with(func(c *tlsx.ClientConfig) { c.CAFile = "" }), "unknown authority"},
		"no certificate":        {with(func(c *tlsx.ClientConfig) { c.KeyPair = tlsx.KeyPair{} }), "certificate required"},
		"a stranger's":          {with(func(c *tlsx.ClientConfig) { c.KeyPair = stranger.KeyPair }), "unknown certificate authority"},
		"no TLS":                {tlsx.ClientConfig{}, "redis at"},
		"a file that is absent": {with(func(c *tlsx.ClientConfig) { c.CAFile = "/nowhere.pem" }), "redis.tls.ca_file (BERTH_REDIS_TLS_CA_FILE)"},
		"half a pair":           {with(func(c *tlsx.ClientConfig) { c.KeyFile = "" }), "redis.tls.key_file (BERTH_REDIS_TLS_KEY_FILE)"},
		"not enabled":           {with(func(c *tlsx.ClientConfig) { c.Enabled = false }), "redis.tls.enabled (BERTH_REDIS_TLS_ENABLED)"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := redisx.Open(context.Background(), redisx.Config{Addrs: []string{addr}, Partitions: 16, TLS: c.tls})
			if err == nil {
				err = s.Ready(context.Background())
				_ = s.Close()
			}
			if (c.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}

// Certificates are replaced while services run: a connection that is made later shows the new one.
func TestConnectionsToTheStoreGoByTheNewestFiles(t *testing.T) {
	ours, others := tlsxtest.NewAuthority(t), tlsxtest.NewAuthority(t)
	server, client := tlsxtest.NewFiles(t, ours), tlsxtest.NewFiles(t, ours)
	s := redistest.OpenWith(t, redisx.Config{
		Addrs: []string{withTLS(t, server)}, TLS: tlsx.ClientConfig{Enabled: true, CAFile: client.CAFile, KeyPair: client.KeyPair},
	})
	cert, key := others.Issue(t, time.Time{})
	client.Write(t, cert, key, nil)
	deadline, tick := time.After(time.Minute), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for { // until the files are looked at again
		_ = s.Do(context.Background(), "client", "kill", "type", "normal", "skipme", "no").Err()
		if err := s.Ready(context.Background()); err != nil && strings.Contains(err.Error(), "unknown certificate authority") {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the certificate of another authority is let in")
		}
	}
}

// Off this machine, plaintext is warned of.
func TestPlaintextToAStoreElsewhereIsWarnedOf(t *testing.T) {
	m := miniredis.RunT(t)
	for host, want := range map[string]bool{"127.0.0.1": false, "0.0.0.0": true} { // which leads to this machine, but does not say so
		s, err := open(t, net.JoinHostPort(host, m.Port()), 16)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(s.Warnings(), " "), "redis.tls.enabled"); got != want {
			t.Errorf("%s: warned %v", host, got)
		}
	}
}
