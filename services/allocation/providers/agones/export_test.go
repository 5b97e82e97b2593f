package agones

import (
	"net/url"
	"time"
)

// Settle sets for how long a call that was cut off may yet be served.
func (p *Provider) Settle(d time.Duration) { p.settle = d }

// Poll sets how often the provider may be asked about a server.
func (p *Provider) Poll(d time.Duration) { p.poll = d }

// MoveAllocator has somebody else asked whether our certificate is refused.
func (p *Provider) MoveAllocator(to string) { p.service.url, _ = url.Parse(to) }
