package kubernetes

import "time"

// Poll sets how often the provider may be asked about a server.
func (p *Provider) Poll(d time.Duration) { p.poll = d }
