package storm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver"
)

// players are the game servers that hosts start, each for one short match, and what they saw.
type players struct {
	mu      *sync.Mutex
	linked  map[string]int    // servers that opened to players, by instance
	cut     map[string]string // how the servers fared that were released before they heard that their match is over, by instance
	refused *int              // servers that were not let in: their attempt was given up
}

func newPlayers() players {
	return players{mu: new(sync.Mutex), linked: map[string]int{}, cut: map[string]string{}, refused: new(int)}
}

// play is one game server, from its bootstrap document to the end of its match. It stays until it is released.
func (p players) play(ctx context.Context, document []byte) error {
	doc, err := bootstrap.Parse(document)
	if err != nil {
		return err
	}
	server, err := gameserver.Connect(ctx, gameserver.WithBootstrap(doc), gameserver.WithLogger(slog.New(slog.DiscardHandler)))
	if err == nil {
		defer func() { _ = server.Close(context.WithoutCancel(ctx)) }()
		err = server.ConnectPlayers(ctx)
	}
	if err != nil {
		p.mu.Lock()
		*p.refused++
		p.mu.Unlock()
		return err
	}
	p.mu.Lock()
	p.linked[doc.Instance]++
	p.mu.Unlock()
	if !wait(ctx, server.Done(), time.Second+rand.N(2*time.Second)) || server.End(ctx, nil) != nil {
		p.mu.Lock()
		p.cut[doc.Instance] = fmt.Sprintf("%v, %v", server.Err(), ctx.Err())
		p.mu.Unlock()
		return errors.New("the match was cut short")
	}
	<-ctx.Done()
	return nil
}

// settle checks that no match had two servers, and that none was taken away.
func (p players) settle(t *testing.T, out *outcome) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range out.made {
		if p.linked[id] > 1 {
			t.Errorf("instance %s had %d servers open to players", id, p.linked[id])
		}
	}
	for id, fared := range p.cut {
		if out.how[id] != "ended" { // otherwise only the answer that it had ended was lost
			t.Errorf("the server of instance %s was released in the middle of its match: %s; the instance: %s", id, fared, out.how[id])
		}
	}
}
