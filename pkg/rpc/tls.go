package rpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/tlsx"
)

// clientCreds are transport credentials that take the newest files for each connection.
type clientCreds struct {
	credentials.TransportCredentials // what the connection is like otherwise
	source                           *tlsx.Source
	show                             bool
}

func newClientCreds(source *tlsx.Source, show bool) credentials.TransportCredentials {
	return clientCreds{credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13}), source, show}
}

// ClientHandshake implements credentials.TransportCredentials.
func (c clientCreds) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(c.source.ClientConfig(c.show)).ClientHandshake(ctx, authority, conn)
}

// Clone implements credentials.TransportCredentials.
func (c clientCreds) Clone() credentials.TransportCredentials {
	return clientCreds{c.TransportCredentials.Clone(), c.source, c.show}
}

// principal returns who calls. Credentials that a call brings decide, so that a call which is passed on never has more power than whoever made it;
// without any, a certificate with the name of a Berth service does.
func (s *Server) principal(ctx context.Context) (auth.Principal, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if s.tls && len(md.Get(auth.MetadataInternalKey)) > 0 {
		return auth.Principal{}, errs.New(errs.CredentialsInvalid, "the internal key is for connections without TLS; over TLS a service is known by its certificate")
	}
	p, err := s.auth.Authenticate(ctx, md)
	if err != nil || p.Role != auth.RolePublic {
		return p, err
	}
	if name := s.serviceName(ctx); name != "" {
		return auth.Principal{Role: auth.RoleInternal, Name: name}, nil
	}
	return p, nil
}

// serviceName returns the first of the peers' names that is in the caller's verified certificate; "" if there is none.
func (s *Server) serviceName(ctx context.Context) string {
	leaf := certificate(ctx)
	if leaf == nil {
		return ""
	}
	for _, name := range s.peers {
		if named(leaf, name) {
			return name
		}
	}
	return ""
}

func named(leaf *x509.Certificate, name string) bool {
	if !strings.Contains(name, "://") {
		return slices.Contains(leaf.DNSNames, name)
	}
	for _, uri := range leaf.URIs {
		if uri.String() == name {
			return true
		}
	}
	return false
}

// certificate returns the certificate that the caller has shown, once it was verified; nil if there is none.
func certificate(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.VerifiedChains[0]) == 0 {
		return nil
	}
	return info.State.VerifiedChains[0][0]
}
