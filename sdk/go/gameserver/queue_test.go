package gameserver_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// Calls that wait for a connection are bounded, by number and by bytes. One more waits for room, or fails, as the game has chosen.
func TestTheQueueIsBounded(t *testing.T) {
	big := &typev1.Data{Kind: &typev1.Data_Binary{Binary: make([]byte, 600)}}
	for name, policy := range map[string]gameserver.QueuePolicy{
		"by number": {MaxCalls: 2},
		"by bytes":  {MaxBytes: 1500},
	} {
		for _, full := range []gameserver.WhenFull{gameserver.Block, gameserver.Fail} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					policy.WhenFull = full
					g := newBubbleGateway(t)
					s, p := g.connect(nil, gameserver.WithQueue(policy))
					update := func() error { return s.UpdateGameData(t.Context(), big) }
					calls := []<-chan error{async(update), async(update)}
					synctest.Wait() // both have been taken in
					if full == gameserver.Fail {
						if err := update(); !errors.Is(err, gameserver.ErrQueueFull) {
							t.Errorf("one more: %v", err)
						}
					} else {
						ctx, cancel := context.WithCancel(t.Context())
						third := async(func() error { return s.UpdateGameData(ctx, big) })
						calls = append(calls, async(update))
						synctest.Wait() // neither has gone out
						cancel()
						if err := <-third; !errors.Is(err, context.Canceled) {
							t.Errorf("one that is called off: %v", err)
						}
					}
					if sent := len(p.frames); sent != 2 {
						t.Errorf("%d calls have gone out, want 2", sent)
					}
					for range calls {
						p.reply(p.request("UpdateGameData"), new(gameserverv1.UpdateGameDataResponse))
					}
					for _, call := range calls {
						if err := <-call; err != nil {
							t.Error(err)
						}
					}
				})
			})
		}
	}
}

// A call that is larger than the bound is made when no other waits.
func TestALargeCallFitsIntoAnEmptyQueue(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil, gameserver.WithQueue(gameserver.QueuePolicy{MaxBytes: 1, WhenFull: gameserver.Fail}))
	stillWorks(t, s, p)
	call := async(func() error { return s.RemovePlayers(t.Context(), "somebody") })
	p.reply(p.request("RemovePlayers"), new(gameserverv1.RemovePlayersResponse))
	if err := receive(t, call, "the answer"); err != nil {
		t.Error(err)
	}
}

func TestQueuePoliciesThatMakeNoSense(t *testing.T) {
	g := newGateway(t)
	for _, policy := range []gameserver.QueuePolicy{{MaxCalls: -1}, {MaxBytes: -1}, {WhenFull: 7}} {
		_, err := gameserver.Connect(t.Context(), gameserver.WithBootstrap(g.bootstrap()), gameserver.WithQueue(policy))
		if err == nil {
			t.Errorf("%+v is taken", policy)
		}
	}
}
