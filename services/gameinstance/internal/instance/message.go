package instance

import (
	"context"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
)

// Message is what a backend says to an instance's server.
type Message struct {
	ID, Topic string
	Data      Data
}

// Said is what an instance's server says to its backends.
type Said struct {
	// Offset is its place among those of the instance; the store gives it.
	Offset   int64
	ServerID string
	Topic    string
	Data     Data
}

// MaxMessage is how large a durable message may be.
const MaxMessage = 64 << 10

// MaxSaid and MaxSaidBytes are how many messages may wait for the backends of an instance, and how large they may be together.
const (
	MaxSaid      = 256
	MaxSaidBytes = 1 << 20
)

// MessageServer gives a message to the instance's server, or to the one that it will have.
type MessageServer struct{ Message }

// MessageBackends gives a message to the instance's backends.
type MessageBackends struct {
	Server Caller
	Topic  string
	Data   Data
}

func (c MessageServer) decide(t *turn) error {
	if err := t.live(); err != nil {
		return err
	}
	if err := fitsMessage(c.Data); err != nil {
		return err
	}
	t.Events = append(t.Events, Event{Message: &c.Message}) // not in a snapshot, so that it waits for a link
	t.recordUpdate("backend_message", "")
	return nil
}

func (c MessageBackends) decide(t *turn) error {
	if err := t.open(c.Server); err != nil {
		return err
	}
	if err := fitsMessage(c.Data); err != nil {
		return err
	}
	m := Said{ServerID: c.Server.ServerID, Topic: c.Topic, Data: c.Data}
	t.i.SaidCount++
	t.i.SaidBytes += m.size()
	if t.i.SaidCount > MaxSaid || t.i.SaidBytes > MaxSaidBytes {
		return errs.New(errs.MailboxFull, "the backends of this instance have %d messages, or %d bytes of them, to acknowledge; try again later", MaxSaid, MaxSaidBytes).Retry(time.Second)
	}
	t.Said = append(t.Said, m)
	t.i.LastSaid = min(t.i.LastSaid, 0) - 1 // the n-th of its commit, until that is made
	t.recordUpdate("server_message", "")
	return nil
}

// size bounds what the message takes, its offset and names included.
func (m Said) size() int { return m.Data.Size + 256 }

func fitsMessage(d Data) error {
	if d.Size > MaxMessage {
		return errs.New(errs.LimitExceeded, "data: a durable message may have %d bytes as encoded, and this has %d", MaxMessage, d.Size)
	}
	return nil
}

// AckMessages drops an instance's messages to its backends up to an offset.
func (s *Service) AckMessages(ctx context.Context, namespace, id string, offset int64) error {
	if _, err := s.get(ctx, namespace, id, Needs{}); err != nil {
		return err
	}
	return s.cfg.Store.AckMessages(ctx, namespace, id, offset)
}
