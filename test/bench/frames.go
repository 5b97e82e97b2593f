package main

import (
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"
)

// Frames of the link, by hand: the load must not cost more than what it is for. The numbers are those of proto/public/berth/link/v1/frame.proto.
const (
	frameHello        = 1
	frameWelcome      = 2
	frameRequest      = 3
	frameResponse     = 4
	frameNotification = 5
	frameAck          = 6
	frameGoodbye      = 8
	frameMessage      = 10
)

// topic is what all messages are about.
const topic = "bench"

// dataHeader is what stands before the payload in an encoded berth.type.v1.Data.
const dataHeader = 3

// payloadSize is the size of everything that is sent. The first 8 bytes say when.
const payloadSize = 128

func text(b []byte, field protowire.Number, value string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), value)
}

func raw(b []byte, field protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), value)
}

func number(b []byte, field protowire.Number, value int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(value))
}

// credentials are both of them, as one encoded field.
func credentials(field protowire.Number, game, social string) []byte {
	return raw(nil, field, text(text(nil, 1, game), 2, social))
}

// binaryData is an encoded berth.type.v1.Data that has a time in it.
func binaryData(at int64) []byte {
	payload := make([]byte, payloadSize)
	binary.LittleEndian.PutUint64(payload, uint64(at))
	return raw(make([]byte, 0, payloadSize+4), 2, payload)
}

// fieldOf returns a field of an encoded message that has bytes, or nil.
func fieldOf(msg []byte, want protowire.Number) []byte {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return nil
		}
		if num == want && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(msg[n:])
			return v
		}
		m := protowire.ConsumeFieldValue(num, typ, msg[n:])
		if m < 0 {
			return nil
		}
		msg = msg[n+m:]
	}
	return nil
}

// numberOf returns a field of an encoded message that has a number, or 0.
func numberOf(msg []byte, want protowire.Number) int64 {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return 0
		}
		if num == want && typ == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(msg[n:])
			return int64(v)
		}
		m := protowire.ConsumeFieldValue(num, typ, msg[n:])
		if m < 0 {
			return 0
		}
		msg = msg[n+m:]
	}
	return 0
}

// kindOf returns a frame's kind and what it has.
func kindOf(frame []byte) (protowire.Number, []byte) {
	num, typ, n := protowire.ConsumeTag(frame)
	if n < 0 || typ != protowire.BytesType {
		return 0, nil
	}
	v, _ := protowire.ConsumeBytes(frame[n:])
	return num, v
}
