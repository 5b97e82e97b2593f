package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// maxSent bounds how many requests of a socket can be under way.
const maxSent = 256

// socket is one connection, which is read all the time.
type socket struct {
	set *set
	ws  *websocket.Conn

	// Of a link.
	instance    string
	epoch       int64
	game, other string        // handles
	head        []byte        // of every message: what stands before its sequence, fields being in order as every encoder writes them
	tail        []byte        // of every request: credentials, instance, epoch and method
	arrived     chan struct{} // a notification

	mu       sync.Mutex
	work     string
	left     int // to be sent
	lat      []int64
	sequence int64
	last     int64 // number of the last request
	answered int64 // the highest number that was answered
	sent     [maxSent]int64
	buf      []byte
}

func dialBare(s *set, addr string) (*socket, error) {
	ws, _, err := websocket.Dial(context.Background(), "ws://"+addr, nil)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(-1)
	return &socket{set: s, ws: ws}, nil
}

// ready prepares for a run.
func (c *socket) ready(work string, times int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.work, c.left, c.lat = work, times, make([]int64, 0, times)
}

func (c *socket) latencies() []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lat
}

// took notes what came back.
func (c *socket) took(sent int64) {
	c.mu.Lock()
	c.lat = append(c.lat, c.set.load.now()-sent)
	c.mu.Unlock()
	c.set.finished()
}

// next sends one more, if one is left.
func (c *socket) next() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 {
		return
	}
	c.left--
	now := c.set.load.now()
	c.buf = c.buf[:0]
	switch c.work {
	case workEcho:
		c.buf = append(c.buf, binaryData(now)[dataHeader:]...)
	case workMessage:
		c.sequence++
		body := text(number(append([]byte(nil), c.head...), 4, c.sequence), 5, topic)
		c.buf = raw(c.buf, frameMessage, raw(body, 6, binaryData(now)))
	case workRequest:
		c.last++
		c.sent[c.last%maxSent] = now
		body := number(append([]byte(nil), c.tail...), 1, c.last)
		body = number(raw(body, 6, raw(nil, 3, binaryData(now))), 7, c.answered)
		c.buf = raw(c.buf, frameRequest, body)
	case workUnary:
		go c.say(now)
		return
	case workStream:
		c.set.stream.send(c.instance, now)
		return
	}
	if err := c.ws.Write(context.Background(), websocket.MessageBinary, c.buf); err != nil {
		c.set.fail(err)
	}
}

// read takes what comes until the connection ends.
func (c *socket) read() {
	buf := make([]byte, 0, 512)
	for {
		_, r, err := c.ws.Reader(context.Background())
		if err == nil {
			buf, err = readAll(r, buf[:0])
		}
		if err == nil {
			err = c.got(buf)
		}
		if err != nil {
			c.set.fail(err)
			return
		}
	}
}

func (c *socket) got(frame []byte) error {
	if c.head == nil {
		c.back(frame)
		return nil
	}
	switch kind, body := kindOf(frame); kind {
	case frameMessage:
		c.back(fieldOf(fieldOf(body, 6), 2))
	case frameResponse:
		return c.response(body)
	case frameNotification:
		ack := number(text(nil, 1, c.instance), 2, numberOf(body, 2))
		if err := c.ws.Write(context.Background(), websocket.MessageBinary, raw(nil, frameAck, ack)); err != nil {
			return err
		}
		select {
		case c.arrived <- struct{}{}:
		default: // nobody waits for it
		}
	case frameGoodbye:
		return fmt.Errorf("goodbye %d: %s", numberOf(body, 1), fieldOf(body, 3))
	}
	return nil
}

// back takes a payload that has come back.
func (c *socket) back(payload []byte) {
	if len(payload) != payloadSize {
		c.set.fail(fmt.Errorf("%d bytes came back", len(payload)))
		return
	}
	c.took(int64(binary.LittleEndian.Uint64(payload)))
	c.next()
}

func (c *socket) response(body []byte) error {
	id := numberOf(body, 1)
	if e := fieldOf(body, 3); e != nil {
		return fmt.Errorf("request or message %d: %s: %s", id, fieldOf(e, 2), fieldOf(e, 3))
	}
	c.mu.Lock()
	at := c.sent[id%maxSent]
	c.answered = max(c.answered, id)
	c.mu.Unlock()
	c.took(at)
	c.next()
	return nil
}

