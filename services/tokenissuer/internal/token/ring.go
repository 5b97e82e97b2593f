package token

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
	sdk "github.com/berth-dev/berth/sdk/go/token"
)

// State is where a signing key is in its life.
type State string

// The states, in their order.
const (
	// Published keys are in the key set and do not sign yet, so that all verifiers know them when they do.
	Published State = "published"
	// Signing is the state of the one key that signs.
	Signing State = "signing"
	// Retired keys sign no more; they verify until all that they have signed has expired, and are removed.
	Retired State = "retired"
	// Withdrawn keys were retired in an emergency: they verify nothing, and are remembered as long as a retired one.
	Withdrawn State = "withdrawn"
)

const (
	// lateSigning is for how long after its retirement a replica may have signed with a key without knowing of it: several times the pause between two
	// looks at the ring.
	lateSigning = time.Minute
	// maxKeys bounds the ring; only rotation by hand comes near it.
	maxKeys = 64
)

// SealedKey is a key as it is stored. Times are those of the store's clock.
type SealedKey struct {
	// ID is the key's id.
	ID string
	// Algorithm is how it signs.
	Algorithm sdk.Algorithm
	// State is where it is in its life.
	State State
	// CreateTime is when it was made.
	CreateTime time.Time
	// SignTime is when it began to sign, or will.
	SignTime time.Time
	// RetireTime is when it stopped; zero before.
	RetireTime time.Time
	// RemoveTime is when it is removed; zero before it is retired.
	RemoveTime time.Time
	// Lifetime is the longest lifetime of the tokens that it may have signed.
	Lifetime time.Duration
	// Sealed is the encrypted private key; empty once it is withdrawn.
	Sealed []byte
}

// over is when nothing that the key signs until t is valid any more.
func (k SealedKey) over(t time.Time) time.Time { return t.Add(k.Lifetime + sdk.Leeway + lateSigning) }

// SealedRing is a Ring as it is stored.
type SealedRing struct {
	// Lineage is made with the ring and tells it from one that was made anew after this one was lost; empty in a ring of the first format.
	Lineage string
	// Revision orders the changes of the ring and never goes back; 0 in a ring of the first format.
	Revision int64
	// Keys are its keys. One of them is signing and at most one is published.
	Keys []SealedKey
}

// Check returns an error unless the ring can be used.
func (r SealedRing) Check() error {
	count := map[State]int{}
	for _, k := range r.Keys {
		count[k.State]++
	}
	if count[Signing] != 1 || count[Published] > 1 {
		return fmt.Errorf("the key ring has %d signing and %d published keys, and not one and at most one", count[Signing], count[Published])
	}
	return nil
}

// Policy says how keys are made and rotated.
type Policy struct {
	// Algorithm is that of new keys.
	Algorithm sdk.Algorithm
	// Rotation is how long a key signs.
	Rotation time.Duration
	// Publish is how long a key is published before it signs.
	Publish time.Duration
	// Lifetime is the longest lifetime of a token.
	Lifetime time.Duration
}

// maker makes a key of the ring, sealed and with its times.
type maker func(now time.Time) (SealedKey, error)

// newRing is a ring with one key, which signs at once.
func newRing(now time.Time, fresh maker) (SealedRing, error) {
	k, err := fresh(now)
	k.State, k.SignTime = Signing, now
	return SealedRing{Lineage: uuid.NewString(), Keys: []SealedKey{k}}, err
}

// in returns the place of the key in a state, or -1.
func (r *SealedRing) in(s State) int {
	return slices.IndexFunc(r.Keys, func(k SealedKey) bool { return k.State == s })
}

func (r *SealedRing) index(id string) int {
	return slices.IndexFunc(r.Keys, func(k SealedKey) bool { return k.ID == id })
}

// advance does what is due by the clock: it removes keys, lets a published one sign, and publishes the next. It reports whether it did anything.
func (r *SealedRing) advance(now time.Time, p Policy, fresh maker) (bool, error) {
	before := len(r.Keys)
	r.Keys = slices.DeleteFunc(r.Keys, func(k SealedKey) bool { return !k.RemoveTime.IsZero() && !now.Before(k.RemoveTime) })
	changed := len(r.Keys) != before
	for i := range r.Keys {
		if k := &r.Keys[i]; k.State == Retired && k.RemoveTime.IsZero() { // of the first format
			k.RetireTime, k.RemoveTime, changed = now, k.over(now), true
		}
		// A replica whose tokens live longer than the ring was told says so before it signs.
		if k := &r.Keys[i]; (k.State == Signing || k.State == Published) && k.Lifetime < p.Lifetime {
			k.Lifetime, changed = p.Lifetime, true
		}
	}
	signing, next := r.Keys[r.in(Signing)], r.in(Published)
	end := signing.SignTime.Add(p.Rotation)
	switch {
	case next >= 0 && !now.Before(r.Keys[next].SignTime):
		r.promote(next, now)
		return true, nil
	case next >= 0 || now.Before(end.Add(-p.Publish)) || len(r.Keys) >= maxKeys:
		return changed, nil
	}
	k, err := fresh(now)
	if err != nil {
		return false, err
	}
	k.State, k.SignTime = Published, now.Add(p.Publish)
	if end.After(k.SignTime) {
		k.SignTime = end
	}
	r.Keys = append(r.Keys, k)
	return true, nil
}

