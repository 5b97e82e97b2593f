package gameservertest

import (
	"bytes"
	"regexp"

	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest/wire"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// answered is a request that took effect.
type answered struct {
	method  string
	payload []byte
	result  []byte
}

// request deals with a request. The caller holds mu.
func (b *Backend) request(c *conn, r *linkv1.Request) {
	if r.GetId() < 1 {
		b.breach(c, linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION, "a request has the number %d; the first is 1", r.GetId())
		return
	}
	call := &Call{Number: r.GetId(), Method: r.GetMethod(), Connection: c.n, payload: r.GetPayload()}
	for _, earlier := range b.calls {
		if earlier.Number == call.Number && earlier.session == b.session.id {
			call.Repeated = true
			if earlier.Method != call.Method || !bytes.Equal(earlier.payload, call.payload) {
				b.violation("request %d is a %s, and was another request before: each request has a number of its own, and keeps it", call.Number, call.Method)
			}
		}
	}
	call.session = b.session.id
	b.calls = append(b.calls, call)
	cut := b.faults.cutFor(call.Method)
	if cut == cutBeforeEffect {
		c.cut()
		return
	}
	result, refused := b.answer(c, r, call)
	if cut == cutBeforeAnswer {
		c.cut()
		return
	}
	call.Answered = true
	out := &linkv1.Response{Id: r.GetId(), Outcome: &linkv1.Response_Result{Result: result}}
	if refused != nil {
		call.Reason = refused.GetReason()
		out.Outcome = &linkv1.Response_Error{Error: refused}
	} else if counts(r.GetMethod()) {
		b.session.top = max(b.session.top, r.GetId())
		if l := b.match.loss; l != nil { // the store knows of it
			l.top = max(l.top, r.GetId())
		}
	}
	c.send(&linkv1.Frame{Kind: &linkv1.Frame_Response{Response: out}})
	if refused == nil && (r.GetMethod() == methodLink || r.GetMethod() == methodCreate) {
		c.deliver(b.match.mailbox...)
	}
	if cut == cutAfterAnswer {
		c.cut()
	}
}

const (
	methodLink    = "Link"
	methodRefresh = "RefreshTokens"
	methodCreate  = "CreateAndLink"
)

// counts reports whether a method takes effect once, and its answer is one that last_request tells of.
func counts(method string) bool {
	return method != methodLink && method != methodRefresh && method != methodCreate
}

// answer returns the result of a request, or why it is refused. The caller holds mu.
func (b *Backend) answer(c *conn, r *linkv1.Request, call *Call) ([]byte, *linkv1.Error) {
	if reason := b.checkTokens(r.GetAuth().GetGame(), r.GetAuth().GetSocial(), c.game, c.social); reason != "" {
		b.violation("request %d (%s) was refused with %s: auth must have both credentials of this connection, each in its own place", r.GetId(), r.GetMethod(), reason)
		return nil, refusal(reason, "auth: see docs/link-protocol.md")
	}
	req := wire.NewRequest(r.GetMethod())
	if req == nil {
		b.violation("request %d: GameServerService has no method %q", r.GetId(), r.GetMethod())
		return nil, refusal(reasonMethodUnknown, "GameServerService has no method %q", r.GetMethod())
	}
	if err := proto.Unmarshal(r.GetPayload(), req); err != nil {
		b.violation("request %d: the payload is no request of %s", r.GetId(), r.GetMethod())
		return nil, refusal(reasonMalformed, "the payload is no request of %s", r.GetMethod())
	}
	name(req, r.GetInstanceId())
	call.Request = proto.CloneOf(req)
	if refused := b.faulty(r.GetMethod()); refused != nil {
		return nil, refused
	}
	result, refused := b.take(c, r, req)
	if refused != nil {
		return nil, refused
	}
	out, err := proto.Marshal(result)
	if err != nil {
		return nil, refusal("INTERNAL", "the answer cannot be written")
	}
	if counts(r.GetMethod()) && b.session.done[r.GetId()] == nil {
		b.session.done[r.GetId()] = &answered{method: r.GetMethod(), payload: r.GetPayload(), result: out}
	}
	return out, nil
}

// name puts the frame's instance into the request where it names none.
func name(req proto.Message, instance string) {
	m := req.ProtoReflect()
	if fd := m.Descriptor().Fields().ByName("instance_id"); fd != nil && !m.Has(fd) && instance != "" {
		m.Set(fd, protoreflect.ValueOfString(instance))
	}
}

// take lets a request take effect, unless it has already. The caller holds mu.
func (b *Backend) take(c *conn, r *linkv1.Request, req proto.Message) (proto.Message, *linkv1.Error) {
	m := b.match
	switch {
	case r.GetMethod() == methodRefresh:
		return b.refresh(), nil
	case r.GetMethod() == methodCreate:
		q, _ := req.(*gameserverv1.CreateAndLinkRequest)
		return b.create(c, r, q)
	case r.GetInstanceId() != m.in.GetId():
		b.violation("request %d (%s) names the instance %q, which is not this server's", r.GetId(), r.GetMethod(), r.GetInstanceId())
		return nil, refusal(reasonInstanceUnknown, "there is no instance %q", r.GetInstanceId())
	case m.lost || !m.made:
		return nil, refusal(reasonInstanceUnknown, "there is no instance %q", r.GetInstanceId())
	}
	if done := b.session.done[r.GetId()]; done != nil {
		return b.repeat(r, done)
	}
	if m.taken != "" {
		return nil, refusal(reasonSuperseded, "%s", m.taken)
	}
	if r.GetMethod() == methodLink {
		linked, refused := b.link(c)
		return linked, refused
	}
	if refused := b.checkLink(c, r); refused != nil {
		return nil, refused
	}
	return m.serve(req)
}

// repeat answers a request that took effect before.
func (b *Backend) repeat(r *linkv1.Request, done *answered) (proto.Message, *linkv1.Error) {
	if done.method != r.GetMethod() || !bytes.Equal(done.payload, r.GetPayload()) {
		return nil, refusal(reasonRequestIDReused, "request %d was another request before", r.GetId())
	}
	result := wire.NewResponse(done.method)
	if err := proto.Unmarshal(done.result, result); err != nil {
		return nil, refusal("INTERNAL", "the answer cannot be read")
	}
	return result, nil
}

// checkLink checks what a request says of the link. The caller holds mu.
func (b *Backend) checkLink(c *conn, r *linkv1.Request) *linkv1.Error {
	m := b.match
	switch {
	case r.GetLastRequest() > b.session.top:
		b.violation("request %d says that request %d was answered with a result since the link, and none above %d was", r.GetId(), r.GetLastRequest(), b.session.top)
	case !c.linked:
		b.violation("request %d (%s) came before the instance was linked over this connection", r.GetId(), r.GetMethod())
		return refusal(reasonStateNotAllowed, "link first")
	case m.loss.noticed(r):
		c.rolledBack = true
		return refusal(reasonRolledBack, "the store has lost writes; link again, over a new connection")
	case r.GetLinkEpoch() != m.epoch:
		b.violation("request %d (%s) has the link epoch %d; the newest link or welcome gave %d", r.GetId(), r.GetMethod(), r.GetLinkEpoch(), m.epoch)
		return refusal(reasonStaleLinkEpoch, "link_epoch: %d is not this link's", r.GetLinkEpoch())
	}
	return nil
}

// link binds the connection to the instance. The caller holds mu.
func (b *Backend) link(c *conn) (*gameserverv1.LinkResponse, *linkv1.Error) {
	m := b.match
	switch {
	case c.rolledBack:
		b.violation("the instance was linked over the connection over which STATE_ROLLED_BACK came; it must be another one")
		return nil, refusal(reasonRolledBack, "the store has lost writes; link again, over a new connection")
	case m.final():
		return nil, refusal(reasonStateNotAllowed, "the instance is %s; nothing can change it any more", m.stateName())
	}
	if !c.linked {
		m.linked = true
		m.epoch++
		c.linked = true
	}
	b.session.top, m.loss = 0, nil
	m.start()
	return &gameserverv1.LinkResponse{Instance: proto.CloneOf(m.in), LinkEpoch: m.epoch, Offset: m.floor}, nil
}

var topicRule = regexp.MustCompile(`^[A-Za-z0-9._:/-]{0,64}$`)

// said takes an ephemeral message. What is not right is dropped, and told to the test. The caller holds mu.
func (b *Backend) said(c *conn, s *linkv1.Message) {
	m := b.match
	switch reason := b.checkTokens(s.GetAuth().GetGame(), s.GetAuth().GetSocial(), c.game, c.social); {
	case reason != "":
		b.violation("a message is dropped with %s: auth must have both credentials of this connection, each in its own place", reason)
	case s.GetInstanceId() != m.in.GetId():
		b.violation("a message names the instance %q, which is not this server's", s.GetInstanceId())
	case !c.linked || s.GetLinkEpoch() != m.epoch:
		b.violation("a message has the link epoch %d; the newest link or welcome gave %d", s.GetLinkEpoch(), m.epoch)
	case !topicRule.MatchString(s.GetTopic()):
		b.violation("a message has the topic %q; at most 64 characters A-Z a-z 0-9 . _ : / - are allowed", s.GetTopic())
	case proto.Size(s.GetData()) > maxSaid:
		b.violation("a message has %d bytes; an ephemeral one may have %d", proto.Size(s.GetData()), maxSaid)
	case s.GetSequence() <= b.session.said:
		b.violation("a message has the sequence %d, and one before it had %d: each must be above the last", s.GetSequence(), b.session.said)
	default:
		b.session.said = s.GetSequence()
		b.messages = append(b.messages, Message{Topic: s.GetTopic(), Data: proto.CloneOf(s.GetData()), Ephemeral: true})
	}
}

const maxSaid = 16 << 10
