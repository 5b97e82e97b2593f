package multiplay

import "time"

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
