package e2e

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// holder is a way to Redis that can hold back what comes over subscriptions, and lets everything else through.
type holder struct {
	addr    string
	holding atomic.Bool
	dropped atomic.Int64
}

func newHolder(t *testing.T, redis string) *holder {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &holder{addr: ln.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { h.pipe(client, redis) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); all.Wait() })
	return h
}

func (h *holder) hold()       { h.holding.Store(true) }
func (h *holder) held() int64 { return h.dropped.Load() }

func (h *holder) pipe(client net.Conn, redis string) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", redis)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	var subscribed atomic.Bool
	var both sync.WaitGroup
	both.Go(func() {
		defer func() { _ = server.Close() }()
		buf := make([]byte, 64<<10)
		for {
			n, err := client.Read(buf)
			if bytes.Contains(bytes.ToLower(buf[:n]), []byte("subscribe")) {
				subscribed.Store(true)
			}
			if _, werr := server.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if n > 0 && subscribed.Load() && h.holding.Load() {
			h.dropped.Add(int64(n))
			n = 0
		}
		if _, werr := client.Write(buf[:n]); err != nil || werr != nil {
			break
		}
	}
	_ = client.Close()
	both.Wait()
}
