// Package door decides about requests before anybody looks at their credentials: where they come from, whether they call the gateway by a name that it
// has, and whether too many come.
package door

import (
	"crypto/sha256"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/errs"

	"github.com/berth-dev/berth/services/gateway/internal/limit"
)

const (
	// maxPeers and maxCredentials bound the tables of buckets, of some 200 bytes each.
	maxPeers       = 1 << 16
	maxCredentials = 1 << 16
	// minRetry is the least that a caller is told to wait, so that those who are refused do not all come back at once with the next token.
	minRetry = 100 * time.Millisecond
)

// Settings, as errors name them.
const (
	settingProxies = "trusted_proxies (BERTH_TRUSTED_PROXIES)"
	settingExempt  = "limits.exempt (BERTH_LIMIT_EXEMPT)"
)

// actionLimit is the action of the audit's entries about limits.
const actionLimit = "rate_limit"

// What is limited, as metrics and messages name it: the setting without "limits.".
const (
	byAddress    = "address"
	byCredential = "credential"
	byRefused    = "refused"
	byUpgrades   = "upgrades"
	byFrames     = "frames"
)

// Config configures a Door.
type Config struct {
	// TrustedProxies are the networks whose X-Forwarded-For is believed.
	TrustedProxies []string
	// AllowedHosts are the names by which requests may call the gateway; empty: any.
	AllowedHosts []string
	// Rates are the limits.
	Rates Rates
	// Now tells the time.
	Now func() time.Time
	// Limited counts what was refused, by the limit's name.
	Limited *prometheus.CounterVec
	// Audit gets who is refused; equal ones are folded there.
	Audit *audit.Recorder
}

// Door is safe for concurrent use. A nil one lets everything in.
type Door struct {
	trusted, exempt []netip.Prefix
	hosts           hosts
	limited         *prometheus.CounterVec
	audit           *audit.Recorder

	addresses, refusals, upgrades *limit.Table[netip.Prefix]
	credentials                   *limit.Table[[sha256.Size]byte]
	frames                        *limit.Table[string] // by pair
}

// New returns a Door.
func New(cfg Config) (*Door, error) {
	trusted, err := prefixes(settingProxies, cfg.TrustedProxies)
	if err != nil {
		return nil, err
	}
	exempt, err := prefixes(settingExempt, cfg.Rates.Exempt)
	if err != nil {
		return nil, err
	}
	names, err := parseHosts(cfg.AllowedHosts)
	if err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Door{
		trusted: trusted, exempt: exempt, hosts: names, limited: cfg.Limited, audit: cfg.Audit,
		addresses:   limit.NewTable[netip.Prefix](cfg.Rates.Address, maxPeers, cfg.Now),
		refusals:    limit.NewTable[netip.Prefix](cfg.Rates.Refused, maxPeers, cfg.Now),
		upgrades:    limit.NewTable[netip.Prefix](cfg.Rates.Upgrades, maxPeers, cfg.Now),
		credentials: limit.NewTable[[sha256.Size]byte](cfg.Rates.Credential, maxCredentials, cfg.Now),
		frames:      limit.NewTable[string](cfg.Rates.Frames, maxCredentials, cfg.Now),
	}, nil
}

// Call returns an error for a call, over REST or gRPC, that is not to be taken: by its Host, the address that it comes from, and its credentials, which are
// counted as they are.
func (d *Door) Call(host, remote string, authorization []string) error {
	if d == nil {
		return nil
	}
	if err := d.hosts.check(host); err != nil {
		return err
	}
	if err := d.arrive(d.addresses, byAddress, remote); err != nil {
		return err
	}
	if len(authorization) == 0 {
		return nil
	}
	shown := sha256.Sum256([]byte(strings.Join(authorization, "\n")))
	if wait := d.credentials.Bucket(shown).Take(); wait > 0 {
		return d.refuse(byCredential, remote, wait, "too many requests with this credential")
	}
	return nil
}

// Upgrade returns an error for an upgrade to the link that is not to be taken.
func (d *Door) Upgrade(host, remote string) error {
	if d == nil {
		return nil
	}
	if err := d.hosts.check(host); err != nil {
		return err
	}
	return d.arrive(d.upgrades, byUpgrades, remote)
}

// arrive counts a request of an address, unless that has shown too many credentials that were refused.
func (d *Door) arrive(table *limit.Table[netip.Prefix], what, remote string) error {
	peer := peerOf(remote)
	if contain(d.exempt, peer.Addr()) {
		return nil
	}
	if wait := d.refusals.Bucket(peer).Wait(); wait > 0 {
		return d.refuse(byRefused, remote, wait, "too many credentials from "+name(peer)+" were refused")
	}
	if wait := table.Bucket(peer).Take(); wait > 0 {
		return d.refuse(what, remote, wait, "too many requests from "+name(peer))
	}
	return nil
}

// Refused notes with which reason a request from an address was refused after it was let in. What counts is that credentials were not good; tokens that
// have only expired were, and after an outage a whole fleet of servers may come with them from one address.
func (d *Door) Refused(remote string, reason errs.Reason) {
	if d == nil || reason.Kind() != errs.KindUnauthenticated || reason == errs.CredentialsExpired {
		return
	}
	if peer := peerOf(remote); !contain(d.exempt, peer.Addr()) {
		d.refusals.Bucket(peer).Take()
	}
}

// Frames returns the bucket for the requests of a pair over the link.
func (d *Door) Frames(pairID string) *limit.Bucket {
	if d == nil {
		return nil
	}
	return d.frames.Bucket(pairID)
}

// Frame returns an error for a request over the link that is not to be taken.
func (d *Door) Frame(b *limit.Bucket, remote string) error {
	if wait := b.Take(); wait > 0 {
		return d.refuse(byFrames, remote, wait, "too many requests over the link")
	}
	return nil
}

func (d *Door) refuse(what, remote string, wait time.Duration, why string) error {
	if d.limited != nil {
		d.limited.WithLabelValues(what).Inc()
	}
	err := errs.New(errs.RateLimited, "%s (limits.%s); nothing happened, repeat it later", why, what).Retry(max(wait, minRetry))
	d.audit.Refuse(audit.Entry{Action: actionLimit, Actor: audit.Unknown, Address: remote, Resource: "limit:" + what, Outcome: string(err.Reason), Detail: err.Message})
	return err
}
