package api

import (
	"context"
	"fmt"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver"
)

// link connects the game server whose registration was answered so, to the end of the case. It links the instance that was placed on it, and opens to
// the players.
func (r *run) link(answer string) (*gameserver.Server, error) {
	doc := &bootstrap.Document{Version: bootstrap.Version, Gateway: r.stack.edge}
	for path, into := range map[string]*string{
		".server.namespace": &doc.Namespace, ".server.id": &doc.Server, ".gameToken": (*string)(&doc.Game), ".socialToken": (*string)(&doc.Social),
	} {
		v, err := r.answers.fill("${" + answer + path + "}")
		if err != nil {
			return nil, err
		}
		*into = fmt.Sprint(v)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	host, err := gameserver.Open(ctx, gameserver.WithBootstrap(doc))
	if err != nil {
		return nil, err
	}
	r.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := host.Close(ctx); err != nil {
			r.t.Errorf("close the link: %v", err)
		}
	})
	server, err := host.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return server, server.ConnectPlayers(ctx)
}

// giveUp is link for a game server that then gives its instance up again.
func (r *run) giveUp(answer string) error {
	server, err := r.link(answer)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return server.Unlink(ctx, "")
}
