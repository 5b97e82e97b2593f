package token

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// ErrKeysUnavailable means that a token could be neither accepted nor refused, because it names a key that is not
// known here and the key set could not be fetched, or was fetched too often lately to be fetched again now. Try again later; do not treat the
// token as invalid.
var ErrKeysUnavailable = errors.New("the keys that verify tokens cannot be fetched now")

const (
	// Unknown key ids cause at most fetchBurst fetches in a row, and then one each fetchInterval.
	fetchInterval = 5 * time.Second
	fetchBurst    = 5
	fetchTimeout  = 5 * time.Second
	maxDocument   = 64 << 10 // bytes of a key set document; more is refused
)

// Algorithm is how a key signs, by its name in a token's header.
type Algorithm string

// The algorithms.
const (
	// EdDSA is Ed25519 (RFC 8037).
	EdDSA Algorithm = "EdDSA"
	// ES256 is ECDSA with P-256 and SHA-256 (RFC 7518).
	ES256 Algorithm = "ES256"
)

// PublicKey is a key that verifies: an ed25519.PublicKey or an *ecdsa.PublicKey on P-256.
type PublicKey interface {
	// Equal reports whether the other is the same key.
	Equal(other crypto.PublicKey) bool
}

// algorithmOf returns the one algorithm that a key is for.
func algorithmOf(key PublicKey) Algorithm {
	switch key.(type) {
	case ed25519.PublicKey:
		return EdDSA
	case *ecdsa.PublicKey:
		return ES256
	default:
		return ""
	}
}

// Fetch returns a JSON Web Key Set document (RFC 7517).
type Fetch func(ctx context.Context) ([]byte, error)

// FetchURL returns a Fetch that reads the document from a URL, such as GATEWAY/.well-known/jwks.json. A nil client means
// http.DefaultClient.
func FetchURL(client *http.Client, url string) Fetch {
	if client == nil {
		client = http.DefaultClient
	}
	return func(ctx context.Context) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("GET %s: %s", url, resp.Status)
		}
		return io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	}
}

// KeySet caches Berth's public keys. It fetches them when a token names a key that it does not have: one fetch at a time,
// at most 5 in a row and then one in 5 seconds, so that tokens with invented key ids cost the issuer nothing. A fetch that fails
// leaves the known keys in force. It is safe for concurrent use and starts no goroutine.
type KeySet struct {
	fetch Fetch

	// turn is held by the one that fetches; a channel, so that the others can stop waiting when their contexts end.
	turn chan struct{}

	mu      sync.RWMutex
	keys    map[string]PublicKey
	current time.Time // the newest successful fetch began then
	paid    time.Time // the fetches so far are paid for at this time, at one per interval
	last    error     // of the last fetch
}

// NewKeySet returns an empty key set that fills itself when it is first asked for a key.
func NewKeySet(fetch Fetch) *KeySet {
	return &KeySet{fetch: fetch, turn: make(chan struct{}, 1)}
}

// Key returns the key with the id kid. It fails with a *Error when Berth has no such key: when a fetch that began after this call did not bring
// it. It fails with ErrKeysUnavailable when the key is not known, and a fetch failed or may not be made yet.
func (s *KeySet) Key(ctx context.Context, kid string) (PublicKey, error) {
	if key, ok := s.cached(kid); ok {
		return key, nil
	}
	asked := time.Now()
	if err := s.takeTurn(ctx); err != nil {
		return nil, err
	}
	defer s.endTurn()
	// Somebody else may have fetched while this call waited for its turn.
	if key, ok := s.cached(kid); ok {
		return key, nil
	}
	if !s.fetchedSince(asked) {
		if err := s.spend(time.Now()); err != nil {
			return nil, err
		}
		if err := s.refetch(ctx); err != nil {
			return nil, err
		}
	}
	if key, ok := s.cached(kid); ok {
		return key, nil
	}
	return nil, refuse(Invalid, "the token is signed with a key that Berth does not have")
}

// Refresh fetches the keys anew, whether or not a token asks for it, so that a key that was withdrawn is no longer accepted. It does not count
// towards the limit on fetches: call it now and then, never because of what a stranger sent. A failure leaves the known keys in force.
func (s *KeySet) Refresh(ctx context.Context) error {
	if err := s.takeTurn(ctx); err != nil {
		return err
	}
	defer s.endTurn()
	return s.refetch(ctx)
}

