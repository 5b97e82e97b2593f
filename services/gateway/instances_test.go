package gateway_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway"
)

// told is the next frame, which must be a notification: of which instance, and its offset.
func (s *socket) told() (instance string, offset int64) {
	s.tb.Helper()
	n := s.receive().GetNotification()
	if n == nil {
		s.tb.Fatal("got another frame, want a notification")
	}
	return n.GetInstanceId(), n.GetOffset()
}

// assigned is the next frame, which must be an assignment: of which instance.
func (s *socket) assigned() string {
	s.tb.Helper()
	f := s.receive()
	if f.GetAssignment() == nil {
		s.tb.Fatalf("got %v, want an assignment", f)
	}
	return f.GetAssignment().GetInstanceId()
}

func (s *socket) ack(instance string, offset int64) {
	s.tb.Helper()
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Ack{Ack: &linkv1.Ack{InstanceId: instance, Offset: offset}}})
}

// ended closes the socket and returns the instances that game-instance is told of.
func (w *world) ended(s *socket) []string {
	w.tb.Helper()
	_ = s.ws.CloseNow()
	return next(w.tb, "CloseSession", w.backend.sessions.closed).GetInstanceIds()
}

func sorted(ids ...string) []string {
	slices.Sort(ids)
	return ids
}

// publishAssignment tells the gateway of an instance that was placed on a server.
func (w *world) publishAssignment(server, instance string) {
	w.tb.Helper()
	w.publish(&eventv1.Envelope{Assignments: []*eventv1.ServerAssignment{{ServerId: server, InstanceId: instance}}})
}

func supersession(instance string, offset, previous int64) *eventv1.Delivery {
	return &eventv1.Delivery{InstanceId: instance, Offset: offset, Previous: previous, Event: &gameserverv1.InstanceEvent{
		Event: &gameserverv1.InstanceEvent_Superseded{Superseded: &gameserverv1.Superseded{}},
	}}
}

func termination(instance string, offset, previous int64) *eventv1.Delivery {
	return &eventv1.Delivery{InstanceId: instance, Offset: offset, Previous: previous, Event: &gameserverv1.InstanceEvent{
		Event: &gameserverv1.InstanceEvent_Terminated{Terminated: &gameserverv1.Terminated{}},
	}}
}

// Each instance that Hello names goes on after its own offset, is acknowledged with its own epoch, and is told of when the socket ends.
func TestSeveralInstancesGoOnOverOneSocket(t *testing.T) {
	ses := newSessions()
	a, b := uuid.NewString(), uuid.NewString()
	ses.mailbox[a] = []*eventv1.Delivery{delivery(a, 5, 4), delivery(a, 6, 5)}
	ses.mailbox[b] = []*eventv1.Delivery{delivery(b, 100, 90)}
	w := startOn(t, redistest.Embedded(t), ses, nil)
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{ResumeKey: "k", Instances: []*linkv1.HelloInstance{
		{InstanceId: a, LastOffset: 5, LinkEpoch: 3}, {InstanceId: b, LastOffset: 90, LinkEpoch: 8},
	}})
	if got := s.welcome.GetInstances(); len(got) != 2 || got[0].GetLinkEpoch() != 4 || got[1].GetLinkEpoch() != 9 {
		t.Errorf("Welcome has %v", got)
	}
	first := map[string]int64{}
	for range 2 {
		id, offset := s.told()
		first[id] = offset
	}
	if first[a] != 6 || first[b] != 100 {
		t.Errorf("told of %v", first)
	}
	w.deliver(delivery(b, 101, 100), delivery(a, 7, 6), delivery(b, 102, 101))
	for _, want := range []struct {
		id     string
		offset int64
	}{{b, 101}, {a, 7}, {b, 102}} {
		if id, offset := s.told(); id != want.id || offset != want.offset {
			t.Errorf("told of %s %d, want %v", id, offset, want)
		}
	}
	s.ack(a, 7)
	s.ack(b, 102)
	epochs := map[string]int64{}
	for range 2 {
		ack := next(t, "the acknowledgement", w.backend.sessions.acked)
		epochs[ack.GetInstanceId()] = ack.GetLinkEpoch()
	}
	if epochs[a] != 4 || epochs[b] != 9 {
		t.Errorf("acknowledged with epochs %v", epochs)
	}
	if got := w.ended(s); !slices.Equal(got, sorted(a, b)) {
		t.Errorf("game-instance was told of %v", got)
	}
}

