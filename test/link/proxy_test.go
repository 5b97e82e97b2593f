package main_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// proxy carries connections to a gateway, until it is cut.
type proxy struct {
	ln      net.Listener
	running sync.WaitGroup

	mu     sync.Mutex
	target string
	broken bool
	conns  map[net.Conn]bool
	back   bytes.Buffer // what the gateway said: a few kilobytes in these tests
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln, conns: make(map[net.Conn]bool)}
	p.running.Go(p.accept)
	t.Cleanup(func() { _ = ln.Close(); p.cut(); p.running.Wait() })
	return p
}

func (p *proxy) addr() string { return p.ln.Addr().String() }

// leadTo says where connections go.
func (p *proxy) leadTo(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = addr
}

// cut breaks all connections, and takes no more.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken = true
	for c := range p.conns {
		_ = c.Close()
	}
}

// mend takes connections again.
func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken = false
}

// carried returns an error unless the gateway has said something.
func (p *proxy) carried(text string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !bytes.Contains(p.back.Bytes(), []byte(text)) {
		return errors.New("not yet")
	}
	return nil
}

// Write takes what the gateway says.
func (p *proxy) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.back.Write(b)
}

func (p *proxy) accept() {
	for {
		in, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.carry(in) })
	}
}

func (p *proxy) carry(in net.Conn) {
	defer in.Close()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	out, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer out.Close()
	p.mu.Lock()
	if p.broken {
		p.mu.Unlock()
		return
	}
	p.conns[in], p.conns[out] = true, true
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(out, in); _ = out.Close() })
	both.Go(func() { _, _ = io.Copy(in, io.TeeReader(out, p)); _ = in.Close() })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, in)
	delete(p.conns, out)
	p.mu.Unlock()
}