func (s *KeySet) takeTurn(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrKeysUnavailable, ctx.Err())
	}
}

func (s *KeySet) endTurn() { <-s.turn }

func (s *KeySet) cached(kid string) (PublicKey, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	key, ok := s.keys[kid]
	return key, ok
}

// fetchedSince reports whether the keys are those of a fetch that began after t.
func (s *KeySet) fetchedSince(t time.Time) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.current.After(t)
}

// spend accounts for a fetch that a token's key id causes, or returns an error if there may be none yet. A fetch whose caller goes away counts:
// otherwise whoever hangs up quickly could cause any number.
func (s *KeySet) spend(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paid.Before(now) {
		s.paid = now
	}
	if s.paid.Sub(now) > (fetchBurst-1)*fetchInterval {
		if s.last != nil {
			return fmt.Errorf("%w: %w", ErrKeysUnavailable, s.last)
		}
		return fmt.Errorf("%w: too many tokens name keys that Berth does not have", ErrKeysUnavailable)
	}
	s.paid = s.paid.Add(fetchInterval)
	return nil
}

// refetch replaces the keys. The caller has the turn.
func (s *KeySet) refetch(ctx context.Context) error {
	fetchCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	began := time.Now()
	doc, err := s.fetch(fetchCtx)
	var keys map[string]PublicKey
	if err == nil {
		keys, err = ParseKeys(doc)
	}
	if ctx.Err() != nil { // the caller went away: that says nothing about the issuer, and the next in turn may try
		return fmt.Errorf("%w: %w", ErrKeysUnavailable, ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = err
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
	}
	s.keys, s.current = keys, began
	return nil
}

// jwk is a public key in a document.
type jwk struct {
	Kty, Crv, X, Y, Kid, Use, Alg string
}

// ParseKeys reads a JSON Web Key Set and returns its keys for EdDSA (Ed25519) and ES256 (P-256) by key id. Keys of other types are left out, so that
// Berth can publish some later; one of these two that is not well-formed makes the whole document invalid.
func ParseKeys(doc []byte) (map[string]PublicKey, error) {
	if len(doc) > maxDocument {
		return nil, fmt.Errorf("key set: more than %d bytes", maxDocument)
	}
	var set struct{ Keys []jwk }
	if err := json.Unmarshal(doc, &set); err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	keys := make(map[string]PublicKey, len(set.Keys))
	for i, k := range set.Keys {
		if k.Use != "" && k.Use != "sig" {
			continue
		}
		key, err := k.public()
		switch _, twice := keys[k.Kid]; {
		case err != nil:
			return nil, fmt.Errorf("key set: keys[%d].%w", i, err)
		case key == nil:
			continue
		case k.Kid == "":
			return nil, fmt.Errorf("key set: keys[%d].kid is empty", i)
		case twice:
			return nil, fmt.Errorf("key set: keys[%d].kid occurs twice", i)
		}
		keys[k.Kid] = key
	}
	return keys, nil
}

// public returns the key; nil if it is of a type that is not used here.
func (k jwk) public() (PublicKey, error) {
	switch {
	case k.Kty == "OKP" && k.Crv == "Ed25519" && (k.Alg == "" || k.Alg == string(EdDSA)):
		x, err := member("x", k.X, ed25519.PublicKeySize)
		if err != nil {
			return nil, err
		}
		return ed25519.PublicKey(x), nil
	case k.Kty == "EC" && k.Crv == "P-256" && (k.Alg == "" || k.Alg == string(ES256)):
		const size = 32
		x, err := member("x", k.X, size)
		if err != nil {
			return nil, err
		}
		y, err := member("y", k.Y, size)
		if err != nil {
			return nil, err
		}
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
		if err != nil {
			return nil, errors.New("x and y are no point of P-256")
		}
		return key, nil
	default:
		return nil, nil //nolint:nilnil // neither a key nor an error
	}
}

func member(name, value string, size int) ([]byte, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(raw) != size {
		return nil, fmt.Errorf("%s is not %d bytes in base64url", name, size)
	}
	return raw, nil
}
