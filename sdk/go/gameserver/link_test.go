package gameserver_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestMain(m *testing.M) {
	listenInMemory()
	playBerth()
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

func TestConnect(t *testing.T) {
	g := newGateway(t)
	public := &typev1.Endpoint{Name: "game", Host: "198.51.100.7", Port: 9, Protocol: typev1.Protocol_PROTOCOL_UDP}
	c := g.connecting(gameserver.WithEndpoints(public), gameserver.WithVersion("arena 1"))
	p := g.accept()
	if game, social := p.header.Get("Authorization"), p.header.Get("Berth-Social-Token"); game != "Bearer GAME-TOKEN" || social != "SOCIAL-TOKEN" {
		t.Errorf("the upgrade carries %q and %q", game, social)
	}
	if h := p.hello(); h.GetResumeKey() != "" || len(h.GetInstances()) != 0 {
		t.Errorf("the first Hello is %v", h)
	}
	p.welcome("1")
	r := p.request("Link")
	link := new(gameserverv1.LinkRequest)
	if err := proto.Unmarshal(r.GetPayload(), link); err != nil {
		t.Fatal(err)
	}
	if r.GetId() != 1 || !proto.Equal(link.GetEndpoints()[0], public) || link.GetServerVersion() != "arena 1" {
		t.Errorf("Link is number %d: %v", r.GetId(), link)
	}
	p.reply(r, startData("ann", "bob"))

	s := c.server()
	if got := s.Instance().GetPlayers(); len(got) != 2 || got[0].GetId() != "ann" {
		t.Errorf("players are %v", got)
	}
	s.Instance().Players = nil
	if len(s.Instance().GetPlayers()) != 2 {
		t.Error("Instance returned no copy")
	}
	if e := s.Endpoints(); len(e) != 1 || e[0].GetPort() != 7777 || e[0].GetProtocol() != typev1.Protocol_PROTOCOL_TCP {
		t.Errorf("endpoints are %v, want those of the bootstrap document", e)
	}
}

func TestReconnectResumesAndResends(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect([]string{"ann"})

	calls := []<-chan error{async(func() error { return s.ConnectPlayers(t.Context(), "ann") })}
	first := p.request("ConnectPlayers")
	calls = append(calls, async(func() error { return s.RemovePlayers(t.Context(), "ann") }))
	second := p.request("RemovePlayers")
	if first.GetId() != 2 || second.GetId() != 3 {
		t.Errorf("requests have numbers %d and %d, want 2 and 3", first.GetId(), second.GetId())
	}
	p.cut() // neither is answered

	p = g.accept()
	h := p.hello()
	want := &linkv1.HelloInstance{InstanceId: instanceID, LastOffset: 1000, LinkEpoch: 100}
	if h.GetResumeKey() != "RESUME-KEY" || len(h.GetInstances()) != 1 || !proto.Equal(h.GetInstances()[0], want) {
		t.Errorf("Hello is %v", h)
	}
	p.welcome("2", resumed(101))
	for _, sent := range []*linkv1.Request{first, second} {
		again := p.request(sent.GetMethod()) // checks the new handles and the new epoch
		if again.GetId() != sent.GetId() || !bytes.Equal(again.GetPayload(), sent.GetPayload()) {
			t.Errorf("sent %v, then %v", sent, again)
		}
		p.reply(again, new(gameserverv1.ConnectPlayersResponse))
	}
	for _, call := range calls {
		if err := receive(t, call, "the call's end"); err != nil {
			t.Error(err)
		}
	}
}

func TestReconnectLinksAgainWhereBerthLostTheLink(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect([]string{"ann"})
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	sent := p.request("ConnectPlayers")
	p.cut()

	p = g.accept()
	p.hello()
	p.welcome("2") // without the instance
	link := p.request("Link")
	if link.GetId() <= sent.GetId() {
		t.Errorf("Link has number %d, which is not new", link.GetId())
	}
	start := startData("ann", "bob")
	start.LinkEpoch, start.Offset = 200, 5000
	p.reply(link, start)
	again := p.request("ConnectPlayers") // with the new epoch
	if again.GetId() != sent.GetId() {
		t.Errorf("ConnectPlayers has number %d now and had %d", again.GetId(), sent.GetId())
	}
	p.reply(again, new(gameserverv1.ConnectPlayersResponse))
	if err := receive(t, call, "the call's end"); err != nil {
		t.Error(err)
	}
	e, ok := receive(t, s.Events(), "an event").(gameserver.Relinked)
	if !ok || len(e.Instance.GetPlayers()) != 2 {
		t.Errorf("got %v, want Relinked with two players", e)
	}
	// The sequence goes on after the new offset.
	p.notify(5001, 5000, playersAdded("cid"))
	receive(t, s.Events(), "an event")
	p.wantAck(5001)
}

func TestConnectRepeatsLinkUnderItsNumber(t *testing.T) {
	g := newGateway(t)
	c := g.connecting()
	p := g.accept()
	p.hello()
	p.welcome("1")
	sent := p.request("Link")
	p.cut()
	p = g.accept()
	if h := p.hello(); h.GetResumeKey() != "RESUME-KEY" || len(h.GetInstances()) != 0 {
		t.Errorf("Hello is %v", h)
	}
	p.welcome("2")
	again := p.request("Link")
	if again.GetId() != sent.GetId() {
		t.Errorf("Link has number %d now and had %d", again.GetId(), sent.GetId())
	}
	p.fail(again, &linkv1.Error{Code: int32(codes.Unavailable), Reason: "STORE_UNAVAILABLE"})
	p = g.accept() // a refusal that passes is no reason to give up
	p.hello()
	p.welcome("3")
	p.reply(p.request("Link"), startData())
	c.server()
}

func TestConnectFailsWhenRefused(t *testing.T) {
	for name, refuse := range map[string]func(*gateway){
		"Link": func(g *gateway) {
			p := g.accept()
			p.hello()
			p.welcome("1")
			p.fail(p.request("Link"), &linkv1.Error{Code: int32(codes.PermissionDenied), Reason: "NOT_ASSIGNED", Message: "no"})
		},
		"401": func(g *gateway) {
			g.refusal.Store(&refusal{status: http.StatusUnauthorized, body: `{"code":16,"reason":"CREDENTIALS_EXPIRED","message":"too late"}`})
		},
		"403": func(g *gateway) {
			g.refusal.Store(&refusal{status: http.StatusForbidden, body: `{"code":7,"reason":"NOT_ASSIGNED","message":"no"}`})
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			if name != "Link" {
				refuse(g)
			}
			c := g.connecting()
			if name == "Link" {
				refuse(g)
			}
			err := receive(t, c.failed, "the failure")
			var refused *gameserver.Error
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want an *Error", err)
			}
			wantCode, wantReason := codes.PermissionDenied, "NOT_ASSIGNED"
			if name == "401" {
				wantCode, wantReason = codes.Unauthenticated, "CREDENTIALS_EXPIRED"
			}
			if refused.Code != wantCode || refused.Reason != wantReason {
				t.Errorf("got %v %s", refused.Code, refused.Reason)
			}
		})
	}
}

