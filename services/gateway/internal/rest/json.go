package rest

import (
	"errors"
	"io"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// codec is JSON as the API speaks it: camelCase names, empty fields left out, unknown fields refused, one value a body. A stream is one object a line.
type codec struct{ runtime.JSONPb }

func newCodec() *codec {
	return &codec{runtime.JSONPb{
		MarshalOptions:   protojson.MarshalOptions{},
		UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: false},
	}}
}

// NewDecoder returns a decoder that reads all of r as one value; an empty body is io.EOF. Its errors say where the body is wrong.
func (c *codec) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if len(body) == 0 {
			return io.EOF
		}
		msg, ok := v.(proto.Message)
		if !ok {
			return c.Unmarshal(body, v)
		}
		if err := c.UnmarshalOptions.Unmarshal(body, msg); err != nil {
			return errors.New("body: " + plainText(err.Error()))
		}
		return nil
	})
}

// StreamContentType implements runtime.StreamContentType.
func (*codec) StreamContentType(any) string { return "application/x-ndjson" }

// maxDetail is how much of a parser's message is passed on; it quotes from the body.
const maxDetail = 300

// plainText makes a message of the protobuf module stable: it begins with "proto:" and, at random, one or another kind of space.
func plainText(msg string) string {
	msg = strings.ReplaceAll(msg, "\u00a0", " ")
	msg = strings.TrimSpace(strings.TrimPrefix(msg, "proto:"))
	if len(msg) > maxDetail {
		msg = strings.ToValidUTF8(msg[:maxDetail], "") + "…"
	}
	return msg
}
