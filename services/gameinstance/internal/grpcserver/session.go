package grpcserver

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	"github.com/berth-dev/berth/pkg/tracing"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/berth-dev/berth/sdk/go/token"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/session"
	"github.com/berth-dev/berth/services/gameinstance/internal/wire"
)

// Session serves berth.session.v1.SessionService.
type Session struct {
	sessionv1.UnimplementedSessionServiceServer
	sessions    *session.Service
	gameServers *GameServer
	server      *rpc.Server
}

// NewSession returns the handlers of SessionService. Relayed calls run through server's guard.
func NewSession(sessions *session.Service, gameServers *GameServer, server *rpc.Server) *Session {
	return &Session{sessions: sessions, gameServers: gameServers, server: server}
}

// OpenSession implements the rpc.
func (s *Session) OpenSession(ctx context.Context, req *sessionv1.OpenSessionRequest) (*sessionv1.OpenSessionResponse, error) {
	h := session.Hello{
		Namespace: req.GetNamespace(), ServerID: req.GetServerId(), PairID: req.GetPairId(), GatewayID: req.GetGatewayId(), ResumeKey: req.GetHello().GetResumeKey(), Nonce: req.GetHello().GetNonce(), Pool: req.GetHello().GetPool(),
	}
	for _, l := range req.GetHello().GetInstances() {
		h.Links = append(h.Links, session.HelloLink{InstanceID: l.GetInstanceId(), LastOffset: l.GetLastOffset(), Epoch: l.GetLinkEpoch(), Revision: l.GetRevision(), LastRequest: l.GetLastRequest()})
	}
	opened, err := s.sessions.Open(ctx, h)
	if err != nil {
		return nil, err
	}
	out := &sessionv1.OpenSessionResponse{SessionId: opened.Session.ID, SessionEpoch: opened.Session.Epoch, ResumeKey: opened.ResumeKey, RolledBackInstanceIds: opened.RolledBack, AssignedInstanceIds: opened.Assigned}
	for _, l := range opened.Links {
		out.Links = append(out.Links, linkState(l))
	}
	return out, nil
}

func linkState(l session.Link) *sessionv1.LinkState {
	return &sessionv1.LinkState{InstanceId: l.InstanceID, LinkEpoch: l.Epoch, Offset: l.Offset}
}

// CloseSession implements the rpc.
func (s *Session) CloseSession(ctx context.Context, req *sessionv1.CloseSessionRequest) (*sessionv1.CloseSessionResponse, error) {
	return &sessionv1.CloseSessionResponse{}, s.sessions.Close(ctx, req.GetServerId(), req.GetSessionEpoch(), req.GetInstanceIds())
}

// PullNotifications implements the rpc.
func (s *Session) PullNotifications(ctx context.Context, req *sessionv1.PullNotificationsRequest) (*sessionv1.PullNotificationsResponse, error) {
	deliveries, more, err := s.sessions.Pull(ctx, req.GetInstanceId(), req.GetLinkEpoch(), req.GetAfterOffset())
	if err != nil {
		return nil, err
	}
	out := &sessionv1.PullNotificationsResponse{Deliveries: make([]*eventv1.Delivery, 0, len(deliveries)), More: more}
	for _, d := range deliveries {
		m, err := wire.Delivery(d)
		if err != nil {
			return nil, err
		}
		out.Deliveries = append(out.Deliveries, m)
	}
	return out, nil
}

// acksAtOnce bounds how many acknowledgements of one call are written at once. One after the other, a batch would take longer over a slow line to the store than
// the gateway waits, which then sends all of it again.
const acksAtOnce = 32

// AckNotifications implements the rpc.
func (s *Session) AckNotifications(ctx context.Context, req *sessionv1.AckNotificationsRequest) (*sessionv1.AckNotificationsResponse, error) {
	acks := req.GetAcks()
	failed := make([]error, len(acks))
	slots := make(chan struct{}, acksAtOnce) // overflow: the next one waits
	var all sync.WaitGroup
	for n, a := range acks { // one that fails keeps none of the others
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			failed[n] = s.sessions.Ack(ctx, a.GetInstanceId(), a.GetLinkEpoch(), a.GetOffset())
		})
	}
	all.Wait()
	return &sessionv1.AckNotificationsResponse{}, errors.Join(failed...)
}

// RenewGateway implements the rpc.
func (s *Session) RenewGateway(ctx context.Context, req *sessionv1.RenewGatewayRequest) (*sessionv1.RenewGatewayResponse, error) {
	lease := req.GetLease().AsDuration()
	if req.GetRelease() {
		lease = 0
	} else if lease <= 0 || lease > time.Minute {
		return nil, errs.New(errs.ValidationFailed, "lease: must be above 0 and at most 1 minute")
	}
	r, err := s.sessions.Renew(ctx, req.GetGatewayId(), lease)
	out := &sessionv1.RenewGatewayResponse{Lapsed: r.Known.IsZero(), UndeliveredInstanceIds: r.Undelivered}
	if !r.Known.IsZero() {
		out.KnownSince = timestamppb.New(r.Known)
	}
	return out, err
}