func TestAFurtherInstanceIsLinkedOverTheSameSocket(t *testing.T) {
	w := start(t, nil)
	a, b, c := uuid.NewString(), uuid.NewString(), uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), a)
	w.deliver(delivery(a, 1, 0))
	s.notified()
	w.commit(delivery(b, 50, 0))
	for _, id := range []string{b, c} {
		if r := s.call("Link", id, nil); r.GetError() != nil {
			t.Fatalf("Link: %v", r.GetError())
		}
		if id == b { // what its mailbox holds follows
			if got, offset := s.told(); got != b || offset != 50 {
				t.Errorf("told of %s %d", got, offset)
			}
		}
	}
	for n, id := range []string{c, a, b} {
		offset := int64(100 + n)
		w.deliver(delivery(id, offset, 0))
		if got, at := s.told(); got != id || at != offset {
			t.Errorf("told of %s %d, want %s %d", got, at, id, offset)
		}
	}
	if got := w.ended(s); !slices.Equal(got, sorted(a, b, c)) {
		t.Errorf("game-instance was told of %v", got)
	}
}

// The answer to CreateAndLink, which names no instance, links the one that it made.
func TestCreateAndLinkLinksTheNewInstance(t *testing.T) {
	w := start(t, nil)
	old, created := uuid.NewString(), uuid.NewString()
	relayed := make(chan *linkv1.Request, 1)
	w.backend.sessions.set(func(s *sessions) {
		s.relays = func(r *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
			resp, err := echo(r)
			if r.GetRequest().GetMethod() == "CreateAndLink" {
				relayed <- r.GetRequest()
				resp.Link = &sessionv1.LinkState{InstanceId: created, LinkEpoch: 7, Offset: 20}
			}
			return resp, err
		}
	})
	s := w.linked(w.backend.issuer.pair(t), old)
	w.commit(delivery(created, 20, 19), delivery(created, 21, 20)) // 20 is in the start data
	if r := s.call("CreateAndLink", "", []byte("new")); string(r.GetResult()) != "new" {
		t.Fatalf("%v", r)
	}
	if r := next(t, "the request", relayed); r.GetInstanceId() != "" || r.GetId() != s.lastID || string(r.GetPayload()) != "new" {
		t.Errorf("it arrived as %v", r)
	}
	if id, offset := s.told(); id != created || offset != 21 {
		t.Errorf("told of %s %d", id, offset)
	}
	w.deliver(delivery(created, 22, 21), delivery(old, 1, 0))
	for _, want := range []string{created, old} {
		if id, _ := s.told(); id != want {
			t.Errorf("told of %s, want %s", id, want)
		}
	}
	s.ack(created, 22)
	if a := next(t, "the acknowledgement", w.backend.sessions.acked); a.GetInstanceId() != created || a.GetLinkEpoch() != 7 || a.GetOffset() != 22 {
		t.Errorf("%v", a)
	}
	if got := w.ended(s); !slices.Equal(got, sorted(old, created)) {
		t.Errorf("game-instance was told of %v", got)
	}
}

