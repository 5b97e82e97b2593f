package gameserver_test

import (
	"bytes"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
)

// tooFast is the refusal of a request that may come again after so long.
func tooFast(after time.Duration) *linkv1.Error {
	return &linkv1.Error{Code: int32(codes.ResourceExhausted), Reason: "RATE_LIMITED", Message: "too many requests over the link", RetryAfter: durationpb.New(after)}
}

// A write that came too fast is made again under its number, and none that follows is lost meanwhile.
func TestACallThatCameTooFastIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newBubbleGateway(t)
		s, p := g.connectWith(g.pair(time.Hour))
		calls := []<-chan error{async(func() error { return s.UpdateGameData(t.Context(), data(t, map[string]any{"score": 1})) })}
		first := p.request("UpdateGameData")
		p.fail(first, tooFast(3*time.Second))
		calls = append(calls, async(func() error { return s.ConnectPlayers(t.Context()) }))
		p.reply(p.request("ConnectPlayers"), new(gameserverv1.ConnectPlayersResponse))
		p.quiet(3*time.Second - time.Nanosecond)
		again := p.request("UpdateGameData")
		if again.GetId() != first.GetId() || !bytes.Equal(again.GetPayload(), first.GetPayload()) {
			t.Errorf("sent %v, then %v", first, again)
		}
		p.fail(again, tooFast(time.Second)) // as often as it takes
		p.quiet(time.Second - time.Nanosecond)
		p.reply(p.request("UpdateGameData"), &gameserverv1.UpdateGameDataResponse{Revision: 9})
		for _, call := range calls {
			if err := receive(t, call, "the answer"); err != nil {
				t.Error(err)
			}
		}
		if s.Instance().GetRevision() != 9 {
			t.Errorf("the instance is %v", s.Instance())
		}
	})
}

// Another connection would only be one more thing that comes too fast.
func TestALinkThatCameTooFastIsMadeAgainOverItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newBubbleGateway(t)
		c := g.connecting()
		p := g.accept()
		p.hello()
		p.welcome("1", calm)
		first := p.request("Link")
		p.fail(first, tooFast(2*time.Second))
		p.quiet(2*time.Second - time.Nanosecond)
		again := p.request("Link")
		if again.GetId() != first.GetId() {
			t.Errorf("number %d, then %d", first.GetId(), again.GetId())
		}
		p.reply(again, startData())
		c.server()
	})
}

// When a gateway is lost, all its servers come to another, and those that it cannot take are told the same time: they must not come back at once.
func TestAnUpgradeThatCameTooFastIsTriedAgainAtATimeOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newBubbleGateway(t)
		_, p := g.connectWith(g.pair(time.Hour))
		const wait = 8 * time.Second
		g.refusal.Store(&refusal{status: http.StatusTooManyRequests, retryAfter: "8", body: `{"code":8,"reason":"RATE_LIMITED","message":"too many"}`})
		p.cut()
		receive(t, g.refused, "a try")
		var shortest, longest time.Duration
		for n := range 20 {
			began := time.Now()
			select {
			case <-g.refused:
			case <-time.After(time.Minute):
				t.Fatal("it gave up")
			}
			took := time.Since(began)
			if took < wait || took > wait+wait/2+5*time.Second {
				t.Errorf("the next try came after %v", took)
			}
			if n > 6 { // the wait of its own has grown to its longest, and varies by half of that
				if shortest == 0 || took < shortest {
					shortest = took
				}
				longest = max(longest, took)
			}
		}
		if own := 2500 * time.Millisecond; longest-shortest < own {
			t.Errorf("the tries came after %v to %v", shortest, longest)
		}
		g.refusal.Store(nil)
		select {
		case <-g.peers:
		case <-time.After(time.Minute):
			t.Error("it does not come back")
		}
	})
}