// promote makes a key the one that signs, and retires the one that did.
func (r *SealedRing) promote(i int, now time.Time) {
	if was := r.in(Signing); was >= 0 {
		k := &r.Keys[was]
		k.State, k.RetireTime, k.RemoveTime = Retired, now, k.over(now)
	}
	r.Keys[i].State, r.Keys[i].SignTime = Signing, now
}

// rotate publishes a key, unless one is published already, and with immediate makes it sign at once.
func (r *SealedRing) rotate(now time.Time, p Policy, immediate bool, fresh maker) (bool, error) {
	next := r.in(Published)
	if next >= 0 && !immediate {
		return false, nil
	}
	if next < 0 {
		if len(r.Keys) >= maxKeys {
			return false, errs.New(errs.LimitExceeded, "the key ring has %d keys, which is its limit; rotate again when retired keys have been removed", maxKeys)
		}
		k, err := fresh(now)
		if err != nil {
			return false, err
		}
		k.State, k.SignTime = Published, now.Add(p.Publish)
		r.Keys = append(r.Keys, k)
		next = len(r.Keys) - 1
	}
	if immediate {
		r.promote(next, now)
	}
	return true, nil
}

// withdraw takes a key out of use at once; if it was signing, the published key signs, or a new one.
func (r *SealedRing) withdraw(now time.Time, id string, fresh maker) (bool, error) {
	i := r.index(id)
	if i < 0 {
		return false, errs.New(errs.ValidationFailed, "key_id: there is no signing key with this id; ListSigningKeys has all of them")
	}
	if r.Keys[i].State == Withdrawn {
		return false, nil
	}
	if r.Keys[i].State == Signing {
		next := r.in(Published)
		if next < 0 { // without a bound: an emergency comes first
			k, err := fresh(now)
			if err != nil {
				return false, err
			}
			r.Keys = append(r.Keys, k)
			next = len(r.Keys) - 1
		}
		r.promote(next, now)
	}
	k := &r.Keys[i]
	if k.RetireTime.IsZero() {
		k.RetireTime, k.RemoveTime = now, k.over(now)
	}
	k.State, k.Sealed = Withdrawn, nil
	return true, nil
}

// adopt takes over the keys of a ring that was lost, so that what they have signed stays valid. They do not sign again.
func (r *SealedRing) adopt(now time.Time, lost SealedRing) {
	for _, k := range lost.Keys {
		if r.index(k.ID) >= 0 {
			continue
		}
		if k.State == Signing || k.State == Published {
			k.State, k.RetireTime, k.RemoveTime = Retired, now, k.over(now)
		}
		r.Keys = append(r.Keys, k)
	}
}

// clone returns a ring that can be changed without changing this one.
func (r SealedRing) clone() SealedRing {
	r.Keys = slices.Clone(r.Keys)
	return r
}

// Ring is the ring at one revision, opened. It does not change, and is safe for concurrent use.
type Ring struct {
	sealed  SealedRing
	keys    []*Key // those that verify, as far as they could be opened
	signing *Key   // nil if it could not be opened
}

// errSigningKeySealed means that this replica cannot open the key that others have made the signing one.
var errSigningKeySealed = errors.New("the signing key is sealed under a sealing key that this replica does not have; restart it with the current one (sealing_key, BERTH_SEALING_KEY)")

// Keys returns all keys that verify.
func (r *Ring) Keys() []*Key { return slices.Clone(r.keys) }

// Signing returns the key that signs. It fails with SERVICE_UNAVAILABLE when this replica cannot open it.
func (r *Ring) Signing() (*Key, error) {
	if r.signing == nil {
		return nil, errs.Wrap(errSigningKeySealed, errs.ServiceUnavailable, "this replica cannot sign now; another one can").Retry(time.Second)
	}
	return r.signing, nil
}

// Sealed returns the ring as it is stored, for what there is to say about its keys.
func (r *Ring) Sealed() SealedRing { return r.sealed.clone() }

// key returns an opened key; nil if it is not there.
func (r *Ring) key(id string) *Key {
	if r == nil {
		return nil
	}
	i := slices.IndexFunc(r.keys, func(k *Key) bool { return k.id == id })
	if i < 0 {
		return nil
	}
	return r.keys[i]
}
