package gameservertest

import (
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/protobuf/proto"
)

// create makes the instance of a registered server and links it. Made again under the same request id, it is only linked. The caller holds mu.
func (b *Backend) create(c *conn, r *linkv1.Request, q *gameserverv1.CreateAndLinkRequest) (proto.Message, *linkv1.Error) {
	m := b.match
	if r.GetInstanceId() != "" || r.GetLinkEpoch() != 0 {
		b.violation("request %d (%s) is about no instance yet: its frame has neither instance_id nor link_epoch", r.GetId(), methodCreate)
	}
	switch {
	case !b.cfg.Registered:
		return nil, refusal(reasonGameServer, "this server is not registered")
	case m.made && (q.GetRequestId() == "" || q.GetRequestId() != m.madeBy) && r.GetId() != m.madeAs:
		return nil, refusal(reasonFull, "the server has room for one instance, and has had it")
	case !m.made:
		if refused := b.fill(q); refused != nil {
			return nil, refused
		}
		m.made, m.madeBy, m.madeAs = true, q.GetRequestId(), r.GetId()
	}
	if c.linked { // it stays as it is
		return &gameserverv1.CreateAndLinkResponse{Instance: proto.CloneOf(m.in), LinkEpoch: m.epoch, Offset: m.floor}, nil
	}
	linked, refused := b.link(c)
	if refused != nil {
		return nil, refused
	}
	return &gameserverv1.CreateAndLinkResponse{Instance: linked.GetInstance(), LinkEpoch: linked.GetLinkEpoch(), Offset: linked.GetOffset()}, nil
}

// fill gives the instance what the request says. The caller holds mu.
func (b *Backend) fill(q *gameserverv1.CreateAndLinkRequest) *linkv1.Error {
	in := b.match.in
	if refused := validate(q); refused != nil {
		return refused
	}
	in.Players, in.GameData, in.Settings, in.Labels = nil, proto.CloneOf(q.GetGameData()), proto.CloneOf(q.GetSettings()), q.GetLabels()
	if len(q.GetEndpoints()) > 0 {
		in.Endpoints = q.GetEndpoints()
	}
	for _, p := range q.GetPlayers() {
		in.Players = append(in.Players, newPlayer(p))
	}
	in.State = instancev1.GameInstance_STATE_ALLOCATED
	return nil
}
