package gateway_test

import (
	"math"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// Whatever stands in Hello, it is answered: with Welcome, or with a goodbye that says what was wrong. Then the connection, or the next one, works.
func FuzzHello(f *testing.F) {
	for _, h := range []*linkv1.Hello{
		{},
		{ResumeKey: strings.Repeat("k", 10_000), Nonce: "\x00", Sdk: "\u202e"},
		{Instances: []*linkv1.HelloInstance{{}, {}, {InstanceId: "../x", LastOffset: -1, LinkEpoch: math.MinInt64, Revision: math.MaxInt64, LastRequest: -1}}},
		{Instances: []*linkv1.HelloInstance{{InstanceId: knownInstance}, {InstanceId: knownInstance}}},
		{Instances: make([]*linkv1.HelloInstance, 1001)},
	} {
		for i, in := range h.GetInstances() {
			if in == nil {
				h.Instances[i] = new(linkv1.HelloInstance)
			}
		}
		raw, err := proto.Marshal(h)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte("\x0a\x02\xff\xfe"))             // not UTF-8
	f.Add([]byte("\x0a\xff\xff\xff\xff\x0f"))     // cut short
	f.Add([]byte("\x12\x00\x12\x00\xfa\x01\x00")) // a field that no version has
	w := start(f, nil)
	creds := w.backend.issuer.pair(f)
	kind := new(linkv1.Frame).ProtoReflect().Descriptor().Fields().ByName("hello").Number()
	f.Fuzz(func(t *testing.T, hello []byte) {
		w.tb = t
		s, _, err := w.dial(creds, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.ws.CloseNow() }()
		s.sendRaw(websocket.MessageBinary, protowire.AppendBytes(protowire.AppendTag(nil, kind, protowire.BytesType), hello))
		switch answer := s.receive(); {
		case answer.GetWelcome() != nil:
			s.welcome = answer.GetWelcome()
			for {
				select {
				case <-w.backend.sessions.opened:
					continue
				case <-w.backend.sessions.closed:
					continue
				default:
				}
				break
			}
			id := s.request("Echo", "", hello)
			for { // notifications of what Hello named may come before
				if r := s.receive().GetResponse(); r != nil {
					if r.GetId() != id || string(r.GetResult()) != string(hello) {
						t.Fatalf("%v", r)
					}
					return
				}
			}
		case answer.GetGoodbye().GetCode() == linkv1.CloseCode_CLOSE_CODE_MALFORMED_FRAME:
			if proto.Unmarshal(hello, new(linkv1.Hello)) == nil {
				t.Fatal("it can be read")
			}
		case answer.GetGoodbye().GetCode() == linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION:
			if answer.GetGoodbye().GetMessage() == "" || answer.GetGoodbye().GetReconnect() {
				t.Fatalf("%v", answer)
			}
		default:
			t.Fatalf("%v", answer)
		}
	})
}
