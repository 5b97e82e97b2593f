package gameserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"
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
	for event := range server.All(ctx) { // what backends do
		if added, ok := event.(gameserver.PlayersAdded); ok {
			fmt.Println("expect", added.Players[0].GetId())
			break // and play: VerifyTicket says who it is that comes
		}
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
	// Output: expect ann
}

// What backends do to the instance comes as events.
func ExampleServer_All() {
	ctx := context.Background()
	server, err := gameserver.Connect(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for event := range server.All(ctx) {
		switch e := event.(type) {
		case gameserver.PlayersAdded:
			log.Printf("expect %d more players", len(e.Players))
		case gameserver.PlayersRemoved:
			log.Printf("turn out %v", e.PlayerIDs)
		case gameserver.MessageReceived:
			log.Printf("a backend says something about %s", e.Topic)
		case gameserver.Terminated:
			log.Printf("stop: %s", e.Message)
		case gameserver.Orphaned:
			log.Print("Berth has lost the instance: finish the game, and keep the result")
		}
	}
}

// When Berth has lost the instance, the result stays with the game.
func ExampleOrphanedError() {
	ctx := context.Background()
	server, err := gameserver.Connect(ctx)
	if err != nil {
		log.Fatal(err)
	}
	err = server.End(ctx, nil)
	if orphaned, ok := errors.AsType[*gameserver.OrphanedError](err); ok {
		log.Printf("write down what became of %s: %v", orphaned.InstanceID, orphaned.Result)
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

// playBerth starts a backend for the examples, for as long as the tests run, and puts its bootstrap document where Connect finds it. It adds ann to
// the instance when the server has opened to players.
func playBerth() {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"berth.v1.proto"}})
		if err != nil {
			return
		}
		defer conn.CloseNow() //nolint:errcheck // gone is gone
		for {
			_, b, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			f := new(linkv1.Frame)
			if err := proto.Unmarshal(b, f); err != nil {
				return
			}
			for _, answer := range played(f) {
				b, _ := proto.Marshal(answer)
				if conn.Write(r.Context(), websocket.MessageBinary, b) != nil {
					return
				}
			}
		}
	}))
	doc, _ := json.Marshal(map[string]any{
		"v": 1, "namespace": "default", "instance": instanceID, "server": "server-1", "gateway": srv.URL, "game": "GAME", "social": "SOCIAL",
	})
	_ = os.Setenv("BERTH_BOOTSTRAP", string(doc))
}

func played(f *linkv1.Frame) []*linkv1.Frame {
	if f.GetHello() != nil {
		return []*linkv1.Frame{{Kind: &linkv1.Frame_Welcome{Welcome: &linkv1.Welcome{SessionId: "session-1"}}}}
	}
	r := f.GetRequest()
	if r == nil {
		return nil
	}
	var result []byte
	var after []*linkv1.Frame
	switch r.GetMethod() {
	case "Link":
		result, _ = proto.Marshal(startData())
	case "ConnectPlayers":
		after = []*linkv1.Frame{{Kind: &linkv1.Frame_Notification{Notification: &linkv1.Notification{
			InstanceId: instanceID, Offset: 1001, Previous: 1000, Event: playersAdded("ann"),
		}}}}
	}
	answer := &linkv1.Response{Id: r.GetId(), Outcome: &linkv1.Response_Result{Result: result}}
	return append([]*linkv1.Frame{{Kind: &linkv1.Frame_Response{Response: answer}}}, after...)
}
