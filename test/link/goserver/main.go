// Command goserver is the conformance server of the Go SDK: the smallest game server that does what docs/conformance.md asks of the program under test.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/berth-dev/berth/sdk/go/gameserver"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "goserver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	server, err := gameserver.Connect(ctx)
	if err != nil {
		return err
	}
	if err := server.ConnectPlayers(ctx); err != nil {
		return err
	}
	for event := range server.Events() {
		changed, ok := event.(gameserver.GameDataUpdated)
		if !ok {
			continue
		}
		var data struct {
			Value any
			End   bool
		}
		if err := gameserver.DecodeJSON(changed.GameData, &data); err != nil {
			return err
		}
		if data.End {
			return end(ctx, server)
		}
		seen, err := gameserver.JSON(map[string]any{"seen": data.Value})
		if err != nil {
			return err
		}
		if err := server.UpdateGameData(ctx, seen); err != nil {
			return err
		}
	}
	return server.Err()
}

func end(ctx context.Context, server *gameserver.Server) error {
	result, err := gameserver.JSON(map[string]any{"conforms": true})
	if err != nil {
		return err
	}
	if err := server.End(ctx, result); err != nil {
		return err
	}
	return server.Close(ctx)
}