func TestConnectKeepsTrying(t *testing.T) {
	g := newGateway(t)
	g.refusal.Store(&refusal{status: http.StatusServiceUnavailable, retryAfter: "0", body: "starting"})
	c := g.connecting()
	for range 3 {
		receive(t, g.refused, "another try")
	}
	g.refusal.Store(nil)
	p := g.accept()
	p.hello()
	p.welcome("1")
	p.reply(p.request("Link"), startData())
	c.server()
}

func TestConnectEndsWithItsContext(t *testing.T) {
	g := newGateway(t)
	g.refusal.Store(&refusal{status: http.StatusServiceUnavailable, body: `{"reason":"SERVICE_UNAVAILABLE","message":"starting"}`})
	ctx, cancel := context.WithCancel(t.Context())
	connect := async(func() error {
		_, err := gameserver.Connect(ctx, gameserver.WithBootstrap(g.bootstrap()))
		return err
	})
	receive(t, g.refused, "a try")
	receive(t, g.refused, "another try") // by now the first has been noted
	cancel()
	err := receive(t, connect, "Connect's end")
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "starting") {
		t.Errorf("got %v, want the context's error and why the last try failed", err)
	}
}

// A connection that broke before its Welcome leaves a session behind that this server has no key to. Its nonce proves that it is the same one.
func TestEveryHelloOfAProcessHasItsNonce(t *testing.T) {
	g := newGateway(t)
	c := g.connecting()
	p := g.accept()
	first := p.hello()
	p.cut()
	p = g.accept()
	if second := p.hello(); len(first.GetNonce()) < 16 || second.GetNonce() != first.GetNonce() || second.GetResumeKey() != "" {
		t.Errorf("hello %v after %v", second, first)
	}
	p.welcome("3")
	p.reply(p.request("Link"), startData())
	c.server()
}

func TestConnectGivesUpWhenCredentialsAreInUse(t *testing.T) {
	g := newGateway(t)
	c := g.connecting()
	p := g.accept()
	p.hello()
	p.bye(linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE, true)
	var closed *gameserver.CloseError
	if err := receive(t, c.failed, "the failure"); !errors.As(err, &closed) || closed.Code != linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE {
		t.Errorf("got %v", err)
	}
}