// However one instance ends, the others and the socket go on. A link that is gone is not delivered to; one of an instance that is over stays for
// acknowledgements and for the end of the socket to be told.
func TestTheEndOfOneInstanceLeavesTheOthers(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(w *world, s *socket, id string)
		gone bool
	}{
		"superseded": {func(w *world, s *socket, id string) { w.deliver(supersession(id, 2, 1)); s.notified() }, true},
		"unlinked":   {func(_ *world, s *socket, id string) { s.call("UnlinkGameInstance", id, nil) }, true},
		"terminated": {func(w *world, s *socket, id string) { w.deliver(termination(id, 2, 1)); s.notified() }, false},
		"ended":      {func(_ *world, s *socket, id string) { s.call("EndGameInstance", id, nil) }, false},
		"refused": {func(w *world, s *socket, id string) {
			w.backend.sessions.set(func(b *sessions) {
				b.relays = func(r *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
					return &sessionv1.RelayResponse{Id: r.GetId(), Response: &linkv1.Response{Outcome: &linkv1.Response_Error{Error: &linkv1.Error{Code: 9, Reason: "SUPERSEDED"}}}}, nil
				}
			})
			s.call("UpdateGameData", id, nil)
			w.backend.sessions.set(func(b *sessions) { b.relays = nil })
			w.deliver(supersession(id, 2, 1)) // which overtook nothing
			s.notified()
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, nil)
			over, other := uuid.NewString(), uuid.NewString()
			s := w.linked(w.backend.issuer.pair(t), over)
			s.call("Link", other, nil)
			w.deliver(delivery(over, 1, 0))
			s.notified()
			c.end(w, s, over)
			if c.gone {
				w.deliver(delivery(over, 9, 8)) // of a link that another server has by now
			} else {
				s.ack(over, 2)
				if a := next(t, "the acknowledgement", w.backend.sessions.acked); a.GetInstanceId() != over {
					t.Errorf("%v", a)
				}
			}
			w.deliver(delivery(other, 1, 0))
			if id, offset := s.told(); id != other || offset != 1 {
				t.Errorf("told of %s %d", id, offset)
			}
			if r := s.call("UpdateGameData", other, []byte("on")); string(r.GetResult()) != "on" {
				t.Errorf("%v", r)
			}
			want := sorted(over, other)
			if c.gone {
				want = []string{other}
			}
			if got := w.ended(s); !slices.Equal(got, want) {
				t.Errorf("game-instance was told of %v, want %v", got, want)
			}
		})
	}
}

// A server that plays one match after the other over one socket gathers no links.
func TestLinksOfMatchesThatAreOverAreNotGathered(t *testing.T) {
	w := start(t, nil)
	live := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), live)
	for range 300 {
		id := uuid.NewString()
		s.call("Link", id, nil)
		w.deliver(delivery(id, 1, 0))
		s.notified()
		s.ack(id, 1)
		if r := s.call("EndGameInstance", id, nil); r.GetError() != nil {
			t.Fatal(r.GetError())
		}
	}
	w.deliver(delivery(live, 1, 0))
	if id, _ := s.told(); id != live {
		t.Errorf("told of %s", id)
	}
	if got := w.ended(s); len(got) > 100 || !slices.Contains(got, live) {
		t.Errorf("%d instances are linked at the end", len(got))
	}
}

// A mailbox that finds no room waits for it, whichever of a server's instances it belongs to.
func TestManyLargeMailboxesArriveWhole(t *testing.T) {
	ses := newSessions()
	const instances, entries = 50, 20
	hello := &linkv1.Hello{ResumeKey: "k"}
	for range instances {
		id := uuid.NewString()
		hello.Instances = append(hello.Instances, &linkv1.HelloInstance{InstanceId: id})
		for i := int64(1); i <= entries; i++ {
			ses.mailbox[id] = append(ses.mailbox[id], delivery(id, i, i-1))
		}
	}
	w := startOn(t, redistest.Embedded(t), ses, func(c *gateway.Config) { c.Limits.Queue = 8 })
	s := w.open(w.backend.issuer.pair(t), hello)
	last := map[string]int64{}
	for range instances * entries {
		id, offset := s.told()
		if offset != last[id]+1 {
			t.Fatalf("%s: %d after %d", id, offset, last[id])
		}
		last[id] = offset
	}
}

