package grpcserver

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/ids"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/watch"
	"github.com/berth-dev/berth/services/gameinstance/internal/wire"
)

// Message serves berth.instance.v1.MessageService.
type Message struct {
	instancev1.UnimplementedMessageServiceServer
	instances *instance.Service
	watches   *watch.Hub
	ephemeral ephemeral
}

// NewMessage returns the handlers of MessageService.
func NewMessage(instances *instance.Service, watches *watch.Hub, exchange Exchange) *Message {
	return &Message{instances: instances, watches: watches, ephemeral: ephemeral{exchange, watches}}
}

// SendMessage implements the rpc.
func (s *Message) SendMessage(ctx context.Context, req *instancev1.SendMessageRequest) (*instancev1.SendMessageResponse, error) {
	if req.GetDelivery() == instancev1.SendMessageRequest_DELIVERY_EPHEMERAL {
		if err := s.ephemeral.send(ctx, ids.Namespace(req.GetNamespace()), req.GetInstanceId(), req.GetTopic(), req.GetData()); err != nil {
			return nil, err
		}
		return &instancev1.SendMessageResponse{Sent: true}, nil
	}
	data, err := wire.FromData("data", req.GetData())
	if err != nil {
		return nil, err
	}
	env, err := envelope(ctx, req.GetRequestId(), req)
	if err != nil {
		return nil, err
	}
	id := ids.Message(req.GetInstanceId(), auth.FromContext(ctx).Actor(), req.GetRequestId())
	cmd := instance.MessageServer{Message: instance.Message{ID: id, Topic: req.GetTopic(), Data: data}}
	if _, err := s.instances.Apply(ctx, ids.Namespace(req.GetNamespace()), req.GetInstanceId(), env, cmd); err != nil {
		return nil, err
	}
	return &instancev1.SendMessageResponse{MessageId: id}, nil
}

// AckMessages implements the rpc.
func (s *Message) AckMessages(ctx context.Context, req *instancev1.AckMessagesRequest) (*instancev1.AckMessagesResponse, error) {
	err := s.instances.AckMessages(ctx, ids.Namespace(req.GetNamespace()), req.GetInstanceId(), req.GetOffset())
	return &instancev1.AckMessagesResponse{}, err
}

// WatchMessages implements the rpc.
func (s *Message) WatchMessages(req *instancev1.WatchMessagesRequest, stream grpc.ServerStreamingServer[instancev1.WatchMessagesResponse]) error {
	return s.watches.Serve(stream.Context(), func(ctx context.Context, give func(func() error) error) error {
		ctx, end := context.WithCancel(ctx)
		durable, done := make(chan *instancev1.ServerMessage), make(chan error, 1) // durable holds none: what is not taken waits in the store
		var reader sync.WaitGroup
		defer reader.Wait()
		defer end()
		reader.Go(func() { done <- guarded(func() error { return s.durable(ctx, req, durable) }) })
		in, stop, err := s.ephemeral.watch(ctx, req)
		if err != nil {
			return err
		}
		defer stop()
		var ephemeral <-chan *instancev1.ServerMessage // nothing goes out before it is known that there is something to watch
		for {
			var m *instancev1.ServerMessage
			select {
			case m = <-durable:
				if m == nil {
					ephemeral = in.waiting
				}
			case m = <-ephemeral:
				in.taken(m)
			case <-in.slow:
				return errTooSlow()
			case err := <-done:
				return err
			}
			if err := give(func() error { return sendMessage(stream, m) }); err != nil {
				return err
			}
		}
	})
}

// sendMessage sends a message; nil says that the watch stands, which a caller would not see otherwise until there is a message.
func sendMessage(stream grpc.ServerStreamingServer[instancev1.WatchMessagesResponse], m *instancev1.ServerMessage) error {
	if m == nil {
		return stream.SendHeader(nil)
	}
	return stream.Send(&instancev1.WatchMessagesResponse{Message: m})
}

// durable hands durable messages out until there can be no more, and nil before them.
func (s *Message) durable(ctx context.Context, req *instancev1.WatchMessagesRequest, out chan<- *instancev1.ServerMessage) error {
	hand := func(m *instancev1.ServerMessage) error {
		select {
		case out <- m:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	begun := func() error { return hand(nil) }
	return s.watches.Messages(ctx, ids.Namespace(req.GetNamespace()), req.GetInstanceId(), begun, func(instanceID string, m instance.Said) error {
		if len(req.GetTopics()) > 0 && !slices.Contains(req.GetTopics(), m.Topic) {
			return nil
		}
		data, err := wire.Data(m.Data)
		if err != nil {
			return err
		}
		return hand(&instancev1.ServerMessage{InstanceId: instanceID, ServerId: m.ServerID, Offset: m.Offset, Topic: m.Topic, Data: data})
	})
}

// StreamMessages implements the rpc.
func (s *Message) StreamMessages(stream grpc.BidiStreamingServer[instancev1.StreamMessagesRequest, instancev1.StreamMessagesResponse]) error {
	return s.ephemeral.stream(stream)
}