const (
	// relayConcurrency bounds the calls of one stream that run at once; the stream is read no further while it is reached.
	relayConcurrency = 256
	relayTimeout     = 10 * time.Second
	// maxAnswer bounds one answer, so that it cannot break the stream that many servers share.
	maxAnswer = 7 << 20
)

// Relay implements the rpc.
func (s *Session) Relay(stream grpc.BidiStreamingServer[sessionv1.RelayRequest, sessionv1.RelayResponse]) error {
	ctx := stream.Context()
	requests, ended := receive(stream)
	slots := make(chan struct{}, relayConcurrency)
	var order lines
	var sending sync.Mutex
	var running sync.WaitGroup
	defer running.Wait() // what was asked is answered, also when this replica stops
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return err
		case req := <-requests:
			slots <- struct{}{}
			place := order.join(req.GetIdentity().GetServerId())
			running.Go(func() {
				defer func() { <-slots }()
				defer place.leave()
				place.begin()
				// A call is not cut short with its stream: the frame's number makes a repeat harmless, and half a call helps nobody.
				out := s.relay(context.WithoutCancel(ctx), req, place.next)
				place.end()
				sending.Lock()
				defer sending.Unlock()
				_ = stream.Send(out) // a gateway that is gone asks again on another stream
			})
		}
	}
}

// receive reads a stream in a goroutine of its own, so that the handler can end while nothing comes: a stream's Recv returns when its
// handler has. ended gets nil at the stream's good end.
func receive(stream grpc.BidiStreamingServer[sessionv1.RelayRequest, sessionv1.RelayResponse]) (requests <-chan *sessionv1.RelayRequest, ended <-chan error) {
	in, end := make(chan *sessionv1.RelayRequest), make(chan error, 1)
	go func() {
		for {
			req, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			if req == nil {
				end <- err
				return
			}
			select {
			case in <- req:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	return in, end
}

// relay runs one call of a game server. queued is called when it has its place among the commands of its instance, if it comes to that.
func (s *Session) relay(ctx context.Context, req *sessionv1.RelayRequest, queued func()) *sessionv1.RelayResponse {
	timeout := req.GetTimeout().AsDuration()
	if timeout <= 0 || timeout > relayTimeout {
		timeout = relayTimeout
	}
	ctx, cancel := context.WithTimeout(tracing.WithParent(ctx, req.GetTraceparent()), timeout)
	defer cancel()
	id, in := req.GetIdentity(), req.GetRequest()
	f := &frame{command: instance.CommandID{Session: id.GetSessionId(), Number: in.GetId()}, queued: queued, lastRequest: in.GetLastRequest(), linkEpoch: in.GetLinkEpoch(), sessionEpoch: id.GetSessionEpoch()}
	ctx = context.WithValue(ctx, frameKey{}, f)
	server := token.Server{ID: id.GetServerId(), PairID: id.GetPairId(), Namespace: id.GetNamespace()}
	principal := auth.Principal{Role: auth.RoleGameServer, Server: server, Namespaces: []string{server.Namespace}, Expired: id.GetExpired()}
	msg, err := s.server.Call(ctx, principal, &gameserverv1.GameServerService_ServiceDesc, s.gameServers, in.GetMethod(), func(m proto.Message) error {
		if err := proto.Unmarshal(in.GetPayload(), m); err != nil {
			return err
		}
		return setInstance(m, in.GetInstanceId())
	})
	out := &sessionv1.RelayResponse{Id: req.GetId(), Response: &linkv1.Response{Id: in.GetId()}}
	if err == nil {
		var payload []byte
		if payload, err = proto.Marshal(msg); err == nil && len(payload) > maxAnswer {
			err = errs.New(errs.LimitExceeded, "the answer has %d bytes, and a frame may have %d", len(payload), maxAnswer)
		}
		if err == nil {
			out.Response.Outcome = &linkv1.Response_Result{Result: payload}
			if f.linked != nil {
				out.Link = linkState(*f.linked)
			}
			return out
		}
	}
	out.Response.Outcome = &linkv1.Response_Error{Error: linkError(err)}
	return out
}

// setInstance fills a request's instance_id from its frame; the two must not differ.
func setInstance(m proto.Message, instanceID string) error {
	field := m.ProtoReflect().Descriptor().Fields().ByName("instance_id")
	if field == nil || instanceID == "" {
		return nil
	}
	if own := m.ProtoReflect().Get(field).String(); own != "" && own != instanceID {
		return errs.New(errs.ValidationFailed, "instance_id: the frame names %s and its payload %s", instanceID, own)
	}
	m.ProtoReflect().Set(field, protoreflect.ValueOfString(instanceID))
	return nil
}

// linkError returns the error of a response frame.
func linkError(err error) *linkv1.Error {
	e := rpc.Public(err)
	out := &linkv1.Error{Code: int32(e.Reason.Kind()), Reason: string(e.Reason), Message: e.Message}
	if e.RetryAfter > 0 {
		out.RetryAfter = durationpb.New(e.RetryAfter)
	}
	return out
}
