package multiplay

import (
	"strconv"
	"time"
)

// Waiting is how many questions about allocations wait for a call.
func (p *Provider) Waiting() int {
	p.looks.mu.Lock()
	defer p.looks.mu.Unlock()
	n := 0
	for _, waiting := range p.looks.waiting {
		n += len(waiting)
	}
	return n
}

// AgeToken makes the token older.
func (p *Provider) AgeToken(by time.Duration) {
	p.client.tokens.mu.Lock()
	defer p.client.tokens.mu.Unlock()
	p.client.tokens.old, p.client.tokens.expiry = p.client.tokens.old.Add(-by), p.client.tokens.expiry.Add(-by)
}

// Renewed returns when nobody fetches a token.
func (p *Provider) Renewed() {
	p.client.tokens.turn <- struct{}{}
	<-p.client.tokens.turn
}

// ExchangeWithin sets how long Unity may take for a token. Nobody may use the provider yet.
func (p *Provider) ExchangeWithin(d time.Duration) { p.client.tokens.timeout = d }

// Known is how many attempts are known.
func (p *Provider) Known() int {
	p.memory.mu.Lock()
	defer p.memory.mu.Unlock()
	return len(p.memory.byID)
}

// AgeMemory makes what is known older.
func (p *Provider) AgeMemory(by time.Duration) {
	p.memory.mu.Lock()
	defer p.memory.mu.Unlock()
	p.memory.tidy = p.memory.tidy.Add(-by)
	for id, k := range p.memory.byID {
		k.since, k.heard = k.since.Add(-by), k.heard.Add(-by)
		p.memory.byID[id] = k
	}
}

// Memorize notes n attempts, and returns how many are known then, and whether the first still is.
func Memorize(n int) (count int, first bool) {
	var m memory
	for i := range n {
		m.learn(known{id: strconv.Itoa(i)}, func(*known) {})
	}
	_, first = m.of("0")
	return len(m.byID), first
}
