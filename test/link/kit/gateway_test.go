package kit_test

import (
	"context"
	"strings"
	"testing"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest/wire"
	"github.com/berth-dev/berth/test/link/kit"
)

func TestOurGatewayConforms(t *testing.T) {
	for _, subprotocol := range []string{wire.Proto, wire.JSON} {
		t.Run(subprotocol, func(t *testing.T) { conforms(t, subprotocol) })
	}
}

func conforms(t *testing.T, subprotocol string) {
	s := start(t)
	g := kit.Gateway{
		Subprotocol: subprotocol,
		Bootstrap:   func(ctx context.Context) (*bootstrap.Document, error) { return s.server(ctx, nil) },
		Notify: func(ctx context.Context, id string) error {
			return s.call(ctx, "instances/"+id+":updateGameData", map[string]any{"gameData": map[string]any{"json": map[string]any{"seen": true}}}, nil)
		},
	}
	var table strings.Builder
	results := g.Check(t.Context())
	kit.Print(&table, results)
	t.Log("\n" + table.String())
	for _, r := range results {
		if r.Err != nil || r.Skipped != "" {
			t.Errorf("%s: %v %s", r.Name, r.Err, r.Skipped)
		}
	}
}