func TestWelcomeNamesTheAssignedInstances(t *testing.T) {
	w := start(t, nil)
	a, b := uuid.NewString(), uuid.NewString()
	w.backend.sessions.set(func(s *sessions) {
		s.opens = func(*sessionv1.OpenSessionRequest) (*sessionv1.OpenSessionResponse, error) {
			return &sessionv1.OpenSessionResponse{SessionId: "s", SessionEpoch: 1, ResumeKey: "k", AssignedInstanceIds: []string{a, b}}, nil
		}
	})
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	if got := s.welcome.GetAssignedInstanceIds(); !slices.Equal(got, []string{a, b}) {
		t.Errorf("assigned %v", got)
	}
}

func TestAnAssignmentGoesToItsServerUntilTheInstanceIsLinked(t *testing.T) {
	w := start(t, nil)
	c, id, further := w.backend.issuer.pair(t), uuid.NewString(), uuid.NewString()
	s, other := w.open(c, &linkv1.Hello{}), w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	for range 2 { // it is repeated, should the first one have been lost
		w.publishAssignment(c.server, id)
		if got := s.assigned(); got != id {
			t.Errorf("assigned %s", got)
		}
	}
	w.publishAssignment(uuid.NewString(), id) // of a server that is not here
	s.call("Link", id, nil)
	w.publishAssignment(c.server, id) // it crossed the link
	w.publishAssignment(c.server, further)
	if got := s.assigned(); got != further {
		t.Errorf("assigned %s, which is linked", got)
	}
	w.deliver(supersession(id, 1, 0)) // the server can get it again later
	s.notified()
	w.publishAssignment(c.server, id)
	if got := s.assigned(); got != id {
		t.Errorf("assigned %s", got)
	}
	s.call("Link", further, nil)
	s.call("EndGameInstance", further, nil)
	w.publishAssignment(c.server, further) // the end, of which the server was told, was lost in the store
	if got := s.assigned(); got != further {
		t.Errorf("assigned %s", got)
	}
	if r := other.call("Echo", "", nil); r == nil { // and nothing of all that came here
		t.Error("no answer")
	}
}

// An assignment is no reason to close a server that reads slowly: it is left out, and comes again.
func TestAnAssignmentThatFindsTheSocketCrowdedIsLeftOut(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.RelayStreams, c.Limits.Queue, c.Limits.QueueBytes = 1, 64, 1<<30 })
	// So that the kernel takes little of what is not read.
	w.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if tcp, ok := conn.(*net.TCPConn); ok {
			err = tcp.SetReadBuffer(16 << 10)
		}
		return conn, err
	}}}
	t.Cleanup(w.http.CloseIdleConnections)
	big := bytes.Repeat([]byte("x"), 256<<10)
	arrived := make(chan struct{}, 100)
	w.backend.sessions.set(func(s *sessions) {
		s.relays = func(r *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
			if r.GetRequest().GetMethod() == "Big" {
				r.Request.Payload = big
				arrived <- struct{}{}
			}
			return echo(r)
		}
	})
	c, witnessed := w.backend.issuer.pair(t), uuid.NewString()
	slow, witness := w.open(c, &linkv1.Hello{}), w.linked(w.backend.issuer.pair(t), witnessed)
	const unread = 60 // of which more than half wait in the queue
	for range unread {
		slow.request("Big", "", nil)
	}
	for range unread {
		next(t, "a request", arrived)
	}
	left, sent := uuid.NewString(), uuid.NewString()
	witness.call("Echo", "", nil) // its answer comes behind theirs on the one stream, so they are queued
	w.publishAssignment(c.server, left)
	w.deliver(delivery(witnessed, 1, 0))
	witness.notified() // so the gateway has dealt with the assignment
	for range unread {
		if f := slow.receive(); f.GetResponse() == nil {
			t.Fatalf("got %T", f.GetKind())
		}
	}
	w.publishAssignment(c.server, sent)
	if got := slow.assigned(); got != sent {
		t.Errorf("%s was assigned to a socket that was crowded", got)
	}
}

