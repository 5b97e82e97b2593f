package agones

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	allocationpb "github.com/berth-dev/berth/pkg/gen/agones/allocation"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

const (
	// maxAnswer is how large an answer may be: all metadata of a GameServer is in it, of which a cluster allows 256 KiB annotations.
	maxAnswer = 4 << 20
	// connectTimeout bounds a connection with its handshake.
	connectTimeout = 10 * time.Second
	// Between two connections that fail there is a pause that grows. It stays short: until it is over, calls fail with what the last one failed with.
	minPause, maxPause = 200 * time.Millisecond, 2 * time.Second
	// During a call the connection is probed: an allocator allows it once a minute. What is sent into a dead one is given up after deadAfter.
	probeEach, deadAfter = 70 * time.Second, 15 * time.Second
)

// grpcSide is the gRPC side of agones-allocator: one connection for all calls, which comes and goes by itself.
type grpcSide struct {
	conn *grpc.ClientConn
	api  allocationpb.AllocationServiceClient
	op   *hostapi.Operation
}

func newGRPCSide(op *hostapi.Operation, at *url.URL, conf *tls.Config) (*grpcSide, error) {
	if strings.Trim(at.Path, "/") != "" {
		return nil, fmt.Errorf("url: %q has a path, and gRPC has none; take it out, or set agones.allocator.protocol: %s", at, overREST)
	}
	creds := credentials.NewTLS(conf)
	if at.Scheme == "http" { // on this machine
		creds = insecure.NewCredentials()
	}
	conn, err := grpc.NewClient("dns:///"+addressOf(at),
		grpc.WithTransportCredentials(creds), grpc.WithUserAgent("berth"), grpc.WithStatsHandler(watch{}),
		grpc.WithDisableServiceConfig(), // such as a policy to repeat calls, by DNS
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: minPause, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxPause}, MinConnectTimeout: connectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: probeEach, Timeout: deadAfter}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	return &grpcSide{conn: conn, api: allocationpb.NewAllocationServiceClient(conn), op: op}, nil
}

// MayBeRead implements side: what the allocator did not let in was not sent.
func (s *grpcSide) MayBeRead() bool { return false }

// Close implements side.
func (s *grpcSide) Close() { _ = s.conn.Close() } // it fails only if it is closed

// Allocate implements side. No call is sent before the allocator has begun to speak HTTP/2, and it does so after the handshake: what was sent was let in.
func (s *grpcSide) Allocate(ctx context.Context, o order) (made allocationStatus, in bool, err error) {
	if err := s.op.Wait(ctx); err != nil {
		return made, false, err
	}
	var call fate
	var head, trailer metadata.MD
	answer, err := s.api.Allocate(context.WithValue(ctx, fateKey{}, &call), &allocationpb.AllocationRequest{
		Namespace:           o.namespace,
		GameServerSelectors: []*allocationpb.GameServerSelector{{MatchLabels: o.selector.MatchLabels}},
		Metadata:            &allocationpb.MetaPatch{Labels: o.patch.Labels, Annotations: o.patch.Annotations},
	}, grpc.Header(&head), grpc.Trailer(&trailer))
	if err == nil {
		return allocationStatus{State: allocated, GameServerName: answer.GetGameServerName()}, true, nil
	}
	err = s.failure(ctx, status.Convert(err), &call, metadata.Join(head, trailer))
	s.op.Heed(err)
	return made, call.sent.Load(), err
}

// failure is what a call that failed means. The code alone does not say it: the client has codes of its own for what breaks on the way.
func (s *grpcSide) failure(ctx context.Context, said *status.Status, call *fate, md metadata.MD) error {
	switch {
	case call.answered.Load() && tooLarge(said):
		return hostapi.Senseless(serviceHost, s.op, said.Message())
	case call.answered.Load():
		return refusal{code: said.Code(), words: said.Message(), after: retryAfter(md)}.failure(s.op)
	case ctx.Err() != nil:
		return hostapi.Unanswered(serviceHost, s.op, ctx.Err(), call.sent.Load())
	}
	if by := otherStatus.FindStringSubmatch(said.Message()); by != nil {
		code, _ := strconv.Atoi(by[1])
		r := hostapi.Refusal{Host: "something on the way to " + serviceHost, Operation: s.op, Status: code}
		switch {
		case code == http.StatusNotFound:
			return r.Failure(provider.NotFound, said.Message())
		case code >= http.StatusBadRequest:
			return r.Failure(r.Reason(), said.Message())
		}
	}
	return hostapi.Unanswered(serviceHost, s.op, errors.New(said.Message()), call.sent.Load())
}

// otherStatus is how the client says that an answer was of HTTP only, and with which status. Should it ever say so in other words, the call counts as one without
// an answer.
var otherStatus = regexp.MustCompile(`^unexpected HTTP status code received from server: (\d{3}) `)

// tooLarge reports whether the client would not read an answer: it has the code of an allocator that has no GameServer.
func tooLarge(said *status.Status) bool {
	return said.Code() == codes.ResourceExhausted && strings.HasPrefix(said.Message(), "grpc: ") && strings.Contains(said.Message(), "larger than max")
}

// retryAfter is when something on the way wants to be asked again.
func retryAfter(md metadata.MD) time.Duration {
	return hostapi.Refusal{Header: http.Header{"Retry-After": md.Get("retry-after")}}.RetryAfter()
}

// fate is how far a call came.
type fate struct {
	sent     atomic.Bool // on a connection: from then on the allocator may have it
	answered atomic.Bool // with a status
}

type fateKey struct{}

// watch notes the fate of calls. It implements stats.Handler.
type watch struct{}

// TagRPC implements stats.Handler.
func (watch) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (watch) HandleRPC(ctx context.Context, s stats.RPCStats) {
	call, ok := ctx.Value(fateKey{}).(*fate)
	if !ok {
		return
	}
	switch s.(type) {
	case *stats.OutHeader:
		call.sent.Store(true)
	case *stats.InTrailer:
		call.answered.Store(true)
	}
}

// TagConn implements stats.Handler.
func (watch) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (watch) HandleConn(context.Context, stats.ConnStats) {}
