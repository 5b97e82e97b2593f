// Command bench is what test/bench needs of game-instance and cannot reach from outside: a commit without gRPC and gateway, and a backend that sends messages
// back without gRPC. It says that it is there, takes orders on its standard input, a line of JSON each, and ends with that.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/messages"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "game-instance bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("usage: bench commit|messages REDIS")
	}
	redis, err := redisx.Open(ctx, redisx.Config{Addrs: []string{args[1]}})
	if err != nil {
		return err
	}
	defer redis.Close()
	store := redisstore.New(redis)
	switch args[0] {
	case "commit":
		c := &commits{store: store, service: instance.NewService(instance.Config{Store: store})}
		return obey(func(o order) (int, error) { return c.do(ctx, o.Conns, o.Total) })
	case "messages":
		exchange := messages.New(messages.Config{Store: redis, Instances: instance.NewService(instance.Config{Store: store}), Log: slog.Default(), Metrics: messages.NewMetrics(prometheus.NewRegistry())})
		go func() { _ = exchange.Run(ctx) }() // until the process ends
		if err := echo(ctx, exchange); err != nil {
			return err
		}
		return obey(func(order) (int, error) { return 0, errors.New("nothing can be ordered here") })
	}
	return fmt.Errorf("what is %q?", args[0])
}

// order is how much is to be done.
type order struct {
	Conns int // how many at once
	Total int // how often
}

// obey says that the process is there, and does what it is ordered.
func obey(do func(order) (int, error)) error {
	out, in := json.NewEncoder(os.Stdout), json.NewDecoder(os.Stdin)
	if err := out.Encode(""); err != nil {
		return err
	}
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var answer struct {
			Err  string
			Done int
		}
		var err error
		if answer.Done, err = do(o); err != nil {
			answer.Err = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}

// echo sends each message of a server back, with what StreamMessages is made of.
func echo(ctx context.Context, exchange *messages.Exchange) error {
	_, err := exchange.Watch(ctx, messages.Watch{Namespace: "default", Take: func(m messages.Message) {
		// The way back was learnt from the message, so this does not wait for the store.
		if err := exchange.Send(ctx, "default", string(m.Instance), string(m.Topic), m.Data); err != nil {
			slog.Error("a message is lost", "error", err)
		}
	}})
	return err
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
