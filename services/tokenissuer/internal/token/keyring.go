package token

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
)

const (
	// lookEvery and lookJitter are the pause between two looks at what is stored: 3 to 5 s.
	lookEvery  = 3 * time.Second
	lookJitter = 2 * time.Second
	// lookTimeout bounds one look.
	lookTimeout = 5 * time.Second
	// swapTries bounds how often a change is decided anew because another replica was faster.
	swapTries = 10
	// freshTimeout is how long Fresh may hold up what can be answered from memory.
	freshTimeout = 500 * time.Millisecond
)

// ErrNoRing means that the store has no ring.
var ErrNoRing = errors.New("there is no key ring")

// NoRing is the revision of a ring that is not there, for RingStore.SwapRing.
const NoRing int64 = -1

// RingStore keeps the one key ring that all replicas share.
type RingStore interface {
	// LoadRing returns the ring and the store's time. Without a ring it returns the time and ErrNoRing.
	LoadRing(ctx context.Context) (SealedRing, time.Time, error)
	// SwapRing stores the ring in place of the one with the expected revision, or NoRing, and reports whether that was there.
	SwapRing(ctx context.Context, expected int64, ring SealedRing) (bool, error)
}

// KeyringConfig configures a Keyring. All fields are required.
type KeyringConfig struct {
	// Store has the ring.
	Store RingStore
	// Sealer opens and seals its keys.
	Sealer *Sealer
	// Policy says how keys are made and rotated.
	Policy Policy
	// Log is where it says what happens to the ring.
	Log *slog.Logger
}

// Keyring is the key ring in use: it follows what is stored, rotates keys when that is due, and goes on with what it has while the store is away.
// All replicas decide by the store's clock, and change the ring by compare-and-set on its revision: what two do at once is done once. It is
// safe for concurrent use.
type Keyring struct {
	cfg     KeyringConfig
	current atomic.Pointer[Ring]

	// turn is held by the one that reads or changes the stored ring; a channel, so that others can stop waiting when their contexts end.
	turn   chan struct{}
	looked time.Time // when the last look that worked began; for the one that has the turn
}

