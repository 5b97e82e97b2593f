package token

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// SealedKey is a Key as it is stored.
type SealedKey struct {
	// ID is the key's id.
	ID string
	// CreateTime is when the key was made.
	CreateTime time.Time
	// Sealed is the encrypted private key.
	Sealed []byte
}

// SealedRing is a Ring as it is stored.
type SealedRing struct {
	// Signing is the id of the key that signs.
	Signing string
	// Keys are all keys that verify.
	Keys []SealedKey
}

// ErrNoRing means that the store has no ring yet.
var ErrNoRing = errors.New("there is no key ring yet")

// Store keeps the one key ring that all replicas share.
type Store interface {
	// LoadRing returns the ring, or ErrNoRing.
	LoadRing(ctx context.Context) (SealedRing, error)
	// CreateRing stores the ring, unless there is one: then it changes nothing, and that is no error.
	CreateRing(ctx context.Context, ring SealedRing) error
}

// Ring is the list of keys that verify tokens, one of which signs. It does not change, and is safe for concurrent use.
type Ring struct {
	keys    []*Key
	signing *Key
}

// OpenRing returns the ring of the store; the first replica ever to ask makes it. Replicas that start together agree.
func OpenRing(ctx context.Context, store Store, sealer *Sealer) (*Ring, error) {
	sealed, err := store.LoadRing(ctx)
	if errors.Is(err, ErrNoRing) {
		sealed, err = createRing(ctx, store, sealer)
	}
	if err != nil {
		return nil, err
	}
	r := &Ring{keys: make([]*Key, len(sealed.Keys))}
	for i, k := range sealed.Keys {
		if r.keys[i], err = sealer.Open(k); err != nil {
			return nil, err
		}
	}
	i := slices.IndexFunc(r.keys, func(k *Key) bool { return k.id == sealed.Signing })
	if i < 0 {
		return nil, fmt.Errorf("the key ring does not have its signing key %q", sealed.Signing)
	}
	r.signing = r.keys[i]
	return r, nil
}

func createRing(ctx context.Context, store Store, sealer *Sealer) (SealedRing, error) {
	key, err := newKey()
	if err != nil {
		return SealedRing{}, err
	}
	if err := store.CreateRing(ctx, SealedRing{Signing: key.id, Keys: []SealedKey{sealer.Seal(key)}}); err != nil {
		return SealedRing{}, err
	}
	return store.LoadRing(ctx) // another replica may have been first: what is stored counts
}

// Keys returns all keys that verify.
func (r *Ring) Keys() []*Key { return slices.Clone(r.keys) }

// Signing returns the key that signs.
func (r *Ring) Signing() *Key { return r.signing }
