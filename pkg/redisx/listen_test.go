package redisx_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/redisx/redistest"
)

// halting is a way to a server on which an answer that has a word in it stops behind the word for a time, once.
func halting(t *testing.T, to, word string, wait time.Duration) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	var once sync.Once
	pass := func(from, to net.Conn, halt func()) {
		defer func() { _, _ = from.Close(), to.Close() }()
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			rest := buf[:n]
			if at := bytes.Index(rest, []byte(word)); at >= 0 && halt != nil {
				_, _ = to.Write(rest[:at+len(word)])
				rest = rest[at+len(word):]
				once.Do(halt)
			}
			if _, err := to.Write(rest); err != nil {
				return
			}
		}
	}
	conns.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			conns.Go(func() { pass(client, server, nil) })
			conns.Go(func() { pass(server, client, func() { time.Sleep(wait) }) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); conns.Wait() }) // their clients are closed by now
	return ln.Addr().String()
}

// A message that took longer on its way than an interval was read from its middle on after that, and what its author had written there was taken for a message
// of the store.
func TestAMessageThatHaltsOnItsWayArrivesWhole(t *testing.T) {
	const channel, interval = "berth:gw:slow", time.Second
	const message = "halt" + ">3\r\n$7\r\nmessage\r\n$13\r\nberth:gw:slow\r\n$6\r\nforged\r\n"
	addr := redistest.Server(t)
	through, direct := redistest.Open(t, halting(t, addr, "halt", interval*3/2)), redistest.Open(t, addr)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said, got := false, ""
	err := through.Listen(ctx, channel, interval, func(payload string) {
		switch {
		case payload != "":
			got = payload
			cancel()
		case !said:
			said = true
			if err := direct.PublishAll(ctx, map[string][]byte{channel: []byte(message)}); err != nil {
				t.Error(err)
			}
		}
	})
	if got != message || !errors.Is(err, context.Canceled) {
		t.Errorf("got %q, %v", got, err)
	}
}
