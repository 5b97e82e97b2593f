package edgegap

import "time"

// Settle is what NewQuick has in place of the usual time.
const Settle = 2 * time.Second

// NewQuick returns a Provider for a host that is not far away and has no rate limits.
func NewQuick(cfg Config) (*Provider, error) {
	l := usual()
	l.create, l.look, l.list = 0, 0, 0
	l.poll, l.settle, l.aside = 20*time.Millisecond, Settle, 200*time.Millisecond
	return newProvider(cfg, l)
}

// NewScarce returns a Provider that makes one call of each kind in an hour and a half.
func NewScarce(cfg Config) (*Provider, error) {
	l := usual()
	l.create, l.look, l.list = 0.0002, 0.0002, 0.0002
	return newProvider(cfg, l)
}

// NewGravedigger returns one as NewQuick does that stops at once what it sees in error.
func NewGravedigger(cfg Config) (*Provider, error) {
	p, err := NewQuick(cfg)
	if err == nil {
		p.limits.bury = 0
	}
	return p, err
}
