package redisx_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy stands between a client and a server, and can lose the answer to one script.
type proxy struct {
	addr, to string
	armed    atomic.Bool
	answer   func(client io.Writer, b []byte) error // passes on what the server says
	conns    sync.WaitGroup
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	return newProxyWith(t, to, func(client io.Writer, b []byte) error {
		_, err := client.Write(b)
		return err
	})
}

func newProxyWith(t *testing.T, to string, answer func(client io.Writer, b []byte) error) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: ln.Addr().String(), to: to, answer: answer}
	p.conns.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			p.conns.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		p.conns.Wait() // their clients are closed by now
	})
	return p
}

// dropAnswer loses the answer to the next script, and with it the connection. The one after it passes: a repeat would work.
func (p *proxy) dropAnswer() { p.armed.Store(true) }

func (p *proxy) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	var drop atomic.Bool
	var answers sync.WaitGroup
	answers.Go(func() {
		defer func() { _ = client.Close() }()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil || drop.Load() {
				return
			}
			if p.answer(client, buf[:n]) != nil {
				return
			}
		}
	})
	_, _ = io.Copy(writerFunc(func(b []byte) (int, error) {
		if bytes.Contains(b, []byte("evalsha")) && p.armed.CompareAndSwap(true, false) {
			drop.Store(true)
		}
		return server.Write(b)
	}), client)
	_ = server.Close()
	answers.Wait()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
