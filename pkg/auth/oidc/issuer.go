// Package oidc verifies the JSON Web Tokens of OpenID Connect identity providers with the keys that those publish. It says whose a token is and what it
// says; what that is worth here is for its caller to decide.
package oidc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/egress"
	"github.com/berth-dev/berth/pkg/errs"
)

const (
	// MaxToken is how many bytes a token may have. A longer one is not looked at.
	MaxToken = 16 << 10
	// Leeway is how far clocks may differ.
	Leeway = 30 * time.Second
	// MaxDocument is how many bytes what an issuer publishes may have.
	MaxDocument = 256 << 10
	// maxIssuer leaves room for a name beside the issuer where one text has both.
	maxIssuer = 128
)

// Config says which issuer's tokens are taken, and which of them.
type Config struct {
	// Issuer is the issuer's URL, exactly as the claim iss has it: https, without a query.
	Issuer string `yaml:"issuer"`
	// Audience is what the claim aud must have: the name of this Berth at the issuer.
	Audience string `yaml:"audience"`
	// AuthorizedParties are the clients, beside the audience itself, to whom tokens may have been issued (the claim azp). If it is empty, azp counts
	// only in a token for several audiences.
	AuthorizedParties []string `yaml:"authorized_parties"`
	// MaxLifetime is the longest time that may be between iat and exp. 0: any.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
}

// Validate returns an error that names what cannot be used.
func (c Config) Validate() error {
	u, err := url.Parse(c.Issuer)
	switch {
	case err != nil:
		return errors.New("issuer: is no URL")
	case egress.CheckURL(u) != nil:
		return fmt.Errorf("issuer: %w", egress.CheckURL(u))
	case strings.ContainsAny(c.Issuer, "?#"):
		return errors.New("issuer: must have no query and no fragment")
	case len(c.Issuer) > maxIssuer:
		return fmt.Errorf("issuer: must have at most %d bytes", maxIssuer)
	case c.Audience == "":
		return errors.New("audience: is needed; without it a token for any other application would be taken")
	case c.MaxLifetime < 0:
		return errors.New("max_lifetime: must not be below 0 (0 is any)")
	}
	return nil
}

// Options are what an Issuer needs.
type Options struct {
	// Client fetches what the issuer publishes; package egress makes it.
	Client *http.Client
	// Log is where it is logged that the keys cannot be fetched.
	Log *slog.Logger
	// Metrics is where fetches are counted.
	Metrics prometheus.Registerer
}

// Issuer verifies the tokens of one issuer. It is safe for concurrent use. Run has to run: it fetches the keys.
type Issuer struct {
	cfg     Config
	client  *http.Client
	log     *slog.Logger
	fetches *prometheus.CounterVec

	// wake has at most one wish for a fetch; a second one is the same.
	wake chan struct{}
	// problem is why the last fetch failed; empty if it did not. It is Run's.
	problem string

	mu      sync.Mutex
	keys    keySet
	current time.Time // the newest successful fetch began then
	asked   *round    // the fetch that a token's key id has caused and that has not begun
	running *round    // the fetch that is under way
	askedAt time.Time // when a token's key id caused a fetch the last time
}

// New returns an Issuer that has no keys until Run runs. Whether the issuer can be reached is not looked at.
func New(cfg Config, o Options) (*Issuer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	fetches := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_oidc_fetches_total", Help: "Fetches of an identity provider's keys, by issuer and outcome: ok or failed.",
	}, []string{"issuer", "outcome"})
	return &Issuer{cfg: cfg, client: o.Client, log: o.Log, fetches: app.Register(o.Metrics, fetches), wake: make(chan struct{}, 1)}, nil
}

// Verify returns what a token says, if the issuer has signed it and it is valid now. Otherwise it fails with an error that says little to the caller and
// has the cause for the audit: CredentialsInvalid, CredentialsExpired, or ServiceUnavailable where there is no verdict because the keys cannot be had.
func (i *Issuer) Verify(ctx context.Context, token string) (Claims, error) {
	if len(token) > MaxToken {
		return Claims{}, errs.New(errs.CredentialsInvalid, "authorization: the token must have at most %d bytes", MaxToken)
	}
	payload, err := i.open(ctx, token)
	if err != nil {
		return Claims{}, verdict(err)
	}
	claims, err := parseClaims(payload)
	if err == nil {
		err = claims.check(i.cfg, time.Now())
	}
	if err != nil {
		return Claims{}, verdict(err)
	}
	return claims, nil
}

// verdict makes an error one that callers may see.
func verdict(err error) error {
	var typed *errs.Error
	switch {
	case errors.As(err, &typed):
		return typed
	case errors.Is(err, errExpired):
		return errs.New(errs.CredentialsExpired, "authorization: the token has expired; get a new one from the identity provider")
	default:
		return errs.Wrap(err, errs.CredentialsInvalid, "authorization: the token of the identity provider is not valid here")
	}
}

// open returns what is in a token that one of the issuer's keys has signed. Of the token's header only the key's id is used, and the algorithm if it is
// one of the key's; keys and addresses of keys that it brings are not read.
func (i *Issuer) open(ctx context.Context, token string) ([]byte, error) {
	signed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return nil, fmt.Errorf("the token's form: %w", err)
	}
	header := signed.Signatures[0].Protected
	if err := checkHeader(header); err != nil {
		return nil, err
	}
	keys, err := i.keysFor(ctx, header.KeyID)
	if err != nil {
		return nil, err
	}
	failed := fmt.Errorf("the key %.100q is not for %s", header.KeyID, header.Algorithm)
	for _, k := range keys {
		if k.unusable != nil {
			failed = fmt.Errorf("the key %.100q is not used: %w", header.KeyID, k.unusable)
			continue
		}
		if !k.takes(header.Algorithm) {
			continue
		}
		payload, err := signed.Verify(k.public)
		if err == nil {
			return payload, nil
		}
		failed = fmt.Errorf("the signature is not that of the key %.100q", header.KeyID)
	}
	return nil, failed
}

// checkHeader refuses tokens of other kinds, and those that ask for more than is done here.
func checkHeader(header jose.Header) error {
	if header.KeyID == "" {
		return errors.New("kid is missing")
	}
	if _, critical := header.ExtraHeaders["crit"]; critical {
		return errors.New("crit asks for what is not done here")
	}
	typ, there := header.ExtraHeaders[jose.HeaderType]
	if !there {
		return nil
	}
	text, _ := typ.(string)
	switch kind := strings.TrimPrefix(strings.ToLower(text), "application/"); kind {
	case "jwt", "at+jwt":
		return nil
	default:
		return fmt.Errorf("typ is %.50q, and neither JWT nor at+jwt", text)
	}
}

func (k key) takes(algorithm string) bool {
	for _, a := range k.algorithms {
		if string(a) == algorithm {
			return true
		}
	}
	return false
}
