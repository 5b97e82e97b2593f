package rpc_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	"github.com/berth-dev/berth/pkg/tlsx"
	"github.com/berth-dev/berth/pkg/tlsx/tlsxtest"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
)

// issuer has a call that is for Berth's own services.
type issuer struct {
	tokenv1.UnimplementedTokenServiceServer
	actor func(string)
}

func (i *issuer) IssueTokenPair(ctx context.Context, _ *tokenv1.IssueTokenPairRequest) (*tokenv1.IssueTokenPairResponse, error) {
	i.actor(auth.FromContext(ctx).Actor())
	return &tokenv1.IssueTokenPairResponse{}, nil
}

// countingListener counts connections.
type countingListener struct {
	net.Listener
	accepted atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return conn, err
}

// secure is a server with TLS.
type secure struct {
	addr  string
	ln    *countingListener
	actor atomic.Value // who made the newest internal call
}

func serveTLS(t *testing.T, files tlsxtest.Files, change func(*rpc.Config)) *secure {
	t.Helper()
	a, err := auth.New(auth.Config{InternalKey: internalKey, APIKeySHA256: apikey.Hash(apiKey)}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := rpc.Config{
		Services: []string{"berth.instance.v1.GameInstanceService", "berth.token.v1.TokenService"}, Auth: a, Log: slog.New(slog.DiscardHandler),
		TLS: source(t, files), Peers: []string{tlsx.Name("gateway"), "allocation.berth.internal"},
	}
	if change != nil {
		change(&cfg)
	}
	srv, err := rpc.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &secure{}
	instancev1.RegisterGameInstanceServiceServer(srv, &service{get: func(context.Context) error { return nil }})
	tokenv1.RegisterTokenServiceServer(srv, &issuer{actor: func(a string) { s.actor.Store(a) }})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.ln, s.addr = &countingListener{Listener: ln}, ln.Addr().String()
	go srv.Serve(s.ln)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = srv.Shutdown(ctx)
	})
	return s
}

