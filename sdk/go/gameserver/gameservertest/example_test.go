package gameservertest_test

import (
	"context"
	"fmt"
	"log"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
)

// serve is the game server under test: it opens to its players, counts those who come later, and ends the game when a backend says so.
func serve(ctx context.Context, opts ...gameserver.Option) error {
	server, err := gameserver.Connect(ctx, opts...)
	if err != nil {
		return err
	}
	if err := server.ConnectPlayers(ctx); err != nil {
		return err
	}
	late := 0
	for event := range server.Events() {
		switch e := event.(type) {
		case gameserver.PlayersAdded:
			late += len(e.Players)
			if err := server.ConnectPlayers(ctx); err != nil {
				return err
			}
		case gameserver.GameDataUpdated:
			result, err := gameserver.JSON(map[string]any{"late": late})
			if err != nil {
				return err
			}
			if err := server.End(ctx, result); err != nil {
				return err
			}
			return server.Close(ctx)
		}
	}
	return server.Err()
}

// example stands in for the *testing.T of a test.
type example struct{ cleanup []func() }

func (*example) Helper()                           {}
func (*example) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (*example) Fatalf(format string, args ...any) { log.Fatalf(format, args...) }
func (e *example) Cleanup(f func())                { e.cleanup = append(e.cleanup, f) }
func (*example) Setenv(string, string)             {}
func (e *example) done() {
	for _, f := range e.cleanup {
		f()
	}
}

// A game server is tested without Berth, through a lost connection.
func Example() {
	t := new(example) // in a test: the *testing.T
	defer t.done()
	backend := gameservertest.Start(t, gameservertest.Config{Players: []*instancev1.Player{{Id: "ann"}}})

	stopped := make(chan error, 1)
	go func() { stopped <- serve(context.Background(), gameserver.WithBootstrap(backend.Bootstrap())) }()

	backend.WaitForState(instancev1.GameInstance_STATE_RUNNING)
	backend.Disconnect()
	backend.AddPlayers(&instancev1.Player{Id: "bob"})
	backend.WaitForAcks()
	over, _ := gameserver.JSON(map[string]any{"over": true})
	backend.UpdateGameData(over)

	backend.WaitForState(instancev1.GameInstance_STATE_ENDED)
	fmt.Println(backend.Result().GetJson().GetFields()["late"].GetNumberValue(), <-stopped)
	fmt.Println(backend.Methods())
	// Output:
	// 1 <nil>
	// [Link ConnectPlayers ConnectPlayers EndGameInstance]
}
