package main

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"strings"
	"sync"

	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"
)

// The channels of the naive variant.
const (
	naiveIn  = "naive:backend"
	naiveOut = "naive:gateway"
)

// naive does the same hop as Berth the way that one writes it first, after the libraries' own examples: each message is one PUBLISH each way, and each
// connection reads and writes with its request's context. It checks nothing and bounds nothing.
type naive struct {
	redis *redis.Client
	mu    sync.Mutex
	conns map[uint64]*websocket.Conn
	last  uint64
}

func naiveGateway(addr string) error {
	n := &naive{redis: redis.NewClient(&redis.Options{Addr: addr}), conns: make(map[uint64]*websocket.Conn)}
	sub := n.redis.Subscribe(context.Background(), naiveOut)
	if _, err := sub.Receive(context.Background()); err != nil {
		return err
	}
	go func() {
		for m := range sub.Channel() {
			n.mu.Lock()
			ws := n.conns[binary.BigEndian.Uint64([]byte(m.Payload))]
			n.mu.Unlock()
			if ws != nil {
				_ = ws.Write(context.Background(), websocket.MessageBinary, []byte(m.Payload[8:]))
			}
		}
	}()
	return serve(n)
}

func (n *naive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	n.mu.Lock()
	n.last++
	id := n.last
	n.conns[id] = ws
	n.mu.Unlock()
	for {
		_, msg, err := ws.Read(r.Context())
		if err != nil {
			return
		}
		if err := n.redis.Publish(r.Context(), naiveIn, append(binary.BigEndian.AppendUint64(nil, id), msg...)).Err(); err != nil {
			return
		}
	}
}

// naiveBackend sends back each message.
func naiveBackend(addr string) error {
	client := redis.NewClient(&redis.Options{Addr: addr})
	sub := client.Subscribe(context.Background(), naiveIn)
	if _, err := sub.Receive(context.Background()); err != nil {
		return err
	}
	go func() {
		for m := range sub.Channel() {
			_ = client.Publish(context.Background(), naiveOut, m.Payload).Err()
		}
	}()
	return obey("", func(order) report { return report{Err: "nothing can be ordered here"} })
}

// pipelined is how many PUBLISH go in one pipeline, and publishers how many do so at once.
const pipelined = 64

// publisher publishes 128 bytes on a channel with one subscriber, in pipelines.
func publisher(addr string) func(order) report {
	client, ctx := redis.NewClient(&redis.Options{Addr: addr}), context.Background()
	got := make(chan struct{}, 1)
	sub := client.Subscribe(ctx, "floor")
	_, err := sub.Receive(ctx)
	var want, have int
	go func() {
		for {
			m, err := sub.ReceiveMessage(ctx)
			if err != nil {
				return
			}
			if have++; m.Payload[0] == 'l' { // the last
				got <- struct{}{}
			}
		}
	}()
	return func(o order) report {
		if err != nil {
			return report{Err: err.Error()}
		}
		payload, last := strings.Repeat("x", 128), "l"+strings.Repeat("x", 127)
		for n := 0; n < o.Total; n += pipelined {
			pipe := client.Pipeline()
			for i := n; i < min(n+pipelined, o.Total); i++ {
				if i == o.Total-1 {
					payload = last
				}
				pipe.Publish(ctx, "floor", payload)
			}
			if _, err := pipe.Exec(ctx); err != nil {
				return report{Err: err.Error()}
			}
		}
		<-got
		if want += o.Total; have != want {
			return report{Err: errors.New("messages were lost").Error()}
		}
		return report{Done: o.Total}
	}
}
