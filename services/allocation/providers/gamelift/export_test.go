package gamelift

import (
	"time"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// CredentialsFile is a file of credentials.
type CredentialsFile = credentialsFile

// Hasten has a provider ask as often as that, which its configuration does not allow.
func Hasten(p *Provider, soon, sweep time.Duration) { p.soon, p.cfg.Sweep = soon, sweep }

// Unlimit lifts the limits of calls, which a benchmark would measure.
func Unlimit(p *Provider) {
	for _, op := range []**hostapi.Operation{&p.client.start, &p.client.stop, &p.client.create, &p.client.terminate} {
		*op = hostapi.Write((*op).Name, 0)
	}
	for _, op := range []**hostapi.Operation{&p.client.placement, &p.client.session} {
		*op = hostapi.Read((*op).Name, 0)
	}
}
