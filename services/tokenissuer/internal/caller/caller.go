// Package caller owns the API keys that are made by rpc: with them backends, operators and web tools say who they are. Root keys are not among them;
// those stand in the services' configuration.
package caller

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
)

// MaxKeys is how many API keys there may be at once.
const MaxKeys = 1_000

// Role is what the holder of a key may do: VIEWER, SERVICE, OPERATOR or ADMIN, or POOL.
type Role string

// Key is what there is to say about an API key; the key itself is not kept.
type Key struct {
	// Name names it, for history and audit; unique among the keys that are in force.
	Name string
	// Hash is its SHA-256 in hex.
	Hash string
	// Role is what its holder may do.
	Role Role
	// Namespaces are those that it is limited to; empty: all.
	Namespaces []string
	// Creator is who made it.
	Creator string
	// CreateTime is when, by the store's clock.
	CreateTime time.Time
	// ExpireTime is from when on it is not valid; zero: it does not expire.
	ExpireTime time.Time
}

// Errors of a Store.
var (
	// ErrTaken means that a key in force has the name.
	ErrTaken = errors.New("the name is taken")
	// ErrFull means that there are MaxKeys.
	ErrFull = errors.New("there are too many API keys")
	// ErrPast means that the key would have expired already.
	ErrPast = errors.New("the time is in the past")
)

// Store keeps the keys that all replicas share. What has expired is not there.
type Store interface {
	// CreateKey stores a key and returns it with its CreateTime. It fails with ErrTaken, ErrFull or ErrPast.
	CreateKey(ctx context.Context, k Key) (Key, error)
	// Keys returns all keys, in no order.
	Keys(ctx context.Context) ([]Key, error)
	// KeyByHash returns the key with a hash, and whether there is one.
	KeyByHash(ctx context.Context, hash string) (Key, bool, error)
	// DeleteKey deletes a key, and reports whether it was there.
	DeleteKey(ctx context.Context, k Key) (bool, error)
}

// Admin is who manages keys.
type Admin struct {
	// Name is that of the caller, as history and audit have it.
	Name string
	// Namespaces are those that the caller is limited to; empty: all. Such an admin manages the keys of these namespaces only.
	Namespaces []string
}

// may returns an error unless the admin has access to all that a key of the namespaces has.
func (a Admin) may(namespaces []string) error {
	switch {
	case len(a.Namespaces) == 0:
		return nil
	case len(namespaces) == 0:
		return errs.New(errs.NamespaceDenied, "namespaces: a key without any has access to all, and your own is limited to %s", strings.Join(a.Namespaces, ", "))
	}
	for _, n := range namespaces {
		if !slices.Contains(a.Namespaces, n) {
			return errs.New(errs.NamespaceDenied, "namespaces: your own credentials have no access to %q", n)
		}
	}
	return nil
}

// Keys are the API keys. It is safe for concurrent use.
type Keys struct {
	store Store
	roots []string
}

// New returns the keys of a store. roots are the names of root keys, which no other key may have.
func New(store Store, roots []string) *Keys { return &Keys{store: store, roots: roots} }

// Create makes a key of that name, role and namespaces, which expires then, and returns it with the key itself, which cannot be had again.
func (k *Keys) Create(ctx context.Context, by Admin, want Key) (Key, conf.Secret, error) {
	if err := by.may(want.Namespaces); err != nil {
		return Key{}, "", err
	}
	if slices.Contains(k.roots, want.Name) {
		return Key{}, "", errs.New(errs.ValidationFailed, "name: %q is a root key of the configuration; take another name", want.Name)
	}
	key, hash := apikey.Generate()
	want.Hash, want.Creator = hash, by.Name
	made, err := k.store.CreateKey(ctx, want)
	switch {
	case errors.Is(err, ErrTaken):
		return Key{}, "", errs.New(errs.ValidationFailed, "name: there is an API key %q already; revoke it first, or take another name", want.Name)
	case errors.Is(err, ErrPast):
		return Key{}, "", errs.New(errs.ValidationFailed, "expire_time: must be in the future by the clock of Redis")
	case errors.Is(err, ErrFull):
		return Key{}, "", errs.New(errs.LimitExceeded, "there are %d API keys, which is the limit; revoke those that nobody uses", MaxKeys)
	case err != nil:
		return Key{}, "", err
	}
	return made, key, nil
}

// List returns a page of the keys that the admin may manage, by name, and the name after which the next page begins; "" on the last.
func (k *Keys) List(ctx context.Context, by Admin, size int, after string) ([]Key, string, error) {
	all, err := k.store.Keys(ctx)
	if err != nil {
		return nil, "", err
	}
	all = slices.DeleteFunc(all, func(e Key) bool { return e.Name <= after || by.may(e.Namespaces) != nil })
	slices.SortFunc(all, func(a, b Key) int { return strings.Compare(a.Name, b.Name) })
	if len(all) <= size {
		return all, "", nil
	}
	return all[:size], all[size-1].Name, nil
}

// Revoke ends a key. Services that have looked it up may take it for a few seconds more.
func (k *Keys) Revoke(ctx context.Context, by Admin, name string) (Key, error) {
	all, err := k.store.Keys(ctx)
	if err != nil {
		return Key{}, err
	}
	unknown := errs.New(errs.ValidationFailed, "name: there is no API key %q; it was revoked, has expired, or stands in the configuration", name)
	i := slices.IndexFunc(all, func(e Key) bool { return e.Name == name })
	if i < 0 {
		return Key{}, unknown
	}
	if err := by.may(all[i].Namespaces); err != nil {
		return Key{}, err
	}
	deleted, err := k.store.DeleteKey(ctx, all[i])
	if err == nil && !deleted {
		return Key{}, unknown
	}
	return all[i], err
}

// Lookup returns the key with a hash, and whether there is one in force.
func (k *Keys) Lookup(ctx context.Context, hash string) (Key, bool, error) {
	return k.store.KeyByHash(ctx, hash)
}