// A server of the largest capacity can come back with all its instances, however large their numbers are.
func TestHelloNamesAtMostAThousandInstances(t *testing.T) {
	w := start(t, nil)
	const most = 1<<63 - 1
	hello := &linkv1.Hello{ResumeKey: strings.Repeat("k", 64)}
	var assigned []string
	for range 1000 {
		assigned = append(assigned, uuid.NewString())
		hello.Instances = append(hello.Instances, &linkv1.HelloInstance{InstanceId: uuid.NewString(), LastOffset: most, LinkEpoch: most - 1, Revision: most, LastRequest: most})
	}
	w.backend.sessions.set(func(s *sessions) {
		s.opens = func(req *sessionv1.OpenSessionRequest) (*sessionv1.OpenSessionResponse, error) {
			resp := &sessionv1.OpenSessionResponse{SessionId: "s", SessionEpoch: 1, ResumeKey: "k", AssignedInstanceIds: assigned}
			for _, i := range req.GetHello().GetInstances() {
				resp.Links = append(resp.Links, &sessionv1.LinkState{InstanceId: i.GetInstanceId(), LinkEpoch: most, Offset: most - 1})
			}
			return resp, nil
		}
	})
	s := w.open(w.backend.issuer.pair(t), hello)
	next(t, "OpenSession", w.backend.sessions.opened)
	if len(s.welcome.GetInstances()) != 1000 || len(s.welcome.GetAssignedInstanceIds()) != 1000 {
		t.Errorf("%d instances go on, %d are assigned", len(s.welcome.GetInstances()), len(s.welcome.GetAssignedInstanceIds()))
	}
	last := hello.GetInstances()[999].GetInstanceId()
	w.deliver(delivery(last, most, most-1))
	if got := s.notified(); got != most {
		t.Errorf("%d", got)
	}
	if got := w.ended(s); len(got) != 1000 {
		t.Errorf("game-instance was told of %d", len(got))
	}

	hello.Instances = append(hello.Instances, &linkv1.HelloInstance{InstanceId: uuid.NewString()})
	s, _, err := w.dial(w.backend.issuer.pair(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: hello}})
	goodbye := s.receive().GetGoodbye()
	if goodbye.GetCode() != linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION || !strings.Contains(goodbye.GetMessage(), "1001") || !strings.Contains(goodbye.GetMessage(), "1000") {
		t.Errorf("%v", goodbye)
	}
	if n := len(w.backend.sessions.opened); n != 0 {
		t.Errorf("%d sessions were opened for it", n)
	}
}

func TestLinksOverOneSocketAreBounded(t *testing.T) {
	w := start(t, nil)
	const most = 2000
	linked := make([]string, most)
	w.backend.sessions.set(func(s *sessions) {
		s.opens = func(*sessionv1.OpenSessionRequest) (*sessionv1.OpenSessionResponse, error) {
			resp := &sessionv1.OpenSessionResponse{SessionId: "s", SessionEpoch: 1, ResumeKey: "k"}
			for n := range linked {
				linked[n] = uuid.NewString()
				resp.Links = append(resp.Links, &sessionv1.LinkState{InstanceId: linked[n], LinkEpoch: 1})
			}
			return resp, nil
		}
	})
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	for method, instance := range map[string]string{"Link": uuid.NewString(), "CreateAndLink": ""} {
		if e := s.call(method, instance, nil).GetError(); e.GetReason() != string(errs.LimitExceeded) {
			t.Errorf("%s: %v", method, e)
		}
	}
	for method, instance := range map[string]string{"Link": linked[0], "UpdateGameData": uuid.NewString()} {
		if e := s.call(method, instance, nil).GetError(); e != nil {
			t.Errorf("%s: %v", method, e)
		}
	}
	s.call("UnlinkGameInstance", linked[1], nil)
	if e := s.call("CreateAndLink", "", nil).GetError(); e != nil {
		t.Errorf("with room: %v", e)
	}
}