// links opens links of servers that it registers.
type links struct {
	set      *set
	registry gameserverv1.GameServerRegistryServiceClient
	gateway  string
}

func newLinks(s *set, conn *grpc.ClientConn, gateway string) *links {
	return &links{s, gameserverv1.NewGameServerRegistryServiceClient(conn), gateway}
}

// open registers a server, connects it, and has it make an instance, which it is linked to and opens to players.
func (l *links) open() (*socket, error) {
	ctx, cancel := context.WithTimeout(l.set.as, time.Minute)
	defer cancel()
	server, err := l.registry.RegisterGameServer(ctx, &gameserverv1.RegisterGameServerRequest{})
	if err != nil {
		return nil, err
	}
	ws, _, err := websocket.Dial(ctx, "ws://"+l.gateway+"/v1/link", &websocket.DialOptions{
		Subprotocols: []string{"berth.v1.proto"},
		HTTPHeader:   http.Header{"Authorization": {"Bearer " + server.GetGameToken()}, "Berth-Social-Token": {server.GetSocialToken()}},
	})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(-1)
	c := &socket{set: l.set, ws: ws, arrived: make(chan struct{}, 1), sequence: time.Now().UnixMicro()}
	hello := raw(nil, frameHello, text(text(nil, 3, "bench"), 4, rand.Text()))
	answer, err := c.ask(ctx, hello, frameWelcome)
	if err != nil {
		return nil, err
	}
	c.game, c.other = answer.GetWelcome().GetGameHandle(), answer.GetWelcome().GetSocialHandle()
	made := new(gameserverv1.CreateAndLinkResponse)
	create := &gameserverv1.CreateAndLinkRequest{Players: []*instancev1.Player{{Id: "ann"}, {Id: "bob"}}}
	if err := c.call(ctx, "CreateAndLink", create, made); err != nil {
		return nil, err
	}
	c.instance, c.epoch = made.GetInstance().GetId(), made.GetLinkEpoch()
	if err := c.call(ctx, "ConnectPlayers", &gameserverv1.ConnectPlayersRequest{}, new(gameserverv1.ConnectPlayersResponse)); err != nil {
		return nil, err
	}
	c.head = number(append(text(nil, 1, c.instance), credentials(2, c.game, c.other)...), 3, c.epoch)
	c.tail = text(number(text(credentials(2, c.game, c.other), 3, c.instance), 4, c.epoch), 5, "UpdateGameData")
	return c, nil
}

// call makes a request before the socket is read by read.
func (c *socket) call(ctx context.Context, method string, in, out proto.Message) error {
	payload, err := proto.Marshal(in)
	if err != nil {
		return err
	}
	c.last++
	request, err := proto.Marshal(&linkv1.Frame{Kind: &linkv1.Frame_Request{Request: &linkv1.Request{
		Id: c.last, Auth: &linkv1.Credentials{Game: c.game, Social: c.other}, InstanceId: c.instance, LinkEpoch: c.epoch, Method: method, Payload: payload,
	}}})
	if err != nil {
		return err
	}
	answer, err := c.ask(ctx, request, frameResponse)
	if err != nil {
		return err
	}
	if e := answer.GetResponse().GetError(); e != nil {
		return fmt.Errorf("%s: %s: %s", method, e.GetReason(), e.GetMessage())
	}
	if method != "CreateAndLink" {
		c.answered = c.last
	}
	return proto.Unmarshal(answer.GetResponse().GetResult(), out)
}

// ask sends a frame and waits for one of a kind.
func (c *socket) ask(ctx context.Context, frame []byte, want int) (*linkv1.Frame, error) {
	if err := c.ws.Write(ctx, websocket.MessageBinary, frame); err != nil {
		return nil, err
	}
	for {
		_, answer, err := c.ws.Read(ctx)
		if err != nil {
			return nil, err
		}
		f := new(linkv1.Frame)
		if err := proto.Unmarshal(answer, f); err != nil {
			return nil, err
		}
		switch kind, _ := kindOf(answer); int(kind) {
		case want:
			return f, nil
		case frameGoodbye:
			return nil, errors.New(f.GetGoodbye().GetMessage())
		}
	}
}
