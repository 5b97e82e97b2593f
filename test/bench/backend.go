package main

import (
	"context"
	"encoding/json"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

func payloadOf(at int64) *typev1.Data {
	return &typev1.Data{Kind: &typev1.Data_Binary{Binary: binaryData(at)[dataHeader:]}}
}

// say has a backend say something to the socket's server, with a call for it alone.
func (c *socket) say(at int64) {
	_, err := c.set.talk.SendMessage(c.set.as, &instancev1.SendMessageRequest{
		InstanceId: c.instance, Topic: topic, Data: payloadOf(at), Delivery: instancev1.SendMessageRequest_DELIVERY_EPHEMERAL,
	})
	if err != nil {
		c.set.fail(err)
	}
}

// sender is a backend that says all over one stream.
type sender struct {
	set    *set
	mu     sync.Mutex
	stream instancev1.MessageService_StreamMessagesClient
}

func newSender(s *set) (*sender, error) {
	stream, err := s.talk.StreamMessages(s.as)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				s.fail(err)
				return
			}
			s.fail(refusal{m.GetRefused()})
		}
	}()
	return &sender{set: s, stream: stream}, stream.Send(subscription(&instancev1.Subscribe{Nothing: true}))
}

func subscription(s *instancev1.Subscribe) *instancev1.StreamMessagesRequest {
	return &instancev1.StreamMessagesRequest{Step: &instancev1.StreamMessagesRequest_Subscribe{Subscribe: s}}
}

func message(m *instancev1.BackendMessage) *instancev1.StreamMessagesRequest {
	return &instancev1.StreamMessagesRequest{Step: &instancev1.StreamMessagesRequest_Message{Message: m}}
}

func (s *sender) send(instance string, at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stream.Send(message(&instancev1.BackendMessage{InstanceId: instance, Topic: topic, Data: payloadOf(at)})); err != nil {
		s.set.fail(err)
	}
}

// refusal is a message that was not sent.
type refusal struct{ *instancev1.MessageRefused }

func (r refusal) Error() string { return r.GetReason() + ": " + r.GetMessage() }

// streamBackend is a backend that sends back each message over StreamMessages, with the API key that is in its environment.
func streamBackend(addr string) error {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+os.Getenv(keyVariable))
	stream, err := instancev1.NewMessageServiceClient(conn).StreamMessages(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(subscription(&instancev1.Subscribe{})); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(""); err != nil {
		return err
	}
	for {
		in, err := stream.Recv()
		if err != nil {
			return err
		}
		m := in.GetMessage()
		if m == nil {
			return refusal{in.GetRefused()}
		}
		if err := stream.Send(message(&instancev1.BackendMessage{InstanceId: m.GetInstanceId(), Topic: m.GetTopic(), Data: m.GetData()})); err != nil {
			return err
		}
	}
}
