package gameserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
)

// inPool is a document for a pool.
func (g *gateway) inPool() gameserver.Option {
	doc := g.bootstrap()
	doc.Game, doc.Social, doc.Server, doc.Instance = "", "", "", ""
	doc.Pool = &bootstrap.Pool{
		Name: "metal", Server: "rack-7", Key: "POOL-KEY", Builds: []string{"b"}, Region: "eu", Capacity: 2,
		Endpoints: []bootstrap.Endpoint{{Name: "game", Host: "h", Port: 7, Protocol: "udp"}},
	}
	return gameserver.WithBootstrap(doc)
}

// joinAnswers answers who joins with these in turn, the last one again and again, and returns a count of them.
func (g *gateway) joinAnswers(answers ...*refusal) *atomic.Int32 {
	asked := new(atomic.Int32)
	g.joins = func(w http.ResponseWriter, r *http.Request) {
		n := int(asked.Add(1))
		body, err := io.ReadAll(r.Body)
		if err != nil {
			g.t.Error(err)
		}
		req := new(gameserverv1.JoinPoolRequest)
		if err := protojson.Unmarshal(body, req); err != nil || req.GetName() != "rack-7" || req.GetCapacity() != 2 || req.GetRegion() != "eu" || len(req.GetBuilds()) != 1 ||
			req.GetEndpoints()[0].GetPort() != 7 || r.Header.Get("Authorization") != "Bearer POOL-KEY" || r.Header.Get("Berth-Social-Token") != "" {
			g.t.Errorf("joined with %v, %v", req, err)
		}
		a := answers[min(n, len(answers))-1]
		w.WriteHeader(a.status)
		_, _ = fmt.Fprint(w, a.body)
	}
	return asked
}

func (g *gateway) joined() *refusal {
	p := g.pair(time.Hour)
	return berthAnswers(g.t, &gameserverv1.JoinPoolResponse{
		Server: &gameserverv1.GameServer{Id: "server-1"}, GameToken: p.GetGameToken(), SocialToken: p.GetSocialToken(), ExpireTime: p.GetExpireTime(),
	})
}

// A server of a pool joins, connects and is given instances; when it was away for too long it joins again.
func TestAServerJoinsItsPool(t *testing.T) {
	g := newGateway(t)
	asked := g.joinAnswers(&refusal{status: http.StatusServiceUnavailable, body: "{}"}, g.joined())
	h, p := g.openWith([]gameserver.Option{g.inPool()}, assigned(instanceID))
	if asked.Load() != 2 || h.ID() != "server-1" {
		t.Errorf("joined %d times, as %q", asked.Load(), h.ID())
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	link := p.requestFor(instanceID, 0, "Link")
	p.reply(link, startData())
	if s, err := h.Accept(ctx); err != nil || s == nil {
		t.Fatalf("%v, %v", s, err)
	}
	p.cut()
	p = g.accept()
	if hello := p.hello(); hello.GetPool() != "metal" || len(hello.GetInstances()) != 1 { // or nobody could tell it that it is in none
		t.Errorf("it says %v", hello)
	}
	p.bye(linkv1.CloseCode_CLOSE_CODE_UNAUTHENTICATED, true) // it has left the pool
	p, _ = g.again(instanceID)
	if asked.Load() != 3 {
		t.Errorf("joined %d times", asked.Load())
	}
	p.welcome("2", resumed(101))
}

// A key that Berth does not know will not do later either.
func TestAPoolThatRefusesTheKey(t *testing.T) {
	g := newGateway(t)
	asked := g.joinAnswers(berthSays(http.StatusUnauthorized, codes.Unauthenticated, "CREDENTIALS_INVALID"))
	_, err := gameserver.Open(t.Context(), g.inPool())
	var refused *gameserver.Error
	if !errors.As(err, &refused) || refused.Reason != "CREDENTIALS_INVALID" || asked.Load() != 1 {
		t.Errorf("%v, after %d", err, asked.Load())
	}
}

// Whoever has a match when its pool does not let it in any more plays it to its end, and tries again meanwhile.
func TestAServerWithAMatchIsNotEndedByItsPool(t *testing.T) {
	g := newGateway(t)
	asked := g.joinAnswers(g.joined(), berthSays(http.StatusUnauthorized, codes.Unauthenticated, "CREDENTIALS_INVALID"), g.joined())
	h, p := g.openWith([]gameserver.Option{g.inPool()}, assigned(instanceID))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p.reply(p.requestFor(instanceID, 0, "Link"), startData())
	if s, err := h.Accept(ctx); err != nil || s == nil {
		t.Fatalf("%v, %v", s, err)
	}
	p.cut()
	for range 2 {
		p, _ = g.again(instanceID)
		p.bye(linkv1.CloseCode_CLOSE_CODE_UNAUTHENTICATED, true)
	}
	p, _ = g.again(instanceID)
	p.welcome("2", resumed(101))
	if err := h.Err(); err != nil || asked.Load() != 3 {
		t.Errorf("after joining %d times: %v", asked.Load(), err)
	}
}
