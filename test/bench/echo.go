package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/coder/websocket"
)

// echoServer is the floor: a WebSocket server that sends back what it is sent, which uses the library as the gateway does, and does nothing else.
type echoServer struct{}

func (echoServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(smallBuffers{w}, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return
	}
	go echo(ws) // and net/http lets go of the request
}

var echoBuffers = sync.Pool{New: func() any { return new(make([]byte, 0, 4<<10)) }}

func echo(ws *websocket.Conn) {
	defer ws.CloseNow()
	for {
		typ, r, err := ws.Reader(context.Background())
		if err != nil {
			return
		}
		buf := echoBuffers.Get().(*[]byte)
		*buf, err = readAll(r, (*buf)[:0])
		if err == nil {
			err = ws.Write(context.Background(), typ, *buf)
		}
		echoBuffers.Put(buf)
		if err != nil {
			return
		}
	}
}

func readAll(r io.Reader, buf []byte) ([]byte, error) {
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}

// smallBuffers gives the library buffers of 512 bytes.
type smallBuffers struct{ http.ResponseWriter }

func (s smallBuffers) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s smallBuffers) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, _, err := http.NewResponseController(s.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return conn, bufio.NewReadWriter(bufio.NewReaderSize(conn, 512), bufio.NewWriterSize(conn, 512)), nil
}
