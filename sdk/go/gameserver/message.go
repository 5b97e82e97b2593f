package gameserver

import (
	"context"
	"fmt"
	"regexp"
	"sync"
	"time"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// Bounds of ephemeral messages.
const (
	maxEphemeral  = 16 << 10 // bytes of data, encoded
	maxSaid       = 256      // that wait for the connection to take them, of all instances
	maxHeardAhead = 256      // an ephemeral message is dropped when the game has so many events to read
)

var topics = regexp.MustCompile(`^[A-Za-z0-9._:/-]{0,64}$`)

// SendMessage gives the instance's backends a durable message: Berth keeps it until one of them has acknowledged it. Messages arrive in the
// order in which they were sent, if each waits for the answer to the one before. It works as ConnectPlayers does.
//
// topic is a name of the game's own, for those who choose: at most 64 characters A-Z a-z 0-9 . _ : / -. data may have 64 KiB as encoded. It
// fails with an *Error, such as MAILBOX_FULL when 256 messages, or 1 MiB of them, wait for the backends.
func (s *Server) SendMessage(ctx context.Context, topic string, data *typev1.Data) error {
	req := &gameserverv1.SendMessageRequest{Topic: topic, Data: data}
	return s.call(ctx, "SendMessage", req, effectOf(
		func(*match, *gameserverv1.SendMessageRequest, *gameserverv1.SendMessageResponse) {}))
}

// SendEphemeral says something to the backends that listen now. It costs far less than SendMessage, waits for nothing and may be lost: while
// there is no connection, where nobody listens, and where messages come faster than they can be sent, of which the oldest are dropped then
// (at most 256 of all instances wait). What arrives, arrives in order. Berth's refusals are logged.
//
// topic is as for SendMessage, and data may have 16 KiB as encoded. It fails with an *Error (VALIDATION_FAILED, LIMIT_EXCEEDED) where they
// are not so, and with ErrClosed; that the message is lost is no error.
func (s *Server) SendEphemeral(topic string, data *typev1.Data) error {
	select {
	case <-s.ending.done:
		return fmt.Errorf("gameserver: SendEphemeral: %w", s.ending.closed())
	default:
	}
	if !topics.MatchString(topic) {
		return fmt.Errorf("gameserver: SendEphemeral: %w", &Error{
			Code: codes.InvalidArgument, Reason: reasonInvalid, Message: "topic: it may have at most 64 characters A-Z a-z 0-9 . _ : / -",
		})
	}
	raw, err := proto.Marshal(data)
	if err != nil { // it would fail in the writer, too, and cost the connection
		return fmt.Errorf("gameserver: SendEphemeral: %w", &Error{Code: codes.InvalidArgument, Reason: reasonInvalid, Message: "data: it cannot be encoded: " + err.Error()})
	}
	if size := len(raw); size > maxEphemeral {
		return fmt.Errorf("gameserver: SendEphemeral: %w", errorOf(tooLarge(
			fmt.Sprintf("data: it takes %d bytes; an ephemeral message may have %d. SendMessage takes more", size, maxEphemeral))))
	}
	s.host.said.add(&said{server: s, topic: topic, data: proto.CloneOf(data)})
	return nil
}

// said is an ephemeral message that is to be sent.
type said struct {
	server   *Server
	topic    string
	data     *typev1.Data
	sequence int64
}

// sayings are the ephemeral messages that wait for the writer, at most maxSaid. Overflow: the oldest is dropped.
type sayings struct {
	wakeWriter chan<- struct{}

	mu   sync.Mutex
	wait []*said
}

func (q *sayings) add(m *said) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := m.server
	s.saidLast = max(s.saidLast+1, time.Now().UnixMicro())
	m.sequence = s.saidLast
	if len(q.wait) == maxSaid {
		q.wait[0] = nil
		q.wait = q.wait[1:]
	}
	q.wait = append(q.wait, m)
	wake(q.wakeWriter)
}

// take returns what waits. What is not sent then is lost.
func (q *sayings) take() []*said {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.wait
	q.wait = nil
	return all
}

// say sends an ephemeral message, if its instance is linked here.
func (h *Host) say(ctx context.Context, sock *socket, m *said) error {
	epoch, here := h.outbox.linkOf(m.server.ledger, sock)
	if !here {
		return nil
	}
	return sock.write(ctx, &linkv1.Frame{Kind: &linkv1.Frame_Message{Message: &linkv1.Message{
		InstanceId: m.server.id, Auth: sock.auth, LinkEpoch: epoch, Sequence: m.sequence, Topic: m.topic, Data: m.data,
	}}})
}

// heard takes in an ephemeral message. Overflow: one that the game has no eyes for is dropped.
func (h *Host) heard(sock *socket, m *linkv1.Message) {
	s := h.server(m.GetInstanceId())
	if s == nil {
		return
	}
	if _, here := h.outbox.linkOf(s.ledger, sock); !here {
		return
	}
	if !s.inbox.mention(MessageReceived{Topic: m.GetTopic(), Data: m.GetData()}) && h.complaints.due() {
		s.log.Warn("events are not read fast enough, ephemeral messages are dropped")
	}
}

// sometimes is for what is worth a line in the log, but not each time.
type sometimes struct{ next time.Time }

// due reports whether it is time for another line.
func (s *sometimes) due() bool {
	now := time.Now()
	if now.Before(s.next) {
		return false
	}
	s.next = now.Add(time.Second)
	return true
}

// idsKept is how many ids of messages an inbox remembers: more than Berth gives again after a fresh link, which is at most what it keeps.
const idsKept = 1024

// recentIDs remembers the ids of messages. Overflow: the oldest is forgotten.
type recentIDs struct {
	known map[string]struct{}
	order []string
}

// add reports whether the id is new, and remembers it. A message without one is always new.
func (r *recentIDs) add(id string) bool {
	if id == "" {
		return true
	}
	if _, known := r.known[id]; known {
		return false
	}
	if r.known == nil {
		r.known = make(map[string]struct{})
	}
	if len(r.order) == idsKept {
		delete(r.known, r.order[0])
		r.order = r.order[1:]
	}
	r.known[id] = struct{}{}
	r.order = append(r.order, id)
	return true
}
