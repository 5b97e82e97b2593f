package grpcserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/rpc"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/messages"
	"github.com/berth-dev/berth/services/gameinstance/internal/watch"
)

const (
	// maxEphemeral is the most that an ephemeral message may have, encoded.
	maxEphemeral = 16 << 10
	// maxWaiting and maxWaitingBytes are how many messages wait for a watcher to read; one that has more is ended with WATCH_TOO_SLOW.
	maxWaiting      = 4096
	maxWaitingBytes = 4 << 20
)

var topicPattern = regexp.MustCompile(`^[A-Za-z0-9._:/-]{0,64}$`)

// Exchange carries ephemeral messages.
type Exchange interface {
	// Send queues a message for the server of an instance. It does not wait for it to be published.
	Send(ctx context.Context, namespace, instanceID, topic string, data []byte) error
	// Watch hands over messages of game servers until stop is called.
	Watch(ctx context.Context, w messages.Watch) (stop func(), err error)
}

// ephemeral has the parts of MessageService's rpcs that are about ephemeral messages.
type ephemeral struct {
	exchange Exchange
	watches  *watch.Hub
}

// send sends one message.
func (e ephemeral) send(ctx context.Context, namespace, instanceID, topic string, data *typev1.Data) error {
	raw, err := proto.Marshal(data)
	switch {
	case err != nil:
		return errs.Wrap(err, errs.ValidationFailed, "data: cannot be encoded")
	case len(raw) > maxEphemeral:
		return errs.New(errs.LimitExceeded, "data: an ephemeral message may have %d bytes as encoded, and this one has %d; send it as a durable one, or a reference to it", maxEphemeral, len(raw))
	case instanceID == "":
		return errs.New(errs.ValidationFailed, "instance_id: is missing")
	case !topicPattern.MatchString(topic):
		return errs.New(errs.ValidationFailed, "topic: must be at most 64 characters A-Z a-z 0-9 . _ : / -")
	}
	return e.exchange.Send(ctx, namespace, instanceID, topic, raw)
}

// inbox holds messages of game servers for one watcher that reads them at its own speed.
type inbox struct {
	waiting chan *instancev1.ServerMessage // of maxWaiting, and maxWaitingBytes; what does not fit ends the watch
	bytes   atomic.Int64
	slow    chan struct{} // closed then
	once    sync.Once
}

func newInbox() *inbox {
	return &inbox{waiting: make(chan *instancev1.ServerMessage, maxWaiting), slow: make(chan struct{})}
}

// take puts a message in, and never waits. One whose data cannot be read is left out: its server made it so.
func (i *inbox) take(m messages.Message) {
	data := new(typev1.Data)
	if proto.Unmarshal(m.Data, data) != nil {
		return
	}
	out := &instancev1.ServerMessage{InstanceId: string(m.Instance), ServerId: string(m.Server), Topic: string(m.Topic), Data: data}
	if i.bytes.Add(int64(proto.Size(out))) <= maxWaitingBytes {
		select {
		case i.waiting <- out:
			return
		default:
		}
	}
	i.once.Do(func() { close(i.slow) })
}

// taken makes room for what comes after a message that was read.
func (i *inbox) taken(m *instancev1.ServerMessage) { i.bytes.Add(-int64(proto.Size(m))) }

func errTooSlow() error {
	return errs.New(errs.WatchTooSlow, "more than %d messages, or %d bytes of them, wait to be read; read faster, or choose fewer by instances or topics", maxWaiting, maxWaitingBytes)
}

// watch begins to fill an inbox with the messages that a request asks for; stop ends that.
func (e ephemeral) watch(ctx context.Context, req *instancev1.WatchMessagesRequest) (in *inbox, stop func(), err error) {
	in = newInbox()
	w := messages.Watch{Namespace: ids.Namespace(req.GetNamespace()), Topics: req.GetTopics(), Take: in.take}
	if id := req.GetInstanceId(); id != "" {
		w.Instances = []string{id}
	}
	stop, err = e.exchange.Watch(ctx, w)
	return in, stop, err
}

// stream serves StreamMessages.
func (e ephemeral) stream(stream grpc.BidiStreamingServer[instancev1.StreamMessagesRequest, instancev1.StreamMessagesResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	want := first.GetSubscribe()
	if want == nil {
		return errs.New(errs.ValidationFailed, "subscribe: must be the first request; with nothing set it asks for all messages of the namespace \"default\"")
	}
	namespace := ids.Namespace(want.GetNamespace())
	ctx := stream.Context()
	if err := auth.FromContext(ctx).MayUse(namespace); err != nil {
		return err
	}
	in := newInbox()
	if !want.GetNothing() {
		stop, err := e.exchange.Watch(ctx, messages.Watch{Namespace: namespace, Instances: want.GetInstanceIds(), Topics: want.GetTopics(), Take: in.take})
		if err != nil {
			return err
		}
		defer stop()
	}
	if err := stream.SendHeader(nil); err != nil { // what is said from now on arrives
		return err
	}
	return e.watches.Serve(ctx, func(ctx context.Context, give func(func() error) error) error {
		refused := make(chan *instancev1.MessageRefused) // not buffered: who reads no refusals sends no further messages
		ended := make(chan error, 1)
		go func() { ended <- guarded(func() error { return e.sendAll(stream, namespace, refused) }) }() //nolint:contextcheck // its Recv returns when the stream's handler has
		for {
			var out instancev1.StreamMessagesResponse
			select {
			case m := <-in.waiting:
				in.taken(m)
				out.Step = &instancev1.StreamMessagesResponse_Message{Message: m}
			case r := <-refused:
				out.Step = &instancev1.StreamMessagesResponse_Refused{Refused: r}
			case <-in.slow:
				return errTooSlow()
			case <-ctx.Done():
				return context.Cause(ctx)
			case err := <-ended:
				if err != nil || want.GetNothing() {
					return err
				}
				ended = nil // it has no more to send, and still listens
				continue
			}
			if err := give(func() error { return stream.Send(&out) }); err != nil {
				return err
			}
		}
	})
}

// guarded makes a panic of a goroutine of ours the failure of its call.
func guarded(run func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return run()
}

// sendAll sends what comes over the stream until the caller has no more.
func (e ephemeral) sendAll(stream grpc.BidiStreamingServer[instancev1.StreamMessagesRequest, instancev1.StreamMessagesResponse], namespace string, refused chan<- *instancev1.MessageRefused) error {
	ctx := stream.Context()
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		m := req.GetMessage()
		if m == nil {
			return errs.New(errs.ValidationFailed, "message: must be set in every request after the first")
		}
		err = e.send(ctx, namespace, m.GetInstanceId(), m.GetTopic(), m.GetData())
		if err == nil {
			continue
		}
		why := rpc.Public(err)
		select {
		case refused <- &instancev1.MessageRefused{InstanceId: m.GetInstanceId(), Reason: string(why.Reason), Message: why.Message}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
