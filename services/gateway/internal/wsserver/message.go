package wsserver

import (
	"context"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/errs"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"

	"github.com/berth-dev/berth/services/gateway/internal/messages"
)

const (
	// maxTopic and maxData bound a message.
	maxTopic = 64
	maxData  = 16 << 10
	// explainEvery is how often a connection is told at most why its messages are dropped.
	explainEvery = time.Second
)

// message is what a server says about an instance, as a codec has decoded it. Its fields are valid during the call.
type message struct {
	instance, game, social []byte
	epoch, sequence        int64
	topic                  []byte
	data                   []byte // an encoded berth.type.v1.Data
	deep                   bool   // data is nested deeper than it may be
	odd                    bool   // data is not valid in JSON
}

// message passes a message on, or drops it and, not too often, says why.
func (c *conn) message(m message) {
	err := c.passOn(m)
	if err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.explained) >= explainEvery && !c.out.crowded(c.srv.cfg.Limits) {
		c.explained = now
		c.send(failureFrame(0, err))
	}
}

// passOn returns why a message is lost.
func (c *conn) passOn(m message) error {
	c.mu.Lock()
	if c.closing != 0 {
		c.mu.Unlock()
		return nil
	}
	if breach := c.state.Message(); breach != nil {
		c.close(breachCode(breach), breach.Message)
		c.mu.Unlock()
		return nil
	}
	caller, life := c.caller, c.life
	instance, linked := c.state.LinkedUnder(m.instance, m.epoch)
	linked = linked && !c.replaced // a newer connection has it, under another epoch
	c.mu.Unlock()
	if err := c.srv.cfg.Door.Frame(c.frames, c.remote); err != nil { // before credentials are looked at, which may take time
		return c.lost(err)
	}
	if err := c.alive(life); err != nil {
		return c.lost(err)
	}
	if err := c.admitMessage(m); err != nil {
		return c.lost(err)
	}
	if !linked {
		return c.lost(errs.New(errs.StaleLinkEpoch, "link_epoch: the instance is not linked over this connection under it; messages about it are dropped"))
	}
	if err := m.check(); err != nil {
		return c.lost(err)
	}
	return c.srv.cfg.Messages.Send(messages.Message{
		Namespace: caller.GetNamespace(), Instance: instance, Server: caller.GetServerId(), Sequence: m.sequence, Topic: m.topic, Data: m.data,
	})
}

// lost counts a message that is dropped for err, and returns that.
func (c *conn) lost(err error) error {
	c.srv.cfg.Metrics.MessagesLost.WithLabelValues(string(errs.ReasonOf(err))).Inc()
	return err
}

// admitMessage checks a message's credentials as those of a request are. The two handles are by far the most frequent, and cost no allocation.
func (c *conn) admitMessage(m message) error {
	if c.srv.cfg.Revoked(c.pair.Server()) {
		return errRevoked()
	}
	now := c.srv.cfg.Now()
	held, expired := c.pair.Holds(m.game, m.social, now)
	if !held {
		var err error
		if expired, err = c.pair.Check(context.Background(), string(m.game), string(m.social), now); err != nil {
			return err
		}
	}
	if expired && !c.srv.cfg.Outage() && !c.unrefreshable(now) {
		return errExpired()
	}
	return nil
}

// check returns an error unless the message is one.
func (m message) check() error {
	switch {
	case m.sequence < 1:
		return errs.New(errs.ValidationFailed, "sequence: must be 1 or higher, and above that of the message before")
	case len(m.topic) > maxTopic || !topical(m.topic):
		return errs.New(errs.ValidationFailed, "topic: must be at most %d characters A-Z a-z 0-9 . _ : / -", maxTopic)
	case len(m.data) > maxData:
		return errs.New(errs.ValidationFailed, "data: has %d bytes as encoded, and a message may have %d; send a durable one, or less", len(m.data), maxData)
	case m.deep:
		return errs.New(errs.ValidationFailed, "data: objects and arrays may be nested at most %d deep", maxDepth)
	case m.odd:
		return errs.New(errs.ValidationFailed, "data: not valid JSON data: each value must be set, and numbers must be finite")
	}
	return nil
}

// topical reports whether a topic has only characters that it may have.
func topical(topic []byte) bool {
	for _, c := range topic {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		other := c == '_' || c >= '-' && c <= ':' // from - to : there are . / and the digits
		if !letter && !other {
			return false
		}
	}
	return true
}

// Message implements hub.Socket. One that finds the queue crowded is dropped: it may be lost, and nothing else may be for it.
func (c *conn) Message(instance, topic, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.over || c.closing != 0:
		c.srv.cfg.Metrics.MessagesLost.WithLabelValues(string(errs.NotConnected)).Inc()
	case c.out.crowded(c.srv.cfg.Limits):
		c.srv.cfg.Metrics.MessagesLost.WithLabelValues(metricsSlow).Inc()
	default:
		c.srv.cfg.Metrics.MessagesOut.Inc()
		c.queueMessage(instance, topic, data)
	}
}

// queueMessage queues a message for the server. One whose data is none is dropped. The caller holds mu.
func (c *conn) queueMessage(instance, topic, data []byte) {
	if !c.codec.Text() {
		c.out.add(encodeMessage(instance, topic, data))
		c.startWriter()
		return
	}
	said := new(typev1.Data)
	if proto.Unmarshal(data, said) == nil {
		c.send(&linkv1.Frame{Kind: &linkv1.Frame_Message{Message: &linkv1.Message{InstanceId: string(instance), Topic: string(topic), Data: said}}})
	}
}

// metricsSlow is the reason of messages that are lost because their server reads too slowly.
const metricsSlow = "SLOW_CONSUMER"

// The fields of berth.link.v1.Frame.message and Message, which are encoded and read by hand: a message passes through here for every step of a game.
const (
	frameMessage = 10

	messageInstance = 1
	messageAuth     = 2
	messageEpoch    = 3
	messageSequence = 4
	messageTopic    = 5
	messageData     = 6

	authGame   = 1
	authSocial = 2

	tagSize = 1 // of every tag above
)

// encodeMessage encodes the frame of a message to a server.
func encodeMessage(instance, topic, data []byte) []byte {
	inner := 3*tagSize + protowire.SizeBytes(len(instance)) + protowire.SizeBytes(len(topic)) + protowire.SizeBytes(len(data))
	b := make([]byte, 0, tagSize+protowire.SizeBytes(inner))
	b = protowire.AppendTag(b, frameMessage, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(inner)) //nolint:gosec // a size
	b = protowire.AppendBytes(protowire.AppendTag(b, messageInstance, protowire.BytesType), instance)
	b = protowire.AppendBytes(protowire.AppendTag(b, messageTopic, protowire.BytesType), topic)
	return protowire.AppendBytes(protowire.AppendTag(b, messageData, protowire.BytesType), data)
}
