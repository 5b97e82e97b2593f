package gameserver_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

func TestCreate(t *testing.T) {
	g := newGateway(t)
	doc := g.bootstrap()
	doc.Instance = ""
	public := &typev1.Endpoint{Name: "game", Host: "198.51.100.7", Port: 9, Protocol: typev1.Protocol_PROTOCOL_UDP}
	h, p := g.openWith([]gameserver.Option{gameserver.WithBootstrap(doc), gameserver.WithEndpoints(public), gameserver.WithVersion("arena 1")})
	req := &gameserverv1.CreateAndLinkRequest{Players: []*instancev1.Player{{Id: "ann"}}, Labels: map[string]string{"mode": "duel"}}
	var s *gameserver.Server
	create := async(func() (err error) { s, err = h.Create(t.Context(), req); return err })
	r := p.requestFor("", 0, "CreateAndLink")
	sent := new(gameserverv1.CreateAndLinkRequest)
	if err := proto.Unmarshal(r.GetPayload(), sent); err != nil {
		t.Fatal(err)
	}
	want := proto.CloneOf(req)
	want.RequestId, want.Endpoints, want.ServerVersion = sent.GetRequestId(), []*typev1.Endpoint{public}, "arena 1"
	if r.GetLastRequest() != 0 || len(sent.GetRequestId()) < 16 || !proto.Equal(sent, want) {
		t.Errorf("Create sent %v with %v", r, sent)
	}
	if req.GetRequestId() != "" {
		t.Error("Create changed its caller's message")
	}
	p.reply(r, created("a", 7))
	p.notifyOf("a", 71, 70, playersAdded("bob")) // right behind the answer
	if err := receive(t, create, "the answer"); err != nil {
		t.Fatal(err)
	}
	if in := s.Instance(); in.GetId() != "a" || in.GetState() != instancev1.GameInstance_STATE_LINKED {
		t.Errorf("created %v", in)
	}
	receive(t, s.Events(), "an event")
	p.wantAckOf("a", 71)
	p.works(s, 7, 10)
	wantNoOffer(t, h)

	// The same request again is the same instance.
	var again *gameserver.Server
	create = async(func() (err error) { again, err = h.Create(t.Context(), sent); return err })
	p.reply(p.requestFor("", 0, "CreateAndLink"), created("a", 7))
	if err := receive(t, create, "the answer"); err != nil || again != s {
		t.Errorf("created %v, %v", again, err)
	}
	if r := p.works(s, 7, 11); r.GetLastRequest() == 0 {
		t.Errorf("the link was begun anew: %v", r)
	}
}

// The answer to Create is lost, and Berth assigns the instance, which exists. It is for whoever called Create.
func TestCreateWhoseAnswerIsLost(t *testing.T) {
	g := newGateway(t)
	h, p := g.open()
	var s *gameserver.Server
	create := async(func() (err error) { s, err = h.Create(t.Context(), nil); return err })
	first := p.requestFor("", 0, "CreateAndLink")
	p.cut()
	p, _ = g.again()
	p.welcome("2", assigned("a", "b"))
	again := p.requestFor("", 0, "CreateAndLink")
	if again.GetId() != first.GetId() || !bytes.Equal(again.GetPayload(), first.GetPayload()) {
		t.Errorf("sent %v, then %v", first, again)
	}
	// Another Create, later than the assignments, does not hold them up.
	later := async(func() error { _, err := h.Create(t.Context(), nil); return err })
	laterOpen := p.requestFor("", 0, "CreateAndLink")
	p.fail(again, &linkv1.Error{Code: int32(codes.Unavailable), Reason: "STORE_UNAVAILABLE"}) // still open
	again = p.requestFor("", 0, "CreateAndLink")
	p.assign("a")
	p.reply(again, created("a", 1))
	if err := receive(t, create, "the answer"); err != nil || s.Instance().GetId() != "a" {
		t.Fatalf("created %v, %v", s, err)
	}
	p.reply(p.requestFor("b", 0, "Link"), startOf("b", 2)) // b is somebody else's, and a is not linked once more
	p.works(accept(t, h), 2, 10)
	p.works(s, 1, 10)
	p.reply(laterOpen, created("c", 3))
	if err := receive(t, later, "the answer"); err != nil {
		t.Error(err)
	}
	wantNoOffer(t, h)
}

// Whoever called Create has given up, but the instance was made: it must not be lost.
func TestAnAbandonedCreateIsAccepted(t *testing.T) {
	g := newGateway(t)
	h, p := g.open()
	ctx, cancel := context.WithCancel(t.Context())
	create := async(func() error { _, err := h.Create(ctx, nil); return err })
	r := p.requestFor("", 0, "CreateAndLink")
	cancel()
	if err := receive(t, create, "Create's end"); !errors.Is(err, context.Canceled) {
		t.Errorf("Create failed with %v", err)
	}
	p.reply(r, created("a", 1))
	p.works(accept(t, h), 1, 10)
}

func TestCreateIsRefused(t *testing.T) {
	g := newGateway(t)
	h, p := g.open()
	create := async(func() error { _, err := h.Create(t.Context(), nil); return err })
	p.fail(p.requestFor("", 0, "CreateAndLink"), &linkv1.Error{Code: int32(codes.ResourceExhausted), Reason: "GAME_SERVER_FULL"})
	var refused *gameserver.Error
	if err := receive(t, create, "the refusal"); !errors.As(err, &refused) || refused.Reason != "GAME_SERVER_FULL" {
		t.Errorf("got %v", err)
	}
	big := &gameserverv1.CreateAndLinkRequest{GameData: &typev1.Data{Kind: &typev1.Data_Binary{Binary: make([]byte, 2<<20)}}}
	if _, err := h.Create(t.Context(), big); !errors.As(err, &refused) || refused.Reason != "LIMIT_EXCEEDED" {
		t.Errorf("got %v", err)
	}
	create = async(func() error { _, err := h.Create(t.Context(), nil); return err })
	p.reply(p.requestFor("", 0, "CreateAndLink"), new(gameserverv1.CreateAndLinkResponse)) // an instance without an id
	if err := receive(t, create, "the failure"); !errors.As(err, &refused) || refused.Reason != "MALFORMED" {
		t.Errorf("got %v", err)
	}
	p.assign("a") // nothing is held up
	p.reply(p.requestFor("a", 0, "Link"), startOf("a", 1))
	p.works(accept(t, h), 1, 10)
}