// OpenKeyring opens the stored ring; the first replica ever to ask makes it. A ring with a key that the sealer cannot open is left as it is, and refused with
// ErrSeal. Keys that only the previous sealing key opens are sealed anew.
func OpenKeyring(ctx context.Context, cfg KeyringConfig) (*Keyring, error) {
	k := &Keyring{cfg: cfg, turn: make(chan struct{}, 1)}
	err := k.update(ctx, func(r *SealedRing, now time.Time) (bool, error) {
		resealed, err := k.reseal(r)
		if err != nil {
			return false, err
		}
		advanced, err := r.advance(now, cfg.Policy, k.fresh)
		return resealed || advanced, err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// Ring returns the ring as far as it is known here.
func (k *Keyring) Ring() *Ring { return k.current.Load() }

// Ready is a readiness probe: it fails while this replica cannot sign.
func (k *Keyring) Ready(context.Context) error {
	_, err := k.Ring().Signing()
	return err
}

// Refresh reads the stored ring, does what is due, and writes back what the store has lost.
func (k *Keyring) Refresh(ctx context.Context) error {
	return k.update(ctx, k.due)
}

func (k *Keyring) due(r *SealedRing, now time.Time) (bool, error) {
	return r.advance(now, k.cfg.Policy, k.fresh)
}

func (k *Keyring) takeTurn(ctx context.Context) error {
	select {
	case k.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errs.Wrap(ctx.Err(), errs.StoreUnavailable, "the key ring cannot be changed now; try again").Retry(time.Second)
	}
}

func (k *Keyring) endTurn() { <-k.turn }

// Fresh returns the ring as it is stored now; while the store is away, as far as it is known here. Calls that come while one looks share the next look.
func (k *Keyring) Fresh(ctx context.Context) *Ring {
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, freshTimeout)
	defer cancel()
	if k.takeTurn(ctx) == nil {
		if !k.looked.After(asked) { // nobody has looked while this call waited
			_ = k.inTurn(ctx, k.due) // Run says so
		}
		k.endTurn()
	}
	return k.Ring()
}

// Run looks at the stored ring every few seconds until ctx ends.
func (k *Keyring) Run(ctx context.Context) error {
	return lookAgain(ctx, k.Refresh, func(err error) {
		k.cfg.Log.WarnContext(ctx, "the key ring cannot be read; going on with the one that is known", "error", err)
	})
}

// lookAgain looks every few seconds until ctx ends. Of failures in a row the first is told.
func lookAgain(ctx context.Context, look func(context.Context) error, failed func(error)) error {
	failing := false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(lookEvery + rand.N(lookJitter))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		bounded, cancel := context.WithTimeout(ctx, lookTimeout)
		err := look(bounded)
		cancel()
		if err != nil && !failing && ctx.Err() == nil {
			failed(err)
		}
		failing = err != nil
	}
}

// Rotate publishes a new key, or with immediate makes it sign at once. While a key is published already, that is the new key.
func (k *Keyring) Rotate(ctx context.Context, immediate bool) error {
	return k.update(ctx, func(r *SealedRing, now time.Time) (bool, error) {
		return r.rotate(now, k.cfg.Policy, immediate, k.fresh)
	})
}

// Withdraw takes a key out of use at once, with everything that it has signed. Another one signs if it did. Doing it again changes nothing.
func (k *Keyring) Withdraw(ctx context.Context, id string) error {
	return k.update(ctx, func(r *SealedRing, now time.Time) (bool, error) { return r.withdraw(now, id, k.fresh) })
}

// fresh is a maker.
func (k *Keyring) fresh(now time.Time) (SealedKey, error) {
	key, err := newKey(k.cfg.Policy.Algorithm, now)
	if err != nil {
		return SealedKey{}, err
	}
	sealed, err := k.cfg.Sealer.Seal(key)
	return SealedKey{ID: key.id, Algorithm: key.algorithm, CreateTime: now, Lifetime: k.cfg.Policy.Lifetime, Sealed: sealed}, err
}

// reseal seals anew what only the previous sealing key opens, and fails with ErrSeal if there is something that neither does.
func (k *Keyring) reseal(r *SealedRing) (bool, error) {
	changed := false
	for i := range r.Keys {
		sealed := &r.Keys[i]
		if sealed.State == Withdrawn {
			continue
		}
		key, stale, err := k.cfg.Sealer.Open(*sealed)
		if err != nil {
			return false, err
		}
		if !stale {
			continue
		}
		if sealed.Sealed, err = k.cfg.Sealer.Seal(key); err != nil {
			return false, err
		}
		k.cfg.Log.Info("signing key sealed under the current sealing key", "key", key.id)
		changed = true
	}
	return changed, nil
}

// decision changes a ring and reports whether it did. It has no effect but on the ring that it is given.
type decision func(*SealedRing, time.Time) (bool, error)

func (k *Keyring) update(ctx context.Context, decide decision) error {
	if err := k.takeTurn(ctx); err != nil {
		return err
	}
	defer k.endTurn()
	return k.inTurn(ctx, decide)
}

// inTurn loads the ring, decides what to change and stores that, again if another replica was faster; then the stored ring is the one in use.
func (k *Keyring) inTurn(ctx context.Context, decide decision) error {
	began := time.Now()
	for range swapTries {
		ring, expected, now, mended, err := k.load(ctx)
		if err != nil {
			return err
		}
		changed, err := decide(&ring, now)
		if err != nil {
			return err
		}
		if changed || mended {
			ring.Revision = max(ring.Revision+1, now.UnixMicro())
			swapped, err := k.cfg.Store.SwapRing(ctx, expected, ring)
			if err != nil {
				return err
			}
			if !swapped {
				continue
			}
		}
		k.looked = began
		k.use(ctx, ring)
		return nil
	}
	return errs.New(errs.Contended, "the key ring is being changed by others; try again")
}

// load returns the ring to go on from, the revision that is stored, and whether that is another one: because there is none yet, because it has the first format, or
// because the store has lost what this replica knows.
func (k *Keyring) load(ctx context.Context) (ring SealedRing, expected int64, now time.Time, mended bool, err error) {
	known := k.Ring()
	ring, now, err = k.cfg.Store.LoadRing(ctx)
	expected = ring.Revision
	switch {
	case errors.Is(err, ErrNoRing) && known == nil:
		ring, err = newRing(now, k.fresh)
		return ring, NoRing, now, true, err
	case errors.Is(err, ErrNoRing):
		k.cfg.Log.ErrorContext(ctx, "the key ring is gone from the store; writing back the one that this replica has", "keys", len(known.sealed.Keys))
		return known.sealed.clone(), NoRing, now, true, nil
	case err != nil:
		return ring, expected, now, false, err
	}
	if err := ring.Check(); err != nil {
		return ring, expected, now, false, err
	}
	if ring.Lineage == "" {
		ring.Lineage, mended = uuid.NewString(), true
	}
	switch {
	case known == nil:
	case ring.Lineage != known.sealed.Lineage:
		k.cfg.Log.ErrorContext(ctx, "the key ring in the store is another one, made after the old one was lost; adding the keys that this replica has")
		ring.adopt(now, known.sealed)
		mended = true
	case ring.Revision < known.sealed.Revision:
		k.cfg.Log.ErrorContext(ctx, "the store has lost changes of the key ring; writing back the ring that this replica has",
			"stored_revision", ring.Revision, "known_revision", known.sealed.Revision)
		return known.sealed.clone(), expected, now, true, nil
	}
	return ring, expected, now, mended, nil
}

// use makes a ring the one in use, and says what has changed.
func (k *Keyring) use(ctx context.Context, sealed SealedRing) {
	known := k.Ring()
	if known != nil && known.sealed.Revision == sealed.Revision && known.sealed.Lineage == sealed.Lineage {
		return
	}
	r := &Ring{sealed: sealed}
	for _, s := range sealed.Keys {
		if s.State == Withdrawn {
			continue
		}
		key := known.key(s.ID)
		if key == nil {
			var err error
			if key, _, err = k.cfg.Sealer.Open(s); err != nil {
				k.cfg.Log.ErrorContext(ctx, "a signing key cannot be opened; restart this replica with the current sealing key (sealing_key, BERTH_SEALING_KEY)",
					"key", s.ID, "state", string(s.State))
				continue
			}
		}
		r.keys = append(r.keys, key)
		if s.State == Signing {
			r.signing = key
		}
	}
	k.current.Store(r)
	k.cfg.Log.InfoContext(ctx, "key ring in use", "revision", sealed.Revision, "keys", summary(sealed))
}

// summary names the keys of a ring by their states.
func summary(r SealedRing) string {
	var out string
	for i, k := range r.Keys {
		if i > 0 {
			out += ", "
		}
		out += fmt.Sprintf("%s %s", k.State, k.ID)
	}
	return out
}
