package gateway_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// rawSocket is a game server's end of a link that keeps to no rule, not even to those of WebSocket.
type rawSocket struct {
	tb   testing.TB
	conn net.Conn
	r    *bufio.Reader
	head http.Header // of the answer to the upgrade
}

// The first bytes of WebSocket frames.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
	rsv1           = 0x40
	fin            = 0x80
)

// upgradeRequest is the request for a link.
func upgradeRequest(c credentials, subprotocol, more string) string {
	return "GET /v1/link HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: " + subprotocol + "\r\n" +
		"Authorization: Bearer " + c.game + "\r\nBerth-Social-Token: " + c.social + "\r\n" + more + "\r\n"
}

// tcp connects to the edge.
func (w *world) tcp() net.Conn {
	w.tb.Helper()
	conn, err := net.DialTimeout("tcp", w.edge, patience)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

// raw opens a link.
func (w *world) raw(c credentials, subprotocol, more string) *rawSocket {
	w.tb.Helper()
	conn := w.tcp()
	if _, err := io.WriteString(conn, upgradeRequest(c, subprotocol, more)); err != nil {
		w.tb.Fatal(err)
	}
	s := &rawSocket{tb: w.tb, conn: conn, r: bufio.NewReader(conn)}
	s.patience()
	resp, err := http.ReadResponse(s.r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		w.tb.Fatalf("upgrade: %v, %v", resp, err)
	}
	s.head = resp.Header
	return s
}

func (s *rawSocket) patience() { _ = s.conn.SetDeadline(time.Now().Add(patience)) }

// frame appends a WebSocket frame, masked with zeros as a client's must be masked.
func frame(b []byte, first byte, payload []byte) []byte {
	b = append(b, first)
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

func (s *rawSocket) write(b []byte) {
	s.tb.Helper()
	s.patience()
	if _, err := s.conn.Write(b); err != nil {
		s.tb.Fatalf("write: %v", err)
	}
}

// next reads a WebSocket frame of the gateway.
func (s *rawSocket) next() (first byte, payload []byte, err error) {
	s.patience()
	head := make([]byte, 2)
	if _, err := io.ReadFull(s.r, head); err != nil {
		return 0, nil, err
	}
	size := uint64(head[1])
	switch head[1] {
	case 126:
		var n uint16
		err = binary.Read(s.r, binary.BigEndian, &n)
		size = uint64(n)
	case 127:
		err = binary.Read(s.r, binary.BigEndian, &size)
	}
	if err != nil || size > 32<<20 {
		return 0, nil, errors.Join(err, fmt.Errorf("a frame of %d bytes", size))
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(s.r, payload)
	return head[0], payload, err
}

// code reads until the gateway closes, and returns the code; 0 when it cuts the connection without one.
func (s *rawSocket) code() linkv1.CloseCode {
	s.tb.Helper()
	for {
		first, payload, err := s.next()
		if errors.Is(err, io.EOF) {
			return 0
		}
		if err != nil {
			s.tb.Fatalf("there was no close frame: %v", err)
		}
		if first&0xf == opClose && len(payload) >= 2 {
			return linkv1.CloseCode(binary.BigEndian.Uint16(payload))
		}
	}
}

// answer reads until a response comes, and counts the pongs before it.
func (s *rawSocket) answer() (r *linkv1.Response, pongs int) {
	s.tb.Helper()
	for {
		first, payload, err := s.next()
		if err != nil {
			s.tb.Fatalf("there was no answer: %v", err)
		}
		switch first & 0xf {
		case opPong:
			pongs++
		case opBinary:
			var f linkv1.Frame
			if err := proto.Unmarshal(payload, &f); err != nil {
				s.tb.Fatal(err)
			}
			if f.GetResponse() != nil {
				return f.GetResponse(), pongs
			}
		}
	}
}

// binaryFrame is a frame of the link as a WebSocket frame.
func binaryFrame(tb testing.TB, f *linkv1.Frame) []byte {
	tb.Helper()
	raw, err := proto.Marshal(f)
	if err != nil {
		tb.Fatal(err)
	}
	return frame(nil, fin|opBinary, raw)
}

// greeted opens a session over a raw socket and returns a request that is answered.
func (w *world) greeted(c credentials) (s *rawSocket, request []byte) {
	w.tb.Helper()
	s = w.raw(c, "berth.v1.proto", "")
	s.write(binaryFrame(w.tb, &linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{}}}))
	_, payload, err := s.next()
	var welcome linkv1.Frame
	if err := errors.Join(err, proto.Unmarshal(payload, &welcome)); err != nil || welcome.GetWelcome() == nil {
		w.tb.Fatalf("%v, %v", &welcome, err)
	}
	return s, binaryFrame(w.tb, &linkv1.Frame{Kind: &linkv1.Frame_Request{Request: &linkv1.Request{
		Id: 1, Method: "Echo", Payload: []byte("x"), Auth: &linkv1.Credentials{Game: welcome.GetWelcome().GetGameHandle(), Social: welcome.GetWelcome().GetSocialHandle()},
	}}})
}

// memory returns what Go has taken from the system. It hardly shrinks, so a peak between two calls shows in the second.
func memory() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapSys)
}
