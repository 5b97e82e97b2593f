// Command bench is what test/bench needs of game-instance and cannot reach from outside: the least that a commit costs, without gRPC and gateway. It says
// where it serves, takes orders on its standard input, a line of JSON each, and ends with that.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "game-instance bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 2 || args[0] != "commit" {
		return errors.New("usage: bench commit REDIS")
	}
	redis, err := redisx.Open(ctx, redisx.Config{Addrs: []string{args[1]}})
	if err != nil {
		return err
	}
	defer redis.Close()
	c := &commits{store: redisstore.New(redis)}
	c.service = instance.NewService(instance.Config{Store: c.store})
	out, in := json.NewEncoder(os.Stdout), json.NewDecoder(bufio.NewReader(os.Stdin))
	if err := out.Encode(""); err != nil {
		return err
	}
	for {
		var o struct{ Conns, Total int }
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var answer struct {
			Err  string
			Done int
		}
		if answer.Done, err = c.do(ctx, o.Conns, o.Total); err != nil {
			answer.Err = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}

// commits updates the custom data of running instances, each by its server, as a request over the link does.
type commits struct {
	store   *redisstore.Store
	service *instance.Service
	talkers []*talker
}

// talker is an instance whose server sends commands.
type talker struct {
	id      string
	server  instance.Caller
	session string
	numbers int64
}

// do makes so many commits with so many writers, each of an instance of its own.
func (c *commits) do(ctx context.Context, writers, total int) (int, error) {
	for len(c.talkers) < writers {
		t, err := c.make(ctx)
		if err != nil {
			return 0, err
		}
		c.talkers = append(c.talkers, t)
	}
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	for _, t := range c.talkers[:writers] {
		all.Go(func() {
			for range total / writers {
				data := payload()
				data.Binary[0], data.Binary[1], data.Binary[2] = byte(t.numbers), byte(t.numbers>>8), byte(t.numbers>>16)
				if _, err := c.service.Apply(ctx, "default", t.id, t.envelope(), instance.UpdateGameData{Server: t.server, Data: instance.Update{Data: data}}); err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return total / writers * writers, nil
}

// make commits an instance's way from its creation until it runs as one change.
func (c *commits) make(ctx context.Context) (*talker, error) {
	id, now := uuid.NewString(), time.Now()
	change, err := instance.Decide(nil, instance.Create{
		Namespace: "default", ID: id, GameData: payload(), Placement: instance.Placement{Build: "build"}, Digest: make([]byte, 16),
		Players: []instance.Player{{ID: "ann"}, {ID: "bob"}},
	}, "key:bench", now)
	if err != nil {
		return nil, err
	}
	attempt := change.After.Attempt()
	server := instance.Caller{ServerID: attempt.ServerID, OverLink: true}
	then := func(cmd instance.Command) {
		if err != nil {
			return
		}
		var next *instance.Change
		if next, err = instance.Decide(change.After, cmd, "server:bench", now); err == nil {
			change.After, change.History = next.After, append(change.History, next.History...)
		}
	}
	then(instance.CallAnswered{Kind: instance.CallAllocate, AttemptID: attempt.ID})
	then(instance.ReportAllocated{AttemptID: attempt.ID, Provider: "local"})
	then(instance.LinkServer{Server: server, SessionEpoch: 1, GatewayID: "gateway"})
	server.LinkEpoch = change.After.LastLinkEpoch
	then(instance.ConnectPlayers{Server: server})
	if err != nil {
		return nil, err
	}
	_, err = c.store.Commit(ctx, change, nil)
	return &talker{id: id, server: server, session: uuid.NewString()}, err
}

func payload() instance.Data {
	const size = 128
	return instance.Data{Set: true, Binary: make([]byte, size), Size: size + 3}
}

// envelope is that of the next command.
func (t *talker) envelope() instance.Envelope {
	t.numbers++
	return instance.Envelope{ID: instance.CommandID{Session: t.session, Number: t.numbers}, Digest: make([]byte, 16), Actor: "server:" + t.server.ServerID}
}