func source(t *testing.T, files tlsxtest.Files) *tlsx.Source {
	t.Helper()
	s, err := files.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func dialTLS(t *testing.T, addr string, key conf.Secret, src *tlsx.Source) *grpc.ClientConn {
	t.Helper()
	conn, err := rpc.DialTLS(addr, key, src, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// internal makes a call that is for Berth's own services, and returns with which reason it is refused.
func internal(ctx context.Context, conn *grpc.ClientConn) errs.Reason {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err := tokenv1.NewTokenServiceClient(conn).IssueTokenPair(ctx, &tokenv1.IssueTokenPairRequest{Namespace: "default", AttemptId: id + "-1"})
	return errs.ReasonOf(rpc.FromStatus(err))
}

func TestACertificateMakesAService(t *testing.T) {
	a := tlsxtest.NewAuthority(t)
	s := serveTLS(t, tlsxtest.NewFiles(t, a, tlsx.Name("token-issuer")), nil)
	ctx := context.Background()
	withAPIKey := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+apiKey)
	expired := tlsxtest.NewFiles(t, a)
	cert, key := a.Issue(t, time.Now().Add(-time.Hour), tlsx.Name("gateway"))
	expired.Write(t, cert, key, nil)
	strange := tlsxtest.NewFiles(t, tlsxtest.NewAuthority(t), tlsx.Name("gateway"))
	strange.Write(t, nil, nil, a.PEM)
	untrusting := tlsxtest.NewFiles(t, a, tlsx.Name("gateway"))
	untrusting.Write(t, nil, nil, tlsxtest.NewAuthority(t).PEM)

	for name, c := range map[string]struct {
		files tlsxtest.Files
		key   conf.Secret
		ctx   context.Context
		want  errs.Reason
		actor string
	}{
		// A server with TLS refuses whoever sends the internal key, so these show also that it stays where it is.
		"a service, by URI":              {tlsxtest.NewFiles(t, a, tlsx.Name("gateway")), internalKey, ctx, "", "service:spiffe://berth/gateway"},
		"a service, by DNS name":         {tlsxtest.NewFiles(t, a, "allocation.berth.internal"), internalKey, ctx, "", "service:allocation.berth.internal"},
		"no certificate":                 {tlsxtest.NewFiles(t, a, tlsx.Name("gateway")), "", ctx, errs.CredentialsMissing, ""},
		"another name":                   {tlsxtest.NewFiles(t, a, tlsx.Name("game-instance"), "gateway"), internalKey, ctx, errs.CredentialsMissing, ""},
		"the name, as DNS and not a URI": {tlsxtest.NewFiles(t, a, "berth"), internalKey, ctx, errs.CredentialsMissing, ""},
		"a wildcard":                     {tlsxtest.NewFiles(t, a, "*.berth.internal"), internalKey, ctx, errs.CredentialsMissing, ""},
		"another authority":              {strange, internalKey, ctx, errs.ServiceUnavailable, ""},
		"expired":                        {expired, internalKey, ctx, errs.ServiceUnavailable, ""},
		"a server of another authority":  {untrusting, internalKey, ctx, errs.ServiceUnavailable, ""},
		"the internal key":               {tlsxtest.NewFiles(t, a), "", metadata.AppendToOutgoingContext(ctx, auth.MetadataInternalKey, internalKey), errs.CredentialsInvalid, ""},
		"certificate and internal key":   {tlsxtest.NewFiles(t, a, tlsx.Name("gateway")), internalKey, metadata.AppendToOutgoingContext(ctx, auth.MetadataInternalKey, internalKey), errs.CredentialsInvalid, ""},
		"certificate and another's key":  {tlsxtest.NewFiles(t, a, tlsx.Name("gateway")), internalKey, withAPIKey, errs.RoleRequired, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s.actor.Store("")
			if got := internal(c.ctx, dialTLS(t, s.addr, c.key, source(t, c.files))); got != c.want || s.actor.Load() != c.actor {
				t.Errorf("%q by %q, want %q by %q", got, s.actor.Load(), c.want, c.actor)
			}
		})
	}
	t.Run("a backend", func(t *testing.T) {
		conn := dialTLS(t, s.addr, "", source(t, tlsxtest.NewFiles(t, a)))
		if _, err := instancev1.NewGameInstanceServiceClient(conn).GetGameInstance(withAPIKey, &instancev1.GetGameInstanceRequest{InstanceId: id}); err != nil {
			t.Error(err)
		}
	})
	t.Run("without TLS", func(t *testing.T) {
		if got := internal(ctx, dialTLS(t, s.addr, internalKey, nil)); got != errs.ServiceUnavailable {
			t.Errorf("%q", got)
		}
	})
}

func TestCertificatesAreReplacedWhileCallsGoOn(t *testing.T) {
	a, b := tlsxtest.NewAuthority(t), tlsxtest.NewAuthority(t)
	server, client := tlsxtest.NewFiles(t, a), tlsxtest.NewFiles(t, a, tlsx.Name("gateway"))
	oldCert, oldKey := a.Issue(t, time.Time{}, tlsx.Name("gateway"))
	s := serveTLS(t, server, nil)
	src := source(t, client)
	ctx := context.Background()
	old := dialTLS(t, s.addr, internalKey, src)
	call := func(conn *grpc.ClientConn, what string) {
		t.Helper()
		if got := internal(ctx, conn); got != "" {
			t.Fatalf("%s: refused with %s", what, got)
		}
	}
	call(old, "at first")

	// until waits until handshakes are made with the new files.
	until := func(what string, check func() bool) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for !check() {
			if time.Now().After(deadline) {
				t.Fatalf("waited in vain: %s", what)
			}
			call(old, what+": the open connection")
			<-time.After(20 * time.Millisecond)
		}
	}
	serves := func(cert []byte) func() bool {
		return func() bool {
			conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			if err != nil {
				return false
			}
			defer func() { _ = conn.Close() }()
			pair, err := tls.X509KeyPair(cert, mustKey(t, server))
			return err == nil && bytes.Equal(conn.ConnectionState().PeerCertificates[0].Raw, pair.Certificate[0])
		}
	}

	both := append(bytes.Clone(a.PEM), b.PEM...)
	cert, key := b.Issue(t, time.Time{})
	server.Write(t, cert, key, both)
	until("the server has its new certificate", serves(cert))
	if got := internal(ctx, dialTLS(t, s.addr, internalKey, source(t, client))); got != errs.ServiceUnavailable {
		t.Errorf("a client that does not know the new authority: %q", got) // or the next lines would show nothing
	}
	clientCert, clientKey := b.Issue(t, time.Time{}, tlsx.Name("gateway"))
	client.Write(t, clientCert, clientKey, b.PEM)
	until("a new connection of the same source works", func() bool { return internal(ctx, dialTLS(t, s.addr, internalKey, src)) == "" })

	server.Write(t, nil, nil, b.PEM)
	formerly := tlsxtest.NewFiles(t, b)
	formerly.Write(t, oldCert, oldKey, nil)
	former := source(t, formerly)
	until("the old certificate is refused", func() bool { return internal(ctx, dialTLS(t, s.addr, internalKey, former)) == errs.ServiceUnavailable })
	call(dialTLS(t, s.addr, internalKey, src), "at the end")
	call(old, "the first connection, at the end")
}

func mustKey(t *testing.T, files tlsxtest.Files) []byte {
	t.Helper()
	raw, err := os.ReadFile(files.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A certificate that has ended must not live on with a connection that never does.
func TestConnectionsAreMadeAnewAndNoCallNotices(t *testing.T) {
	files := tlsxtest.NewFiles(t, tlsxtest.NewAuthority(t), tlsx.Name("gateway"))
	s := serveTLS(t, files, func(c *rpc.Config) { c.MaxConnectionAge = 20 * time.Millisecond })
	conn := dialTLS(t, s.addr, internalKey, source(t, files))
	deadline := time.Now().Add(time.Minute)
	for s.ln.accepted.Load() < 4 {
		if got := internal(context.Background(), conn); got != "" {
			t.Fatalf("a call was refused with %s", got)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections in a minute", s.ln.accepted.Load())
		}
	}
}
