package gamelift

import (
	"context"
	"net/http"
	"time"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// CredentialsFile is a file of credentials.
type CredentialsFile = credentialsFile

// NoCredentials is the failure of a call for which there are no credentials.
var NoCredentials = noCredentials

// Transport is that of the client, over another one.
func Transport(t *http.Transport) http.RoundTripper { return plainBodies{t} }

// Hasten has a provider ask as often as that, which its configuration does not allow.
func Hasten(p *Provider, soon, sweep time.Duration) { p.soon, p.cfg.Sweep = soon, sweep }

// NewPinging returns a provider that asks silent connections soon whether they live, and gives them little time.
func NewPinging(ctx context.Context, cfg Config, after, timeout time.Duration) (*Provider, error) {
	return open(ctx, cfg, http.HTTP2Config{SendPingTimeout: after, PingTimeout: timeout})
}

// Unlimit lifts the limits of calls, which a benchmark would measure.
func Unlimit(p *Provider) {
	for _, region := range awsRegions(p.cfg) {
		ops := p.client.in(region)
		for _, op := range []**hostapi.Operation{&ops.start, &ops.stop, &ops.create, &ops.terminate} {
			*op = hostapi.Write((*op).Name, 0)
		}
		for _, op := range []**hostapi.Operation{&ops.placement, &ops.session, &ops.alias} {
			*op = hostapi.Read((*op).Name, 0)
		}
	}
}
