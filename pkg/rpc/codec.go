package rpc

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/errs"
)

// undecoded is a request as it came. gRPC answers a request that it cannot decode by itself, with Internal; decoding behind its back lets us
// answer MALFORMED.
type undecoded struct{ data []byte }

// decode fills a request message, with recv as the way to get it.
func decode(msg any, recv func(any) error) error {
	m, ok := msg.(proto.Message)
	if !ok {
		return recv(msg)
	}
	var raw undecoded
	if err := recv(&raw); err != nil {
		return err
	}
	if err := proto.Unmarshal(raw.data, m); err != nil {
		return undecodable(err, "the request", m)
	}
	return nil
}

// undecodable is the error of bytes that are no message. Where decoding gave up because of the depth, it is the depth that the caller is told of.
func undecodable(err error, what string, m proto.Message) error {
	if strings.Contains(err.Error(), "recursion depth") { // the decoder's error has no type
		return errs.Wrap(err, errs.ValidationFailed, "%s: objects and arrays may be nested at most %d deep", what, maxDepth)
	}
	return errs.Wrap(err, errs.Malformed, "%s: not a valid encoding of %s", what, m.ProtoReflect().Descriptor().FullName())
}

// encoded is an answer that is encoded already. gRPC tells a caller by itself of one that it cannot encode, in the encoder's words and behind the
// interceptors' backs; encoding before it makes that a failure like any other, which is logged and has an id.
type encoded struct{ data mem.BufferSlice }

func encode(msg any) (any, error) {
	if _, ok := msg.(proto.Message); !ok {
		return msg, nil
	}
	data, err := encoding.GetCodecV2(grpcproto.Name).Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("encode the answer %T: %w", msg, err)
	}
	return &encoded{data}, nil
}

// codec is gRPC's own, which also knows undecoded and encoded.
type codec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 { return codec{encoding.GetCodecV2(grpcproto.Name)} }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if raw, ok := v.(*undecoded); ok {
		raw.data = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if e, ok := v.(*encoded); ok {
		return e.data, nil
	}
	return c.CodecV2.Marshal(v)
}
