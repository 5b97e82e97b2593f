package token

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	sdk "github.com/berth-dev/berth/sdk/go/token"
)

const (
	// MaxRevocations bounds the list, which every gateway gets as a whole and has in memory. Those of keys come on top.
	MaxRevocations = 5_000
	// MaxLifetime is the longest lifetime that a token may be configured to have.
	MaxLifetime = 24 * time.Hour
	// keepKey is how long the revocation of a key is kept: nothing that it has signed is valid for longer, and nothing of it is renewed, because it does not
	// verify any more.
	keepKey = MaxLifetime + sdk.Leeway + lateSigning
)

// Target is what a revocation concerns. Exactly one of its ids and the time is set.
type Target = sdk.Revocation

// Revocation is a stored revocation.
type Revocation struct {
	// Target is what is revoked.
	Target Target
	// Reason is why, in words.
	Reason string
	// Actor is who revoked it.
	Actor string
	// CreateTime is when.
	CreateTime time.Time
	// ExpireTime is when nothing that it concerns can be valid or renewed any more, so that it is forgotten.
	ExpireTime time.Time
	// Version is that of the list which first had it.
	Version int64
}

// ID names the target: revoking it again is the same revocation.
func (r Revocation) ID() string {
	t := r.Target
	switch {
	case t.PairID != "":
		return "pair:" + t.Namespace + ":" + t.PairID
	case t.ServerID != "":
		return "server:" + t.Namespace + ":" + t.ServerID
	case t.InstanceID != "":
		return "instance:" + t.Namespace + ":" + t.InstanceID
	case t.KeyID != "":
		return "key:" + t.KeyID
	default:
		return "before:" + t.Namespace + ":" + strconv.FormatInt(t.IssuedBefore.UnixMicro(), 10)
	}
}

// ErrFuture means that a revocation's time has not come.
var ErrFuture = errors.New("the time is in the future")

// ErrFull means that there are MaxRevocations.
var ErrFull = errors.New("there are too many revocations")

// RevocationList is the whole list at one version.
type RevocationList struct {
	// Version is the list's, which never goes back; 0 if there never was a revocation.
	Version int64
	// Now is the store's time.
	Now time.Time
	// Revocations are those that have not expired, in no order.
	Revocations []Revocation
}

// RevocationStore keeps the one list that all replicas share.
type RevocationStore interface {
	// RevocationsVersion returns the version of the list.
	RevocationsVersion(ctx context.Context) (int64, error)
	// LoadRevocations returns the list.
	LoadRevocations(ctx context.Context) (RevocationList, error)
	// Revoke stores a revocation for a time, in place of one of the same target, tells everybody, and returns it with its times and version. It fails with
	// ErrFuture or ErrFull.
	Revoke(ctx context.Context, r Revocation, keep time.Duration) (Revocation, error)
	// RestoreRevocations stores those of the revocations that are not there, as they are, and tells everybody.
	RestoreRevocations(ctx context.Context, lost []Revocation) error
}

// RevocationsConfig configures Revocations. All fields are required.
type RevocationsConfig struct {
	// Store has the list.
	Store RevocationStore
	// Keep is how long a revocation is kept: until what it concerns has expired and cannot be renewed either.
	Keep time.Duration
	// Log is where it says what the store has lost.
	Log *slog.Logger
}

// Revocations is the list of what was revoked. The stored list is the truth; while the store is away, what is known stays revoked. It is safe for
// concurrent use.
type Revocations struct {
	cfg RevocationsConfig

	// turn is held by the one that reads the stored list.
	turn chan struct{}

	mu    sync.RWMutex
	known known
}

// known is the list as it was last read.
type known struct {
	version int64
	entries map[string]Revocation // by id
	set     *sdk.Revocations
}

// OpenRevocations reads the stored list.
func OpenRevocations(ctx context.Context, cfg RevocationsConfig) (*Revocations, error) {
	r := &Revocations{cfg: cfg, turn: make(chan struct{}, 1)}
	if err := r.reload(ctx, unread); err != nil {
		return nil, err
	}
	return r, nil
}

// Set returns what is revoked according to the stored list, or, while the store is away, according to the last one that was read. It waits for the store
// for half a second at most.
func (r *Revocations) Set(ctx context.Context) *sdk.Revocations {
	ctx, cancel := context.WithTimeout(ctx, freshTimeout)
	defer cancel()
	_ = r.Refresh(ctx) // Run says so
	return r.last().set
}

// Current returns the stored list: its version and what it has, newest first. It fails while the store is away.
func (r *Revocations) Current(ctx context.Context) (int64, []Revocation, error) {
	if err := r.Refresh(ctx); err != nil {
		return 0, nil, err
	}
	k := r.last()
	list := slices.SortedFunc(maps.Values(k.entries), func(a, b Revocation) int { return cmp.Compare(b.Version, a.Version) })
	return k.version, list, nil
}

