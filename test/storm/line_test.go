package storm

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What a bad line does.
const (
	minDelay, maxDelay = 50 * time.Millisecond, 200 * time.Millisecond
	cutEvery           = 300 * time.Millisecond
)

// line is a way to Redis, good until it is worsened.
type line struct {
	addr string
	bad  atomic.Bool
	cuts atomic.Int64

	mu   sync.Mutex
	open map[net.Conn]struct{}
}

// newLine serves until the end of the test.
func newLine(t *testing.T, redis string) *line {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{addr: ln.Addr().String(), open: map[net.Conn]struct{}{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { l.serve(client, redis) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		l.cut(false)
		all.Wait()
	})
	return l
}

// worsen delays what comes from Redis from now on, and cuts connections one after the other, until mend or the end of the test.
func (l *line) worsen(t *testing.T) {
	l.bad.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	var cutter sync.WaitGroup
	cutter.Go(func() {
		for wait(ctx, nil, cutEvery) {
			if l.bad.Load() {
				l.cut(true)
			}
		}
	})
	t.Cleanup(func() { cancel(); cutter.Wait() })
}

// mend makes the line good again, and returns how many connections were cut.
func (l *line) mend() int64 {
	l.bad.Store(false)
	return l.cuts.Load()
}

// cut ends one connection, or all.
func (l *line) cut(one bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open { // in random order
		_ = c.Close()
		l.cuts.Add(1)
		if one {
			delete(l.open, c)
			return
		}
	}
}

func (l *line) serve(client net.Conn, redis string) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", redis)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	l.mu.Lock()
	l.open[server] = struct{}{}
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() {
		l.pass(server, client, false)
		_ = server.Close()
	})
	l.pass(client, server, true)
	_ = client.Close()
	l.mu.Lock()
	delete(l.open, server)
	l.mu.Unlock()
	both.Wait()
}

// pass copies; what is delayed stays in order.
func (l *line) pass(to, from net.Conn, delayed bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if delayed && l.bad.Load() && !wait(context.Background(), nil, minDelay+rand.N(maxDelay-minDelay)) {
			return
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}
