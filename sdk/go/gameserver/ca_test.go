package gameserver_test

import (
	"context"
	"encoding/pem"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver"
)

// A gateway whose certificate nobody signed but an authority of its operator's own is known by the document, for all that is asked of it, and by nothing else.
func TestTheDocumentSaysWhoseCertificateIsGood(t *testing.T) {
	g := newGatewayWith(t, nil, (*httptest.Server).StartTLS)
	g.srv.Config.ErrorLog = nil
	_, answer := g.claimed(time.Hour)
	asked := g.claimAnswers(answer)
	doc := g.bootstrap()
	doc.Game, doc.Social, doc.Claim = "", "", "CLAIM-CODE"
	doc.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.srv.Certificate().Raw}))
	unknown := *doc
	unknown.CA = ""

	c := g.connecting(gameserver.WithBootstrap(doc))
	p := g.accept()
	p.hello()
	p.welcome("1")
	p.reply(p.request("Link"), startData("ann"))
	s := c.server()
	if _, err := s.VerifyTicket(t.Context(), g.ticket("ann", nil)); err != nil || asked.Load() != 1 {
		t.Errorf("asked %d times; the keys: %v", asked.Load(), err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := gameserver.Connect(ctx, gameserver.WithBootstrap(&unknown)); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the authority: %v", err)
	}
	if _, err := gameserver.Connect(ctx, gameserver.WithBootstrap(&bootstrap.Document{CA: "x"})); err == nil || !strings.Contains(err.Error(), "ca has no certificate") {
		t.Errorf("with none in it: %v", err)
	}
	if asked.Load() != 1 {
		t.Error("a code was shown to a gateway that nobody vouches for")
	}
}
