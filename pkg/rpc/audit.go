package rpc

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
)

// MetadataForwardedFor is the metadata key in which a gateway says for which address it passes a call on. It is for the audit alone.
const MetadataForwardedFor = "x-forwarded-for"

// acts returns the methods of services whose calls are acts of people and backends. By the role alone: what a SERVICE, an OPERATOR or an ADMIN may do
// and a VIEWER may not changes something, unless its idempotency level says that it has no side effects. Calls of game servers and between services are
// the ordinary course of a match, and are in the instance's history.
func acts(access auth.Table) map[string]bool {
	all := make(map[string]bool)
	for method, want := range access {
		if role := want.Role; auth.RoleAdmin.Includes(role) && role != auth.RolePublic && role != auth.RoleViewer && !harmless(method) {
			all[method] = true
		}
	}
	return all
}

func harmless(method string) bool {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", ".")))
	if err != nil {
		return false
	}
	options, ok := d.Options().(*descriptorpb.MethodOptions)
	return ok && options.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
}

// call is what is learned of a call on its way through the interceptors. Only the call's own goroutine touches it.
type call struct {
	principal           *auth.Principal // nil until the credentials were found valid
	req, response       proto.Message
	namespace, resource string // where the handler knows them, and not the request
}

// About says in the audit's entry of a call what the call is about, where that does not stand in its request as such but follows from a credential in it,
// which was verified. Such a call is recorded also where it is no act by its role.
func About(ctx context.Context, namespace, resource string) {
	c := callOf(ctx)
	c.namespace, c.resource = namespace, resource
}

type callKey struct{}

func withCall(ctx context.Context) context.Context { return context.WithValue(ctx, callKey{}, &call{}) }

// callOf returns the call of a context; one that nobody looks at if there is none.
func callOf(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{}
}

// callStream is a stream whose context has a call.
type callStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *callStream) Context() context.Context { return s.ctx }

// record puts a call that is over into the audit, if it belongs there.
func (s *Server) record(ctx context.Context, method string, err error) {
	if s.audit == nil {
		return
	}
	c := callOf(ctx)
	outcome := outcomeOf(err)
	switch {
	case refused(outcome):
		// A service that asks for somebody else is not who is refused; where they are told, it is recorded for whom.
		if c.principal != nil && c.principal.Role == auth.RoleInternal && outcome != errs.RoleRequired {
			return
		}
		s.audit.Refuse(s.entry(ctx, c, method, outcome, err))
	case s.acts[method], c.resource != "" && err == nil:
		s.audit.Act(s.entry(ctx, c, method, outcome, err))
	}
}

// refused reports whether a reason is about who calls, and not about what they ask for.
func refused(r errs.Reason) bool {
	return r != "" && (r.Kind() == errs.KindUnauthenticated || r.Kind() == errs.KindPermissionDenied)
}

func outcomeOf(err error) errs.Reason {
	var typed *errs.Error
	if _, ok := status.FromError(err); ok && err != nil && !errors.As(err, &typed) {
		err = FromStatus(err)
	}
	if err == nil {
		return ""
	}
	return Public(err).Reason
}

func (s *Server) entry(ctx context.Context, c *call, method string, outcome errs.Reason, err error) audit.Entry {
	if _, known := s.access[method]; !known {
		method = "unknown" // whoever invents names must not make many kinds of refusals
	}
	e := audit.Entry{Action: method, Actor: audit.Unknown, Outcome: audit.OK, ForwardedFor: forwardedFor(ctx)}
	if outcome != "" {
		e.Outcome, e.Detail = string(outcome), err.Error()
	}
	if p, ok := peer.FromContext(ctx); ok {
		e.Address = p.Addr.String()
	}
	if c.principal != nil {
		e.Actor, e.Role = c.principal.Actor(), string(c.principal.Role)
	}
	if leaf := certificate(ctx); leaf != nil && outcome != "" {
		e.Detail += fmt.Sprintf(" (certificate of %v %v)", leaf.URIs, leaf.DNSNames)
	}
	if r, ok := c.req.(interface{ GetNamespace() string }); ok {
		e.Namespace = ids.Namespace(r.GetNamespace())
	}
	if r, ok := c.req.(interface{ GetRequestId() string }); ok {
		e.RequestID = r.GetRequestId()
	}
	if c.namespace != "" {
		e.Namespace, e.Proven = c.namespace, true
	}
	e.Resource = cmp.Or(c.resource, resource(c.req), resource(c.response))
	return e
}

// forwardedFor returns the last address of the list, the one that the gateway itself has seen; only if it is one.
func forwardedFor(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	all := md.Get(MetadataForwardedFor)
	if len(all) == 0 {
		return ""
	}
	last := all[len(all)-1]
	last = strings.TrimSpace(last[strings.LastIndex(last, ",")+1:])
	if net.ParseIP(last) == nil {
		return ""
	}
	return last
}

// resource names what a request, or the answer to one that makes something, is about: by the first field that is an id, or a message with one.
func resource(m proto.Message) string {
	if m == nil {
		return ""
	}
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.IsList() || f.IsMap() {
			continue
		}
		if kind, ok := strings.CutSuffix(string(f.Name()), "_id"); ok && f.Kind() == protoreflect.StringKind && kind != "request" {
			if id := m.ProtoReflect().Get(f).String(); id != "" {
				return kind + ":" + id
			}
		}
		if f.Message() != nil && m.ProtoReflect().Has(f) {
			if id := f.Message().Fields().ByName("id"); id != nil && id.Kind() == protoreflect.StringKind {
				if text := m.ProtoReflect().Get(f).Message().Get(id).String(); text != "" {
					return string(f.Name()) + ":" + text
				}
			}
		}
	}
	return ""
}

// serverCreds are transport credentials that tell of callers whose certificates were refused.
type serverCreds struct {
	credentials.TransportCredentials
	refused func(addr net.Addr, err error)
}

// ServerHandshake implements credentials.TransportCredentials.
func (c serverCreds) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	out, info, err := c.TransportCredentials.ServerHandshake(conn)
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) { // anything else is no caller: a scan, a mistake in a URL
		c.refused(conn.RemoteAddr(), err)
	}
	return out, info, err
}

// Clone implements credentials.TransportCredentials.
func (c serverCreds) Clone() credentials.TransportCredentials {
	return serverCreds{c.TransportCredentials.Clone(), c.refused}
}

// handshakeRefused records a certificate that was not accepted.
func (s *Server) handshakeRefused(addr net.Addr, err error) {
	s.audit.Refuse(audit.Entry{Actor: audit.Unknown, Action: audit.Handshake, Address: addr.String(), Outcome: string(errs.CredentialsInvalid), Detail: err.Error()})
}
