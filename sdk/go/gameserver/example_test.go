package gameserver_test

import (
	"context"
	"log"

	"github.com/berth-dev/berth/sdk/go/gameserver"
)

// A whole game server, but for the game.
func Example() {
	ctx := context.Background()
	server, err := gameserver.Connect(ctx) // finds its bootstrap document, links, has the start data
	if err != nil {
		log.Fatal(err)
	}
	if err := server.ConnectPlayers(ctx); err != nil { // from now on players are sent here
		log.Fatal(err)
	}
	if player, err := server.VerifyTicket(ctx, "the ticket that a player shows"); err == nil {
		log.Printf("welcome, %s", player.GetId())
	}
	result, err := gameserver.JSON(map[string]any{"winner": "ann"})
	if err != nil {
		log.Fatal(err)
	}
	if err := server.End(ctx, result); err != nil { // survives lost connections, takes effect once
		log.Fatal(err)
	}
	if err := server.Close(ctx); err != nil {
		log.Fatal(err)
	}
}

// What backends do to the instance comes as events.
func ExampleServer_Events() {
	server, err := gameserver.Connect(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	for event := range server.Events() {
		switch e := event.(type) {
		case gameserver.PlayersAdded:
			log.Printf("expect %d more players", len(e.Players))
		case gameserver.PlayersRemoved:
			log.Printf("turn out %v", e.PlayerIDs)
		case gameserver.Terminated:
			log.Printf("stop: %s", e.Message)
		}
	}
}