// List returns a page of a namespace's revocations, newest first, and the place of the next page, which is of versions below it; 0 on the last. A place of 0
// is the first page.
func (r *Revocations) List(ctx context.Context, namespace string, size int, below int64) ([]Revocation, int64, error) {
	_, list, err := r.Current(ctx)
	if err != nil {
		return nil, 0, err
	}
	list = slices.DeleteFunc(list, func(e Revocation) bool { return e.Target.Namespace != namespace || below != 0 && e.Version >= below })
	if len(list) <= size {
		return list, 0, nil
	}
	return list[:size], list[size-1].Version, nil
}

// Expand returns targets for verifiers, which do not know how ids follow from one another: beside each instance the servers that were started for it.
func Expand(list []Revocation) []Target {
	targets := make([]Target, 0, len(list))
	for _, e := range list {
		targets = append(targets, e.Target)
		if e.Target.InstanceID == "" {
			continue
		}
		for n := range ids.MaxAttempts {
			server := ids.Server(ids.Attempt(e.Target.InstanceID, n+1))
			targets = append(targets, Target{Namespace: e.Target.Namespace, ServerID: server})
		}
	}
	return targets
}

// Revoke stores a revocation. Doing it again for the same target renews it.
func (r *Revocations) Revoke(ctx context.Context, rev Revocation) (Revocation, error) {
	keep := r.cfg.Keep
	if rev.Target.KeyID != "" {
		keep = keepKey
	}
	stored, err := r.cfg.Store.Revoke(ctx, rev, keep)
	switch {
	case errors.Is(err, ErrFuture):
		return Revocation{}, errs.New(errs.ValidationFailed, "issued_before: must not be in the future by the clock of Redis; tokens that are not issued yet cannot be revoked")
	case errors.Is(err, ErrFull):
		return Revocation{}, errs.New(errs.LimitExceeded, "there are %d revocations, which is the limit; revoke by issued_before, which is one for all", MaxRevocations)
	case err != nil:
		return Revocation{}, err
	}
	return stored, nil
}

// Refresh reads the stored list if it is not the one that is known, and writes back what the store has lost.
func (r *Revocations) Refresh(ctx context.Context) error {
	version, err := r.cfg.Store.RevocationsVersion(ctx)
	if err != nil {
		return err
	}
	if version == r.last().version {
		return nil
	}
	return r.reload(ctx, version)
}

// Run looks at the stored list every few seconds until ctx ends.
func (r *Revocations) Run(ctx context.Context) error {
	return lookAgain(ctx, r.Refresh, func(err error) {
		r.cfg.Log.WarnContext(ctx, "the revocations cannot be read; going on with those that are known", "error", err)
	})
}

func (r *Revocations) last() known {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.known
}

// unread is no version.
const unread = -1

// reload reads the list, unless somebody else has read the wanted version while this call waited for its turn.
func (r *Revocations) reload(ctx context.Context, wanted int64) error {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return errs.Wrap(ctx.Err(), errs.StoreUnavailable, "the revocations cannot be read now; try again").Retry(time.Second)
	}
	if r.last().version == wanted {
		return nil
	}
	list, err := r.cfg.Store.LoadRevocations(ctx)
	if err != nil {
		return err
	}
	if lost := r.lost(list); len(lost) > 0 {
		r.cfg.Log.ErrorContext(ctx, "the store has lost revocations; writing back those that this replica knows", "revocations", len(lost))
		if err := r.cfg.Store.RestoreRevocations(ctx, lost); err != nil {
			return fmt.Errorf("write back lost revocations: %w", err)
		}
		if list, err = r.cfg.Store.LoadRevocations(ctx); err != nil {
			return err
		}
	}
	next := known{version: list.Version, entries: make(map[string]Revocation, len(list.Revocations)), set: sdk.NewRevocations(list.Version, Expand(list.Revocations))}
	for _, e := range list.Revocations {
		next.entries[e.ID()] = e
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = next
	return nil
}

// lost returns what is known, has not expired and is not in the list. Nobody takes revocations back, so the store has lost it.
func (r *Revocations) lost(list RevocationList) []Revocation {
	there := make(map[string]struct{}, len(list.Revocations))
	for _, e := range list.Revocations {
		there[e.ID()] = struct{}{}
	}
	var lost []Revocation
	for id, e := range r.last().entries {
		if _, ok := there[id]; !ok && e.ExpireTime.After(list.Now) {
			lost = append(lost, e)
		}
	}
	return lost
}
