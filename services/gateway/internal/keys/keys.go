// Package keys has the public keys that verify tokens: it fetches them from token-issuer and publishes them again at the edge, where game servers can
// reach them.
package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/rpc"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/sdk/go/token"
)

const (
	fetchTimeout = 3 * time.Second
	firstPause   = 50 * time.Millisecond // between tries until the keys are known
	longestPause = time.Second
	refresh      = time.Minute
	fresh        = time.Second // a document as young as this answers a fetch
)

// errUnknown means that the keys were never fetched.
var errUnknown = errors.New("the signing keys are not known yet")

// Source has the keys. It is safe for concurrent use.
type Source struct {
	client tokenv1.TokenServiceClient
	log    *slog.Logger
	set    *token.KeySet

	mu      sync.RWMutex
	doc     []byte // the last document; nil before the first
	fetched time.Time
	primed  bool // set has the keys of a document
	failing bool // the last of Run's fetches failed
}

// New returns a Source that fetches from token-issuer.
func New(client tokenv1.TokenServiceClient, log *slog.Logger) *Source {
	s := &Source{client: client, log: log}
	s.set = token.NewKeySet(s.fetch)
	return s
}

// Verifier returns a verifier that uses the keys.
func (s *Source) Verifier() *token.Verifier { return token.NewVerifier(s.set) }

// Ready returns an error until the keys were fetched once. Without them nobody can be told from anybody.
func (s *Source) Ready(context.Context) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.primed {
		return errUnknown
	}
	return nil
}

// Failing reports whether token-issuer is known to be out of reach: the last of the fetches that are made every minute, and every second once one has
// failed, failed.
func (s *Source) Failing() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.failing
}

// Run fetches the keys until that has worked, and then keeps the published document fresh until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	failing := false
	for pause := firstPause; ctx.Err() == nil; {
		_, err := s.fetch(ctx)
		switch {
		case err == nil:
			s.prime(ctx)
			pause = refresh
		case !failing && ctx.Err() == nil: // the first of a row
			s.log.Warn("the signing keys cannot be fetched; trying again", "error", err)
			fallthrough
		default:
			pause = min(pause*2, longestPause)
		}
		failing = err != nil && ctx.Err() == nil
		s.mu.Lock()
		s.failing = failing
		s.mu.Unlock()
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return nil
}

// prime makes the key set read the document that was just fetched, by asking it for a key that nobody has.
func (s *Source) prime(ctx context.Context) {
	s.mu.RLock()
	primed := s.primed
	s.mu.RUnlock()
	if primed {
		return
	}
	if _, err := s.set.Key(ctx, ""); errors.Is(err, token.ErrKeysUnavailable) {
		s.log.ErrorContext(ctx, "the signing keys cannot be read", "error", err)
		return
	}
	s.mu.Lock()
	s.primed = true
	s.mu.Unlock()
}

// fetch is a token.Fetch.
func (s *Source) fetch(ctx context.Context) ([]byte, error) {
	s.mu.RLock()
	doc, fetched := s.doc, s.fetched
	s.mu.RUnlock()
	if doc != nil && time.Since(fetched) < fresh {
		return doc, nil
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	resp, err := s.client.GetJsonWebKeySet(ctx, &tokenv1.GetJsonWebKeySetRequest{})
	if err != nil {
		return nil, rpc.FromStatus(err)
	}
	doc, err = document(resp)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doc, s.fetched = doc, time.Now()
	return doc, nil
}

// document writes a key set the way RFC 7517 wants it.
func document(resp *tokenv1.GetJsonWebKeySetResponse) ([]byte, error) {
	type jwk struct {
		Kty string `json:"kty"`
		Crv string `json:"crv,omitempty"`
		X   string `json:"x,omitempty"`
		Y   string `json:"y,omitempty"`
		Kid string `json:"kid,omitempty"`
		Use string `json:"use,omitempty"`
		Alg string `json:"alg,omitempty"`
	}
	set := struct {
		Keys []jwk `json:"keys"`
	}{Keys: []jwk{}}
	for _, k := range resp.GetKeys() {
		set.Keys = append(set.Keys, jwk{Kty: k.GetKty(), Crv: k.GetCrv(), X: k.GetX(), Y: k.GetY(), Kid: k.GetKid(), Use: k.GetUse(), Alg: k.GetAlg()})
	}
	doc, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encode the key set: %w", err)
	}
	return doc, nil
}

// Document returns the key set as a JSON document (RFC 7517), the way it was last fetched.
func (s *Source) Document() ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.doc == nil {
		return nil, errUnknown
	}
	return s.doc, nil
}

// MaxAge is how long others may keep the document.
func (*Source) MaxAge() time.Duration { return refresh }
