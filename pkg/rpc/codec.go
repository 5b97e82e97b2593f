package rpc

import (
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

// codec is gRPC's own, which also knows undecoded.
type codec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 { return codec{encoding.GetCodecV2(grpcproto.Name)} }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if raw, ok := v.(*undecoded); ok {
		raw.data = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}
