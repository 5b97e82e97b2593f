package wsserver

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/tracing"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway/internal/hub"
	"github.com/berth-dev/berth/services/gateway/internal/session"
)

// maxPayload bounds what is relayed: a message between services has 8 MiB, and one that is larger would break the stream for all whose requests go over it.
// Of JSON within the default limit of a frame less comes.
const maxPayload = 7 << 20

// keptBuffer is the size up to which a buffer that a frame was read into is used again.
const keptBuffer = 64 << 10

// errTooLarge means that a frame is over the limit.
var errTooLarge = errors.New("the frame is too large")

// read takes frames until the connection ends. After a Goodbye it goes on, so that the closing handshake can end, and drops what it reads.
//
// Reads have no context that can be cancelled: that would cost a dozen allocations each. Closing the connection ends them.
func (c *conn) read() {
	for {
		typ, r, err := c.ws.Reader(context.Background())
		if err != nil {
			return
		}
		c.hear()
		buf, ok := c.srv.frames.Get().(*[]byte)
		if !ok {
			return
		}
		*buf, err = c.readAll(r, (*buf)[:0])
		switch {
		case errors.Is(err, errTooLarge):
			c.Close(linkv1.CloseCode_CLOSE_CODE_FRAME_TOO_LARGE, "the frame is larger than Welcome allows")
			_, err = io.Copy(io.Discard, r)
		case err != nil:
		case typ != messageType(c.codec):
			c.Close(linkv1.CloseCode_CLOSE_CODE_MALFORMED_FRAME, "frames of the sub-protocol "+c.codec.Subprotocol()+" are no "+typeName(typ)+" messages")
		default:
			c.handle(*buf)
		}
		if cap(*buf) <= keptBuffer {
			c.srv.frames.Put(buf)
		}
		if err != nil {
			return
		}
	}
}

// typeName is how messages of a type are called in docs/link-protocol.md.
func typeName(t websocket.MessageType) string {
	if t == websocket.MessageText {
		return "text"
	}
	return "binary"
}

// readAll reads a frame.
func (c *conn) readAll(r io.Reader, buf []byte) ([]byte, error) {
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > c.srv.cfg.Limits.MaxFrameBytes:
			return buf, errTooLarge
		case errors.Is(err, io.EOF):
			return buf, nil
		case err != nil:
			return buf, err
		}
		c.hear() // a large frame may take longer than the heartbeats allow, and no pong can come in between
	}
}

// handle deals with one frame. raw is not kept.
func (c *conn) handle(raw []byte) {
	if !c.codec.Text() {
		if m, ok := decodeMessage(raw); ok {
			c.message(m)
			return
		}
	}
	var deep sync.WaitGroup
	deep.Go(func() { c.deal(raw) })
	deep.Wait()
}

// deal deals with a frame on a goroutine of its own, for which the reader waits. It takes a deep stack, which the runtime would not take back from the reader,
// and an idle connection has little else.
func (c *conn) deal(raw []byte) {
	frame, err := c.codec.Decode(raw)
	if err != nil {
		c.Close(linkv1.CloseCode_CLOSE_CODE_MALFORMED_FRAME, "the frame is not a berth.link.v1.Frame")
		return
	}
	switch kind := frame.GetKind().(type) {
	case *linkv1.Frame_Request:
		c.request(kind.Request)
	case *linkv1.Frame_Message:
		if m, err := messageOf(kind.Message); err == nil {
			c.message(m)
		}
	case *linkv1.Frame_Ack:
		c.ack(kind.Ack)
	case *linkv1.Frame_Hello:
		c.greet(kind.Hello)
	case nil: // of a later version
	default:
		c.Close(linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION, "only the gateway sends frames of this kind")
	}
}

