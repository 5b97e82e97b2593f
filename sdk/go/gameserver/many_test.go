package gameserver_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/coder/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// model is a Berth that keeps its promises and loses its connections: a model of what the other end may rely on, and a check of what it
// must do. One goroutine plays it.
type model struct {
	t         *testing.T
	rand      *rand.Rand
	inFlight  int
	cuts      int // how many connections will be lost
	instances map[string]*modelled
	made      map[string]string // instances by the request_id of their CreateAndLink
	lastEpoch int64
}

// modelled is an instance.
type modelled struct {
	linked     bool // over the newest connection
	epoch      int64
	done       map[int64]int // the values that calls wrote, by number
	lastNumber int64
	lastValue  int
	lastDone   int64 // what the server must say
	events     int64 // how many there were; the offset of the n-th is n
	acked      int64
	ended      bool
}

const (
	modelCalls  = 15
	modelEvents = 15
)

// play serves connections until ctx ends, each until it is cut.
func (m *model) play(ctx context.Context, g *gateway) {
	for {
		select {
		case p := <-g.peers:
			m.serve(ctx, p)
			p.cut()
		case <-ctx.Done():
			return
		}
	}
}

// send reports whether the connection is still there.
func (m *model) send(p *peer, f *linkv1.Frame) bool {
	b, err := proto.Marshal(f)
	if err != nil {
		m.t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return p.conn.Write(ctx, websocket.MessageBinary, b) == nil
}

func (m *model) serve(ctx context.Context, p *peer) {
	for {
		select {
		case f := <-p.frames:
			var ok bool
			switch {
			case f.GetHello() != nil:
				ok = m.hello(p, f.GetHello())
			case f.GetAck() != nil:
				ok = m.ack(f.GetAck())
			default:
				ok = m.request(p, f.GetRequest())
			}
			if !ok {
				return
			}
		case <-p.closed:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (m *model) hello(p *peer, h *linkv1.Hello) bool {
	w := &linkv1.Welcome{SessionId: "s", ResumeKey: "k", Limits: &linkv1.Limits{MaxFrameBytes: 1 << 20, MaxInFlight: int32(m.inFlight)}}
	for _, in := range m.instances {
		in.linked = false
	}
	for _, said := range h.GetInstances() {
		in := m.instances[said.GetInstanceId()]
		if in.epoch != said.GetLinkEpoch() { // the answer to a Link was lost
			continue
		}
		if said.GetLastOffset() < in.acked || said.GetLastOffset() > in.events || said.GetLastRequest() > in.lastDone {
			m.t.Errorf("hello says %v; acked were %d of %d, done %d", said, in.acked, in.events, in.lastDone)
		}
		in.acked = said.GetLastOffset()
		if !in.ended && m.rand.IntN(4) > 0 {
			m.lastEpoch++
			in.epoch, in.linked = m.lastEpoch, true
			w.Instances = append(w.Instances, &linkv1.ResumedInstance{InstanceId: said.GetInstanceId(), LinkEpoch: in.epoch})
		}
	}
	for id, in := range m.instances {
		if !in.linked && !in.ended {
			w.AssignedInstanceIds = append(w.AssignedInstanceIds, id)
		}
	}
	if !m.send(p, &linkv1.Frame{Kind: &linkv1.Frame_Welcome{Welcome: w}}) {
		return false
	}
	for id, in := range m.instances {
		for offset := in.acked + 1; in.linked && offset <= in.events; offset++ {
			m.notify(p, id, offset)
		}
	}
	return true
}

func (m *model) notify(p *peer, id string, offset int64) {
	m.send(p, &linkv1.Frame{Kind: &linkv1.Frame_Notification{Notification: &linkv1.Notification{
		InstanceId: id, Offset: offset, Previous: offset - 1, Event: playersAdded(strconv.FormatInt(offset, 10)),
	}}})
}

func (m *model) ack(a *linkv1.Ack) bool {
	in := m.instances[a.GetInstanceId()]
	if in.linked {
		if a.GetOffset() < in.acked || a.GetOffset() > in.events {
			m.t.Errorf("%v after %d of %d", a, in.acked, in.events)
		}
		in.acked = a.GetOffset()
	}
	return true
}

// cut reports whether the connection is lost now.
func (m *model) cut() bool {
	if m.cuts == 0 || m.rand.IntN(30) > 0 {
		return false
	}
	m.cuts--
	return true
}

// request answers a request, or loses it, or its answer, with the connection.
func (m *model) request(p *peer, r *linkv1.Request) bool {
	if m.cut() {
		return false
	}
	answer := &linkv1.Response{Id: r.GetId()}
	result, failure := m.outcome(r)
	switch {
	case m.rand.IntN(20) == 0: // whatever became of it, Berth could not say
		answer.Outcome = &linkv1.Response_Error{Error: &linkv1.Error{Code: int32(codes.Unavailable), Reason: "STORE_UNAVAILABLE"}}
		failure = codes.Unavailable.String()
	case failure != "":
		answer.Outcome = &linkv1.Response_Error{Error: &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: failure}}
	default:
		b, err := proto.Marshal(result)
		if err != nil {
			m.t.Error(err)
		}
		answer.Outcome = &linkv1.Response_Result{Result: b}
	}
	if m.cut() || !m.send(p, &linkv1.Frame{Kind: &linkv1.Frame_Response{Response: answer}}) {
		return false
	}
	if in := m.instances[r.GetInstanceId()]; in != nil && failure == "" {
		if r.GetMethod() == "UpdateGameData" || r.GetMethod() == "EndGameInstance" {
			in.lastDone = max(in.lastDone, r.GetId())
		}
		if in.linked && !in.ended && in.events < modelEvents {
			in.events++
			m.notify(p, r.GetInstanceId(), in.events)
		}
	}
	return true
}

// outcome is what a request does, once.
func (m *model) outcome(r *linkv1.Request) (proto.Message, string) {
	id := r.GetInstanceId()
	switch r.GetMethod() {
	case "CreateAndLink":
		req := new(gameserverv1.CreateAndLinkRequest)
		if err := proto.Unmarshal(r.GetPayload(), req); err != nil {
			m.t.Error(err)
		}
		id, known := m.made[req.GetRequestId()]
		if !known {
			id = "made-" + strconv.Itoa(len(m.made))
			m.made[req.GetRequestId()] = id
			m.instances[id] = &modelled{done: make(map[int64]int)}
		}
		start := m.link(id)
		return &gameserverv1.CreateAndLinkResponse{Instance: start.GetInstance(), LinkEpoch: start.GetLinkEpoch(), Offset: start.GetOffset()}, ""
	case "Link":
		if m.instances[id].ended {
			return nil, "STATE_NOT_ALLOWED"
		}
		return m.link(id), ""
	}
	in := m.instances[id]
	if !in.linked || r.GetLinkEpoch() != in.epoch {
		m.t.Errorf("%v is not for link %d, or there is none", r, in.epoch)
		return nil, "STALE_LINK_EPOCH"
	}
	if r.GetLastRequest() > in.lastDone {
		m.t.Errorf("%v, but the last that was done is %d", r, in.lastDone)
	}
	if _, done := in.done[r.GetId()]; !done {
		if r.GetId() < in.lastNumber {
			m.t.Errorf("%s: number %d comes after %d", id, r.GetId(), in.lastNumber)
		}
		in.lastNumber = r.GetId()
		if r.GetMethod() == "EndGameInstance" {
			in.ended = true
		} else {
			in.done[r.GetId()] = m.value(r)
			if in.done[r.GetId()] != in.lastValue+1 {
				m.t.Errorf("%s: value %d comes after %d", id, in.done[r.GetId()], in.lastValue)
			}
			in.lastValue++
		}
	}
	return &gameserverv1.UpdateGameDataResponse{Revision: r.GetId()}, ""
}

func (m *model) value(r *linkv1.Request) int {
	req := new(gameserverv1.UpdateGameDataRequest)
	if err := proto.Unmarshal(r.GetPayload(), req); err != nil {
		m.t.Error(err)
	}
	return int(req.GetGameData().GetJson().GetFields()["n"].GetNumberValue())
}

func (m *model) link(id string) *gameserverv1.LinkResponse {
	in := m.instances[id]
	if !in.linked { // otherwise it is as it was
		m.lastEpoch++
		in.linked, in.epoch, in.lastDone = true, m.lastEpoch, 0
	}
	in.acked = in.events
	start := &instancev1.GameInstance{Id: id, Revision: in.lastNumber}
	for n := range in.events {
		start.Players = append(start.Players, &instancev1.Player{Id: strconv.FormatInt(n+1, 10)})
	}
	return &gameserverv1.LinkResponse{Instance: start, LinkEpoch: in.epoch, Offset: in.events}
}

// Through any number of lost connections, lost answers, lost links and refusals that pass, every call of every instance takes effect
// once and in order, and every event is there once and in order. Each instance is given out once.
func TestManyInstancesThroughManyConnections(t *testing.T) {
	const placed, made = 6, 4
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	g := newGateway(t)
	m := &model{t: t, rand: rand.New(rand.NewPCG(seed, 0)), inFlight: 4, cuts: 5, instances: make(map[string]*modelled), made: make(map[string]string)}
	for n := range placed {
		m.instances["placed-"+strconv.Itoa(n)] = &modelled{done: make(map[int64]int)}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var berth, games sync.WaitGroup
	stop, end := context.WithCancel(ctx)
	berth.Go(func() { m.play(stop, g) })

	doc := g.bootstrap()
	doc.Instance = ""
	h, err := gameserver.Open(ctx, gameserver.WithBootstrap(doc))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	given := make(map[string]int)
	start := func(s *gameserver.Server, err error) {
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		given[s.Instance().GetId()]++
		mu.Unlock()
		if err := playModelled(ctx, s); err != nil {
			t.Errorf("%s: %v", s.Instance().GetId(), err)
		}
	}
	for range placed {
		games.Go(func() { start(h.Accept(ctx)) })
	}
	for range made {
		games.Go(func() { start(h.Create(ctx, nil)) })
	}
	games.Wait()
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}
	end()
	berth.Wait()
	if len(given) != placed+made || len(m.instances) != placed+made {
		t.Errorf("given out are %v, of %d", given, len(m.instances))
	}
	for id, in := range m.instances {
		if given[id] != 1 || !in.ended || len(in.done) != modelCalls {
			t.Errorf("%s was given out %d times, and has %d calls; ended: %v", id, given[id], len(in.done), in.ended)
		}
	}
}

// playModelled makes the calls, checks the events, and ends the game.
func playModelled(ctx context.Context, s *gameserver.Server) error {
	events := make(chan error, 1)
	seen := -1 // until the first event says where they begin
	go func() {
		events <- func() error {
			for e := range s.Events() {
				switch e := e.(type) {
				case gameserver.PlayersAdded:
					n, err := strconv.Atoi(e.Players[0].GetId())
					if err != nil || seen >= 0 && n != seen+1 {
						return fmt.Errorf("event %q after %d", e.Players[0].GetId(), seen)
					}
					seen = n
				case gameserver.Relinked:
					now := len(e.Instance.GetPlayers())
					if now < seen || e.LostWrites {
						return fmt.Errorf("linked again with %d events after %d; lost writes: %v", now, seen, e.LostWrites)
					}
					seen = now
				}
			}
			return nil
		}()
	}()
	for n := range modelCalls {
		value, err := gameserver.JSON(map[string]int{"n": n + 1})
		if err != nil {
			return err
		}
		if err := s.UpdateGameData(ctx, value); err != nil {
			return err
		}
	}
	return errors.Join(s.End(ctx, nil), s.Close(ctx), <-events)
}
