package token

import (
	"context"
	"crypto/ed25519"
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
// known here and the key set could not be fetched. Try again later; do not treat the token as invalid.
var ErrKeysUnavailable = errors.New("the keys that verify tokens cannot be fetched")

const (
	refetchInterval = 5 * time.Second // an unknown key id causes at most one fetch per interval
	fetchTimeout    = 5 * time.Second
	maxDocument     = 64 << 10 // bytes of a key set document; more is refused
)

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

// KeySet caches Berth's public keys. It fetches them when a token names a key that it does not have: one fetch at a time
// and at most one in 5 seconds, so that tokens with invented key ids cost the issuer nothing. A fetch that fails
// leaves the known keys in force. It is safe for concurrent use and starts no goroutine.
type KeySet struct {
	fetch Fetch

	// turn is held by the one that fetches; a channel, so that the others can stop waiting when their contexts end.
	turn chan struct{}

	mu       sync.RWMutex
	keys     map[string]ed25519.PublicKey
	lastTry  time.Time
	fetchErr error // of the last try
}

// NewKeySet returns an empty key set that fills itself when it is first asked for a key.
func NewKeySet(fetch Fetch) *KeySet {
	return &KeySet{fetch: fetch, turn: make(chan struct{}, 1)}
}

// Key returns the key with the id kid. It fails with ErrKeysUnavailable when the key is not known and the last fetch
// failed, and with a *Error when Berth has no such key.
func (s *KeySet) Key(ctx context.Context, kid string) (ed25519.PublicKey, error) {
	if key, ok := s.cached(kid); ok {
		return key, nil
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrKeysUnavailable, ctx.Err())
	}
	// Somebody else may have fetched while this call waited for its turn.
	if key, ok := s.cached(kid); ok {
		return key, nil
	}
	if err := s.refetch(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
	}
	if key, ok := s.cached(kid); ok {
		return key, nil
	}
	return nil, refuse(Invalid, "the token is signed with a key that Berth does not have")
}

func (s *KeySet) cached(kid string) (ed25519.PublicKey, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	key, ok := s.keys[kid]
	return key, ok
}

// refetch replaces the keys unless it is too early to; then it returns what came of the last try. The caller has the turn.
func (s *KeySet) refetch(ctx context.Context) error {
	s.mu.RLock()
	early, last := !s.lastTry.IsZero() && time.Since(s.lastTry) < refetchInterval, s.fetchErr
	s.mu.RUnlock()
	if early {
		return last
	}
	fetchCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	doc, err := s.fetch(fetchCtx)
	var keys map[string]ed25519.PublicKey
	if err == nil {
		keys, err = ParseKeys(doc)
	}
	if ctx.Err() != nil {
		return ctx.Err() // the caller went away: that says nothing about the issuer, and the next in turn may try
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastTry, s.fetchErr = time.Now(), err
	if err == nil {
		s.keys = keys
	}
	return err
}

// ParseKeys reads a JSON Web Key Set and returns its Ed25519 keys by key id. Keys of other types are left out, so that
// Berth can publish some later; an Ed25519 key that is not well-formed makes the whole document invalid.
func ParseKeys(doc []byte) (map[string]ed25519.PublicKey, error) {
	if len(doc) > maxDocument {
		return nil, fmt.Errorf("key set: more than %d bytes", maxDocument)
	}
	var set struct {
		Keys []struct {
			Kty, Crv, X, Kid, Use, Alg string
		}
	}
	if err := json.Unmarshal(doc, &set); err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	keys := make(map[string]ed25519.PublicKey, len(set.Keys))
	for i, k := range set.Keys {
		if k.Kty != "OKP" || k.Crv != "Ed25519" || (k.Use != "" && k.Use != "sig") {
			continue
		}
		x, err := base64.RawURLEncoding.Strict().DecodeString(k.X)
		switch _, twice := keys[k.Kid]; {
		case err != nil || len(x) != ed25519.PublicKeySize:
			return nil, fmt.Errorf("key set: keys[%d].x is not %d bytes in base64url", i, ed25519.PublicKeySize)
		case k.Kid == "":
			return nil, fmt.Errorf("key set: keys[%d].kid is empty", i)
		case twice:
			return nil, fmt.Errorf("key set: keys[%d].kid occurs twice", i)
		}
		keys[k.Kid] = x
	}
	return keys, nil
}
