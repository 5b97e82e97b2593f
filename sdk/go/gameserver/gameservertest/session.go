package gameservertest

import (
	"crypto/rand"
	"slices"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/coder/websocket"
	"google.golang.org/protobuf/types/known/durationpb"
)

// session is what outlives a connection: the life of one server process. It is guarded by the backend's mu.
type session struct {
	id, resumeKey, nonce string
	conn                 *conn // nil when there is none
	upgrades             int   // that were asked for, refused ones included
	done                 map[int64]*answered
	top                  int64  // the highest number of a request that was answered with a result since the instance was linked
	final                string // why the server must not come back
	left                 bool   // it has closed with 1000
	said                 int64  // the sequence of its last ephemeral message
}

// received deals with a frame. The caller holds mu.
func (b *Backend) received(c *conn, f *linkv1.Frame) {
	defer b.notify()
	_, isHello := f.GetKind().(*linkv1.Frame_Hello)
	if c.phase == waiting && !isHello && f.GetKind() != nil {
		b.breach(c, linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION, "the first frame is %s; it must be hello, and nothing may follow before welcome", kindOf(f))
		return
	}
	switch kind := f.GetKind().(type) {
	case *linkv1.Frame_Hello:
		if c.phase != waiting {
			b.breach(c, linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION, "hello came twice over one connection")
			return
		}
		b.greet(c, kind.Hello)
	case *linkv1.Frame_Request:
		b.request(c, kind.Request)
	case *linkv1.Frame_Ack:
		b.acked(c, kind.Ack)
	case *linkv1.Frame_Message:
		b.said(c, kind.Message)
	case nil: // of a later version
	default:
		b.breach(c, linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION, "the server sent %s, which only the gateway sends", kindOf(f))
	}
}

func kindOf(f *linkv1.Frame) string {
	m := f.ProtoReflect()
	if fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind")); fd != nil {
		return string(fd.Name())
	}
	return "a frame of no kind"
}

// breach fails the test and ends the connection. The caller holds mu.
func (b *Backend) breach(c *conn, code linkv1.CloseCode, format string, args ...any) {
	b.violation("connection %d: "+format, append([]any{c.n}, args...)...)
	c.bye(code, sprintf(format, args...))
}

// greet answers hello. The caller holds mu.
func (b *Backend) greet(c *conn, h *linkv1.Hello) {
	c.hello.Stop()
	s, m := &b.session, b.match
	if m.taken != "" {
		c.bye(linkv1.CloseCode_CLOSE_CODE_SUPERSEDED, m.taken)
		return
	}
	knows := h.GetResumeKey() != "" && h.GetResumeKey() == s.resumeKey
	same := knows || s.nonce != "" && h.GetNonce() == s.nonce
	if s.conn != nil && !same {
		c.bye(linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE, "another connection uses these tokens, and hello has neither its resume key nor its nonce")
		return
	}
	if s.conn != nil {
		s.conn.bye(linkv1.CloseCode_CLOSE_CODE_REPLACED, "the session has a newer connection")
	}
	if !same {
		if h.GetResumeKey() != "" && s.id != "" {
			b.violation("hello has a resume key that is not that of the last welcome, and another nonce than before")
		}
		s.id, s.done, s.said, s.top = newID(), make(map[int64]*answered), 0, 0
	}
	s.resumeKey, s.nonce, s.conn, s.left = "resume-"+rand.Text(), h.GetNonce(), c, false
	w := &linkv1.Welcome{
		SessionId: s.id, ResumeKey: s.resumeKey, GameHandle: c.game, SocialHandle: c.social,
		Limits: &linkv1.Limits{MaxFrameBytes: maxFrame, MaxInFlight: maxInFlight}, Heartbeat: durationpb.New(b.cfg.Heartbeat),
	}
	c.phase = open
	for _, in := range h.GetInstances() {
		switch {
		case b.resume(c, in, knows):
			w.Instances = append(w.Instances, &linkv1.ResumedInstance{InstanceId: in.GetInstanceId(), LinkEpoch: m.epoch})
		case m.rolledBack(in):
			w.RolledBackInstanceIds = append(w.RolledBackInstanceIds, in.GetInstanceId())
		}
	}
	c.send(&linkv1.Frame{Kind: &linkv1.Frame_Welcome{Welcome: w}})
	if c.linked {
		c.deliver(m.mailbox...)
	}
}

