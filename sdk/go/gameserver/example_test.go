package gameserver_test

import (
	"context"
	"log"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
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

// A registered server plays all the matches that are placed on it, at once.
func ExampleHost_Accept() {
	ctx := context.Background()
	host, err := gameserver.Open(ctx) // its bootstrap document names no instance
	if err != nil {
		log.Fatal(err)
	}
	for {
		server, err := host.Accept(ctx)
		if err != nil {
			log.Print(err)
			break
		}
		go func() {
			if err := server.ConnectPlayers(ctx); err != nil {
				log.Print(err)
			}
			// Play, and then:
			if err := server.End(ctx, nil); err != nil {
				log.Print(err)
			}
			if err := server.Close(ctx); err != nil { // lets go of this instance only
				log.Print(err)
			}
		}()
	}
	if err := host.Close(ctx); err != nil {
		log.Fatal(err)
	}
}

// A registered server can make a match by itself.
func ExampleHost_Create() {
	ctx := context.Background()
	host, err := gameserver.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	server, err := host.Create(ctx, &gameserverv1.CreateAndLinkRequest{
		Players: []*instancev1.Player{{Id: "ann"}, {Id: "bob"}},
		Labels:  map[string]string{"mode": "duel"},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := server.ConnectPlayers(ctx); err != nil {
		log.Fatal(err)
	}
	log.Printf("playing %s", server.Instance().GetId())
}
