package gameservertest

import (
	"slices"
	"strings"
	"time"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// gapBetween offsets: they grow with gaps, and a server that counts is to be found out.
	gapBetween = 7
	maxPlayers = 1000
	maxMailbox = 256 // messages that wait for the backends
)

// match is the instance, and Berth's rules for it. It is guarded by the backend's mu.
type match struct {
	in      *instancev1.GameInstance
	linked  bool
	epoch   int64
	offset  int64                  // of the last notification
	floor   int64                  // the offset that the link's start data stands for
	sent    int64                  // the highest offset that was sent
	mailbox []*linkv1.Notification // what is not acknowledged
	last    *linkv1.Notification   // the newest that was made
	posted  []Message              // durable messages of the server
	taken   string                 // why the instance is not this server's any more
	folding bool                   // changes are not told one by one
	loss    *loss                  // the store has lost writes, and the instance was not linked since
	told    int64                  // the highest revision before the store lost it; none comes twice

	made   bool   // there is an instance
	madeBy string // the request id with which the server made it
	madeAs int64  // the number of that request
	lost   bool   // the store has forgotten it
}

func newMatch(cfg Config) *match {
	now := time.Now()
	in := &instancev1.GameInstance{
		Namespace: "default", Id: newID(), Revision: 1, State: instancev1.GameInstance_STATE_ALLOCATED, GameData: proto.CloneOf(cfg.GameData),
		Settings: proto.CloneOf(cfg.Settings), Labels: cfg.Labels, CreateTime: stamp(now), UpdateTime: stamp(now),
	}
	for _, e := range cfg.Endpoints {
		protocol := typev1.Protocol_PROTOCOL_TCP
		if e.Protocol == "udp" {
			protocol = typev1.Protocol_PROTOCOL_UDP
		}
		in.Endpoints = append(in.Endpoints, &typev1.Endpoint{Name: e.Name, Host: e.Host, Port: uint32(e.Port), Protocol: protocol})
	}
	for _, p := range cfg.Players {
		in.Players = append(in.Players, newPlayer(p))
	}
	in.PlayerCount = int32(len(in.GetPlayers())) //nolint:gosec // at most a thousand
	return &match{in: in, epoch: 100, offset: 1000, made: !cfg.Registered}
}

func newPlayer(p *instancev1.Player) *instancev1.Player {
	p = proto.CloneOf(p)
	p.AddTime, p.Connectable, p.Presence = stamp(time.Now()), false, instancev1.Player_PRESENCE_UNSPECIFIED
	return p
}

// stamp returns a time as Berth keeps it, to the microsecond.
func stamp(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t.Truncate(time.Microsecond)) }

func (m *match) final() bool {
	return m.in.GetState() == instancev1.GameInstance_STATE_ENDED || m.in.GetState() == instancev1.GameInstance_STATE_TERMINATED
}

// finished reports whether the server has nothing to do with the instance any more.
func (m *match) finished() bool { return !m.made || m.final() || m.taken != "" || m.lost }

func (m *match) stateName() string { return strings.TrimPrefix(m.in.GetState().String(), "STATE_") }

// player returns nil for somebody who is not in the instance.
func (m *match) player(id string) *instancev1.Player {
	if i := slices.IndexFunc(m.in.GetPlayers(), func(p *instancev1.Player) bool { return p.GetId() == id }); i >= 0 {
		return m.in.GetPlayers()[i]
	}
	return nil
}

// start begins a link. Its start data stands for all that is in the mailbox, but for the messages, which come again.
func (m *match) start() {
	if m.in.GetState() != instancev1.GameInstance_STATE_RUNNING {
		m.in.State = instancev1.GameInstance_STATE_LINKED
	}
	m.touch()
	m.floor, m.sent = m.offset, max(m.sent, m.offset)
	kept := m.mailbox
	m.mailbox = nil
	for _, n := range kept {
		if n.GetEvent().GetMessage() != nil {
			m.tell(n.GetEvent())
		}
	}
}

// tell puts something into the mailbox and returns it.
func (m *match) tell(e *gameserverv1.InstanceEvent) *linkv1.Notification {
	n := &linkv1.Notification{InstanceId: m.in.GetId(), Offset: m.offset + gapBetween, Previous: m.offset, Event: proto.CloneOf(e)}
	m.offset, m.last = n.GetOffset(), n
	if m.loss != nil {
		m.loss.offset = m.offset
	}
	m.mailbox = append(m.mailbox, n)
	return n
}

// trim drops what was acknowledged.
func (m *match) trim(offset int64) {
	m.mailbox = slices.DeleteFunc(m.mailbox, func(n *linkv1.Notification) bool { return n.GetOffset() <= offset })
}

// touch notes a change and returns the revision that it made.
func (m *match) touch() int64 {
	m.in.Revision = max(m.told, m.in.GetRevision()) + 1
	m.in.UpdateTime = stamp(time.Now())
	m.in.PlayerCount = int32(len(m.in.GetPlayers())) //nolint:gosec // at most a thousand
	return m.in.GetRevision()
}

// change makes a change to the instance, all of it or nothing.
func (m *match) change(f func() *linkv1.Error) *linkv1.Error {
	before := proto.CloneOf(m.in)
	if refused := f(); refused != nil {
		m.in = before
		return refused
	}
	m.touch()
	return nil
}

func (m *match) live() *linkv1.Error {
	if !m.made {
		return refusal(reasonInstanceUnknown, "the server has not made its instance yet")
	}
	if m.final() {
		return refusal(reasonStateNotAllowed, "the instance is %s; nothing can change it any more", m.stateName())
	}
	return nil
}

func (m *match) expects(revision int64) *linkv1.Error {
	if revision != 0 && revision != m.in.GetRevision() {
		return refusal(reasonRevisionMismatch, "expected_revision: the instance is not at %d any more", revision)
	}
	return nil
}

func unknownPlayer(id string) *linkv1.Error {
	return refusal(reasonPlayerUnknown, "player %q is not in the instance", id)
}