// resume lets the instance go on over a new connection, and reports whether it does. The caller holds mu.
func (b *Backend) resume(c *conn, in *linkv1.HelloInstance, knows bool) bool {
	m := b.match
	switch {
	case in.GetInstanceId() != m.in.GetId():
		b.violation("hello names the instance %q, which is not this server's", in.GetInstanceId())
		return false
	case m.lost || !m.made || b.faults.forgetLink || !m.linked:
		b.faults.forgetLink, m.linked = false, false
		return false
	case in.GetLinkEpoch() < 1 || in.GetLinkEpoch() > m.epoch:
		b.violation("hello names the link epoch %d, which no answer and no welcome has given; the last was %d", in.GetLinkEpoch(), m.epoch)
		return false
	case in.GetLastOffset() > m.sent:
		b.violation("hello acknowledges the offset %d, and no notification above %d was sent", in.GetLastOffset(), m.sent)
		return false
	case in.GetRevision() > max(m.told, m.in.GetRevision()):
		b.violation("hello knows of revision %d, and there is none above %d", in.GetRevision(), max(m.told, m.in.GetRevision()))
		return false
	case in.GetLastRequest() > b.session.top:
		b.violation("hello says that request %d was answered with a result since the link, and none above %d was", in.GetLastRequest(), b.session.top)
		return false
	case !knows:
		return false
	case m.rolledBack(in):
		return false
	}
	m.loss = nil // it has nothing to do with this server
	m.epoch++
	m.trim(in.GetLastOffset())
	c.linked = true
	return true
}

// deliver sends notifications. The caller holds the backend's mu.
func (c *conn) deliver(notifications ...*linkv1.Notification) {
	for _, n := range notifications {
		c.send(&linkv1.Frame{Kind: &linkv1.Frame_Notification{Notification: n}})
		c.b.match.sent = max(c.b.match.sent, n.GetOffset())
	}
}

// acked takes an acknowledgement. The caller holds mu.
func (b *Backend) acked(c *conn, a *linkv1.Ack) {
	m := b.match
	switch {
	case a.GetInstanceId() != m.in.GetId():
		b.violation("an ack names the instance %q, which is not this server's", a.GetInstanceId())
	case !c.linked: // late, for a link that was lost
	case a.GetOffset() > m.sent:
		b.violation("the server acknowledges the offset %d, and no notification above %d was sent", a.GetOffset(), m.sent)
	default:
		m.trim(a.GetOffset())
	}
}

// disconnected takes note of the end of a connection. The caller holds mu.
func (b *Backend) disconnected(c *conn) {
	s := &b.session
	if s.conn == c {
		s.conn = nil
		if c.move != nil && c.closed == websocket.StatusNormalClosure && !b.match.finished() {
			b.violation("the server was asked to move, and left before it had resumed over another connection")
		}
	}
	if c.closed != websocket.StatusNormalClosure || c.unwelcome != "" {
		return
	}
	if s.conn != nil || c.phase == waiting {
		return // it has moved
	}
	s.left = true
	if !b.cfg.Strict {
		return
	}
	if !b.match.finished() {
		b.violation("the server closed with 1000 without having ended the game (EndGameInstance) or given it up (UnlinkGameInstance)")
	}
	if unacked := b.unacknowledged(); c.linked && len(unacked) > 0 {
		b.violation("the server closed with 1000 and has not acknowledged the notifications %v, which were sent to it", unacked)
	}
}

// unacknowledged returns the offsets of the notifications that were sent and not acknowledged. The caller holds mu.
func (b *Backend) unacknowledged() []int64 {
	var offsets []int64
	if b.match.taken == "" {
		for _, n := range b.match.mailbox {
			if n.GetOffset() <= b.match.sent {
				offsets = append(offsets, n.GetOffset())
			}
		}
	}
	slices.Sort(offsets)
	return offsets
}
