package door

import (
	"errors"
	"fmt"

	"github.com/berth-dev/berth/services/gateway/internal/limit"
)

// Rates are how often each may do something.
type Rates struct {
	// Address is how many requests one address may make over REST and gRPC. Of IPv6 a /64 is one. Defaults 200 and 400.
	Address limit.Rate `yaml:"address" envPrefix:"ADDRESS_"`
	// Credential is how many requests may be made with one API key, or game token, over REST and gRPC. Defaults 200 and 400.
	Credential limit.Rate `yaml:"credential" envPrefix:"CREDENTIAL_"`
	// Refused is how many credentials of one address may be refused before every request from there is. Defaults 5 and 50.
	Refused limit.Rate `yaml:"refused" envPrefix:"REFUSED_"`
	// Upgrades is how many connections to the link one address may make. Defaults 50 and 1000: a whole fleet may be behind one address, and has to be back
	// within the grace of its instances (60 s) when a gateway is lost.
	Upgrades limit.Rate `yaml:"upgrades" envPrefix:"UPGRADES_"`
	// Frames is how many requests one pair may make over the link. Defaults 200 and 400.
	Frames limit.Rate `yaml:"frames" envPrefix:"FRAMES_"`
	// Exempt are networks whose addresses are not counted. Default: none, so that loopback is.
	Exempt []string `yaml:"exempt" env:"EXEMPT"`
}

// DefaultRates returns the defaults.
func DefaultRates() Rates {
	return Rates{
		Address: limit.Rate{PerSecond: 200, Burst: 400}, Credential: limit.Rate{PerSecond: 200, Burst: 400}, Refused: limit.Rate{PerSecond: 5, Burst: 50},
		Upgrades: limit.Rate{PerSecond: 50, Burst: 1000}, Frames: limit.Rate{PerSecond: 200, Burst: 400},
	}
}

// maxRate is the highest value of a limit.
const maxRate = 1_000_000

// Validate returns an error that names each setting that cannot be used.
func (r Rates) Validate() error {
	_, err := prefixes(settingExempt, r.Exempt)
	bad := []error{err}
	for _, l := range []struct {
		key, env string
		rate     limit.Rate
	}{
		{byAddress, "ADDRESS", r.Address}, {byCredential, "CREDENTIAL", r.Credential}, {byRefused, "REFUSED", r.Refused},
		{byUpgrades, "UPGRADES", r.Upgrades}, {byFrames, "FRAMES", r.Frames},
	} {
		if l.rate.PerSecond < 0 || l.rate.PerSecond > maxRate {
			bad = append(bad, fmt.Errorf("limits.%s.per_second (BERTH_LIMIT_%s_PER_SECOND): must be 0, for no limit, to %d, not %d", l.key, l.env, maxRate, l.rate.PerSecond))
		}
		if l.rate.PerSecond > 0 && (l.rate.Burst < 1 || l.rate.Burst > maxRate) {
			bad = append(bad, fmt.Errorf("limits.%s.burst (BERTH_LIMIT_%s_BURST): must be 1 to %d, not %d", l.key, l.env, maxRate, l.rate.Burst))
		}
	}
	return errors.Join(bad...)
}