func TestCloseCodes(t *testing.T) {
	reconnects := map[linkv1.CloseCode]bool{
		linkv1.CloseCode_CLOSE_CODE_GOING_AWAY:         true,
		linkv1.CloseCode_CLOSE_CODE_SLOW_CONSUMER:      true,
		linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE:        true,
		linkv1.CloseCode_CLOSE_CODE_HELLO_TIMEOUT:      true,
		linkv1.CloseCode_CLOSE_CODE_UNSPECIFIED:        true, // stands for a broken connection here
		linkv1.CloseCode_CLOSE_CODE_MALFORMED_FRAME:    false,
		linkv1.CloseCode_CLOSE_CODE_FRAME_TOO_LARGE:    false,
		linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION: false,
		linkv1.CloseCode_CLOSE_CODE_UNAUTHENTICATED:    false,
		linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE: false,
		linkv1.CloseCode_CLOSE_CODE_REPLACED:           false,
		linkv1.CloseCode_CLOSE_CODE_SUPERSEDED:         false,
		linkv1.CloseCode_CLOSE_CODE_TOO_MANY_REQUESTS:  false,
		linkv1.CloseCode_CLOSE_CODE_REVOKED:            false,
	}
	for number, name := range linkv1.CloseCode_name {
		for _, explain := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				code := linkv1.CloseCode(number)
				again, known := reconnects[code]
				if !known {
					t.Fatal("a code of which this test does not know what to do after it")
				}
				g := newGateway(t)
				s, p := g.connect(nil)
				if code == 0 {
					p.cut()
				} else {
					p.bye(code, explain)
				}
				if again {
					g.accept().hello()
					return
				}
				closedSoon(t, s.Done(), "the link's end")
				var closed *gameserver.CloseError
				if !errors.As(s.Err(), &closed) || closed.Code != code {
					t.Errorf("Err is %v", s.Err())
				}
				if err := s.ConnectPlayers(t.Context()); !errors.Is(err, gameserver.ErrClosed) {
					t.Errorf("a call fails with %v, want ErrClosed", err)
				}
			})
		}
	}
}

func TestSilentGatewayIsLeft(t *testing.T) {
	g := newGateway(t)
	c := g.connecting()
	p := g.accept()
	p.hello()
	heartbeat := 200 * time.Millisecond
	p.welcome("1", func(w *linkv1.Welcome) { w.Heartbeat = durationpb.New(heartbeat) })
	p.reply(p.request("Link"), startData())
	s := c.server()

	// Pings are a sign of life: as long as they come, the connection stays.
	for begin := time.Now(); time.Since(begin) < 6*heartbeat; {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := p.conn.Ping(ctx); err != nil {
			t.Fatalf("the server left a live gateway: %v", err)
		}
		cancel()
	}
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	p.reply(p.request("ConnectPlayers"), new(gameserverv1.ConnectPlayersResponse))
	if err := receive(t, call, "the answer"); err != nil {
		t.Fatal(err)
	}
	// Now there are none.
	g.accept().hello()
}

func TestClose(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	p.request("ConnectPlayers")
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	closedSoon(t, p.closed, "the connection's end")
	closedSoon(t, s.Done(), "Done")
	closedSoon(t, s.Events(), "the end of events")
	if s.Err() != nil {
		t.Errorf("Err is %v after Close", s.Err())
	}
	if err := receive(t, call, "the call's end"); !errors.Is(err, gameserver.ErrClosed) {
		t.Errorf("the call failed with %v, want ErrClosed", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Errorf("the second Close: %v", err)
	}
}

func TestCloseWhileDisconnected(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	g.refusal.Store(&refusal{status: http.StatusServiceUnavailable, retryAfter: "20"})
	p.cut()
	receive(t, g.refused, "a try")
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, call, "the call's end"); !errors.Is(err, gameserver.ErrClosed) {
		t.Errorf("the call failed with %v, want ErrClosed", err)
	}
}

// Nothing that is logged, through connect, loss, resume and end, has a secret in it.
func TestLogsHaveNoSecrets(t *testing.T) {
	var out lockedBuffer
	g := newGateway(t)
	log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, p := g.connect([]string{"ann"}, gameserver.WithLogger(log))
	if _, err := s.VerifyTicket(t.Context(), g.ticket("ann", nil)); err != nil {
		t.Fatal(err)
	}
	p.cut()
	p = g.accept()
	p.hello()
	p.welcome("2", resumed(100))
	p.bye(linkv1.CloseCode_CLOSE_CODE_REPLACED, true)
	closedSoon(t, s.Done(), "the link's end")
	if !strings.Contains(out.String(), "REPLACED") {
		t.Errorf("the end was not logged:\n%s", out.String())
	}
	for _, secret := range []string{"TOKEN", "HANDLE", "RESUME-KEY", "eyJ"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%s was logged:\n%s", secret, out.String())
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