// greet answers Hello. Until the session is open nothing else is read.
func (c *conn) greet(h *linkv1.Hello) {
	c.mu.Lock()
	c.hello.Stop()
	c.pooled = h.GetPool() != ""
	breach := c.state.Hello(len(h.GetInstances()))
	leaving := c.closing != 0
	c.mu.Unlock()
	if breach != nil {
		c.Close(breachCode(breach), breach.Message)
		return
	}
	if leaving {
		return
	}
	server := c.pair.Server()
	opening := c.srv.cfg.Hub.Open(server.ID)
	defer opening.Done()
	gatewayID, err := c.srv.cfg.Gateway()
	var opened *sessionv1.OpenSessionResponse
	if err == nil {
		opened, err = c.srv.cfg.Upstream.OpenSession(context.Background(), server, gatewayID, h)
	}
	if err != nil {
		code := refusal(err)
		c.srv.countInUse(h, err)
		c.srv.auditRefusal(audit.Entry{
			Action: audit.Link, Namespace: server.Namespace, Actor: "server:" + server.ID, Role: string(auth.RoleGameServer), Resource: "server:" + server.ID,
			Address: c.remote,
		}, err)
		c.srv.cfg.Log.Warn("a session was refused", append(identity(server), "code", codeName(code), "error", err)...)
		c.Close(code, linkError(err).GetMessage())
		return
	}
	c.welcome(gatewayID, opened)
	c.srv.cfg.Upstream.TakenOver(server.ID, opened.GetSessionEpoch())
	switch err := opening.Register(c, opened.GetSessionEpoch(), instancesOf(opened.GetLinks())); {
	case errors.Is(err, hub.ErrReplaced):
		c.Close(linkv1.CloseCode_CLOSE_CODE_REPLACED, err.Error())
	case err != nil:
		c.Close(linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE, err.Error())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range opened.GetLinks() {
		c.pull(l.GetInstanceId()) // what came while the server was away
	}
	c.srv.cfg.Log.Info("link opened", append(identity(server), "session_id", opened.GetSessionId(), "session_epoch", opened.GetSessionEpoch(),
		"resumed", h.GetResumeKey() != "", "instances", len(opened.GetLinks()), "sdk", h.GetSdk())...)
}

// countInUse counts a session that was refused because the pair is in use. Who shows a resume key had a session, and may be a server that is locked out by
// somebody with its credentials; who shows none may be the one with stolen ones, or a server that was started twice.
func (s *Server) countInUse(h *linkv1.Hello, err error) {
	if !errs.Is(err, errs.CredentialsInUse) {
		return
	}
	shown := "none"
	if h.GetResumeKey() != "" {
		shown = "wrong"
	}
	s.cfg.Metrics.InUse.WithLabelValues(shown).Inc()
}

// welcome opens the session and queues Welcome.
func (c *conn) welcome(gatewayID string, opened *sessionv1.OpenSessionResponse) {
	game, social := c.pair.Handles()
	w := &linkv1.Welcome{
		SessionId:    opened.GetSessionId(),
		ResumeKey:    opened.GetResumeKey(),
		GameHandle:   game,
		SocialHandle: social,
		Limits:       &linkv1.Limits{MaxFrameBytes: c.srv.cfg.Limits.MaxFrameBytes, MaxInFlight: int32(c.srv.cfg.Limits.MaxInFlight)},
		Heartbeat:    durationpb.New(c.srv.cfg.Heartbeat),

		RolledBackInstanceIds: opened.GetRolledBackInstanceIds(),
		AssignedInstanceIds:   opened.GetAssignedInstanceIds(),
	}
	var links []session.Link
	for _, l := range opened.GetLinks() {
		w.Instances = append(w.Instances, &linkv1.ResumedInstance{InstanceId: l.GetInstanceId(), LinkEpoch: l.GetLinkEpoch()})
		links = append(links, linkOf(l))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	server := c.pair.Server()
	c.caller = &sessionv1.ServerIdentity{Namespace: server.Namespace, ServerId: server.ID, PairId: server.PairID, SessionId: opened.GetSessionId(), SessionEpoch: opened.GetSessionEpoch()}
	c.epoch, c.life = opened.GetSessionEpoch(), gatewayID
	c.state.Open(links)
	c.send(&linkv1.Frame{Kind: &linkv1.Frame_Welcome{Welcome: w}})
}

func linkOf(l *sessionv1.LinkState) session.Link {
	return session.Link{Instance: l.GetInstanceId(), Epoch: l.GetLinkEpoch(), Offset: l.GetOffset()}
}

func instancesOf(links []*sessionv1.LinkState) []string {
	var ids []string
	for _, l := range links {
		ids = append(ids, l.GetInstanceId())
	}
	return ids
}

// The methods that begin or end a link.
const (
	methodLink          = "Link"
	methodCreateAndLink = "CreateAndLink"
	methodUnlink        = "UnlinkGameInstance"
	methodEnd           = "EndGameInstance"
)

// methodRefresh renews the pair.
const methodRefresh = "RefreshTokens"

// call is a request that has no answer yet.
type call struct {
	id               int64
	method, instance string // the instance is "" for CreateAndLink
	epoch            int64  // of the instance's link when the request came; 0: it was not linked here
	held             int64  // the epoch of the link whose notifications wait for the answer; 0: none do
}

// request checks a request's turn and credentials and passes it on.
func (c *conn) request(r *linkv1.Request) {
	call := call{id: r.GetId(), method: r.GetMethod(), instance: r.GetInstanceId()}
	c.mu.Lock()
	if c.closing != 0 {
		c.mu.Unlock()
		return
	}
	breach := c.state.Request(r.GetId())
	if breach != nil {
		c.close(breachCode(breach), breach.Message)
	}
	caller, life := c.caller, c.life
	call.epoch = c.state.Epoch(call.instance)
	full := (call.method == methodLink || call.method == methodCreateAndLink) && c.state.Full(call.instance)
	c.mu.Unlock()
	if breach != nil {
		return
	}
	if err := c.srv.cfg.Door.Frame(c.frames, c.remote); err != nil { // before credentials are looked at, which may take time
		c.refuse(call, err)
		return
	}
	if err := c.alive(life); err != nil {
		c.refuse(call, err)
		return
	}
	caller, err := c.admit(r, caller)
	if err != nil {
		c.refuse(call, err)
		return
	}
	if full {
		c.refuse(call, errs.New(errs.LimitExceeded, "this connection has too many linked instances; end or unlink some over it, and acknowledge the notifications of those that are over"))
		return
	}
	if r.Payload, err = c.codec.Payload(call.method, r.GetPayload()); err != nil {
		c.refuse(call, err)
		return
	}
	if len(r.GetPayload()) > maxPayload {
		c.refuse(call, errs.New(errs.LimitExceeded, "payload: has %d bytes as encoded for Berth's services, and may have %d", len(r.GetPayload()), maxPayload))
		return
	}
	r.Auth = nil // they go no further
	call.held = c.hold(call)
	ctx, span := c.srv.cfg.Tracer.Start(c.traceOf(call), "link request")
	c.srv.cfg.Upstream.Relay(caller, r, tracing.Traceparent(ctx), func(resp *sessionv1.RelayResponse, err error) { //nolint:contextcheck // calls go by their own time
		c.relayed(call, resp, err)
		span.End(cmp.Or(string(errs.ReasonOf(err)), resp.GetResponse().GetError().GetReason()))
	})
}

// traceOf returns where the trace of a request begins: the link is the end of the one in which the server was allocated.
func (c *conn) traceOf(call call) context.Context {
	if call.method == methodLink {
		return tracing.WithParent(context.Background(), c.traceparent)
	}
	return context.Background()
}

// relayed takes the answer of game-instance, or why there is none.
func (c *conn) relayed(call call, resp *sessionv1.RelayResponse, err error) {
	answer, reason := resp.GetResponse(), errs.ReasonOf(err)
	if err == nil && answer.GetOutcome() == nil {
		err, reason = errs.New(errs.Internal, "internal error: the answer is empty"), errs.Internal
	}
	deliver := func() { c.refuse(call, err) }
	if err == nil {
		reason = errs.Reason(answer.GetError().GetReason())
		answer.Id = call.id
		deliver = func() { c.answer(call, responseFrame(c.translated(call, answer)), reason, resp.GetLink()) }
	}
	if call.method == methodRefresh {
		c.refreshed(answer.GetResult(), reason, deliver)
		return
	}
	deliver()
}

// translated returns an answer as it is written on this connection.
func (c *conn) translated(call call, answer *linkv1.Response) *linkv1.Response {
	result, ok := answer.GetOutcome().(*linkv1.Response_Result)
	if !ok {
		return answer
	}
	raw, err := c.codec.Result(call.method, result.Result)
	if err != nil {
		c.srv.cfg.Log.Error("a result could not be translated", append(identity(c.pair.Server()), "method", call.method, "error", err)...)
		return failureFrame(call.id, errs.New(errs.Internal, "internal error")).GetResponse()
	}
	return &linkv1.Response{Id: answer.GetId(), Outcome: &linkv1.Response_Result{Result: raw}}
}

// refuse answers a request with an error that was found here.
func (c *conn) refuse(call call, err error) {
	c.answer(call, failureFrame(call.id, err), errs.ReasonOf(err), nil)
}

// answer queues the answer to a request. When the request linked an instance, its notifications follow.
func (c *conn) answer(call call, frame *linkv1.Frame, reason errs.Reason, link *sessionv1.LinkState) {
	c.srv.cfg.Metrics.Requests.WithLabelValues(string(reason)).Inc()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Answered()
	c.send(frame)
	defer c.leaveReplaced()
	if c.over { // a connection that has ended has told its instances to the hub already
		return
	}
	instance := call.instance
	if link != nil {
		instance = link.GetInstanceId()
		c.state.Linked(linkOf(link))
		c.srv.cfg.Hub.Link(c, c.pair.Server().ID, instance)
	} else {
		c.follow(call, reason)
	}
	if call.held != 0 {
		c.state.Release(call.instance, call.held)
	}
	if link != nil || call.held != 0 {
		c.pull(instance) // what was published before the instance was known here, or held back
	}
}

// follow draws the consequences where an answer says that the instance is over, for all or for this server. The caller holds mu.
func (c *conn) follow(call call, reason errs.Reason) {
	switch reason {
	case "":
		switch call.method {
		case methodUnlink:
			c.unlink(call.instance, call.epoch)
		case methodEnd:
			c.finish(call.instance, call.epoch)
		}
	case errs.Superseded, errs.NotAssigned, errs.InstanceUnknown, errs.InstanceDeleted: // a notification that says the same may be on its way
		c.finish(call.instance, call.epoch)
	}
}
