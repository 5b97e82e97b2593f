package grpcserver

import "sync"

// lines keep the calls of each server in order. A call begins when the one before it has its place among the commands of their instance, and is answered after
// it; in between they wait together, and can be committed together.
type lines struct {
	mu   sync.Mutex
	last map[string]*spot
}

// spot is a call's place in its line.
type spot struct {
	before   *spot // nil for the first
	queued   chan struct{}
	once     sync.Once
	answered chan struct{}
	forget   func()
}

// join takes the next place in a line. leave must be called when the call is over.
func (l *lines) join(key string) *spot {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil {
		l.last = map[string]*spot{}
	}
	p := &spot{before: l.last[key], queued: make(chan struct{}), answered: make(chan struct{})}
	p.forget = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.last[key] == p {
			delete(l.last, key)
		}
	}
	l.last[key] = p
	return p
}

// begin waits until the call may begin.
func (p *spot) begin() {
	if p.before != nil {
		<-p.before.queued
	}
}

// next lets the call behind this one begin; it may be called more than once.
func (p *spot) next() { p.once.Do(func() { close(p.queued) }) }

// end waits until the call may be answered.
func (p *spot) end() {
	p.next()
	if p.before != nil {
		<-p.before.answered
		p.before = nil // or the line would never be let go of
	}
}

// leave says that the call was answered.
func (p *spot) leave() {
	p.next()
	close(p.answered)
	p.forget()
}
