package allocator

import (
	"context"
	"errors"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
)

// Errors of a store that its callers deal with.
var (
	// ErrConflict: the allocation is not at the revision that the change was decided on.
	ErrConflict = errors.New("the allocation was changed meanwhile")
	// ErrLeaseLost: another worker holds the allocation.
	ErrLeaseLost = errors.New("another worker has the allocation")
)

// maxDecides bounds how often a use-case decides again after a conflict.
const maxDecides = 8

// Store keeps allocations for the use-cases.
type Store interface {
	// Load returns an allocation and the store's time. Rev is 0 when it is not there.
	Load(ctx context.Context, id string) (Allocation, time.Time, error)
	// Save stores an allocation at the revision after Rev and makes it due at once; it fails with ErrConflict.
	Save(ctx context.Context, a Allocation) (Allocation, error)
	// List returns the allocations of a namespace, newest first, from a cursor on, and the cursor of the next page.
	List(ctx context.Context, namespace string, size int, cursor string) ([]Allocation, string, error)
}

// Service has the use-cases. It is safe for concurrent use.
type Service struct {
	store   Store
	catalog Catalog
	wake    func(id string)
}

// NewService returns a Service. wake is called after each change, so that a worker acts on it at once.
func NewService(store Store, catalog Catalog, wake func(id string)) *Service {
	return &Service{store: store, catalog: catalog, wake: wake}
}

// Create stores the wish for a server; asking again is asking once.
func (s *Service) Create(ctx context.Context, w Wish) (Allocation, error) {
	if err := checkID(w.ID, w.InstanceID); err != nil {
		return Allocation{}, err
	}
	return s.change(ctx, w.ID, func(a Allocation, now time.Time) (Allocation, bool, error) {
		switch {
		case a.Rev != 0 && a.answers(w):
			return a, false, nil
		case a.Rev != 0:
			return a, false, errs.New(errs.RequestIDReused, "allocation_id: %s was used for a different request", w.ID)
		}
		if err := s.Check(w.Placement); err != nil {
			return a, false, err
		}
		return newAllocation(w, now), true, nil
	})
}

// Release stores that the instance is done with the server, also of an allocation that is not there yet.
func (s *Service) Release(ctx context.Context, namespace, id, instanceID string) (Allocation, error) {
	if err := checkID(id, instanceID); err != nil {
		return Allocation{}, err
	}
	return s.change(ctx, id, func(a Allocation, now time.Time) (Allocation, bool, error) {
		switch {
		case a.Rev == 0:
			return newTombstone(namespace, id, instanceID, now), true, nil
		case a.Namespace != namespace:
			return a, false, unknown(namespace, id)
		}
		changed := a.Release(now)
		return a, changed, nil
	})
}

// change loads, decides and saves, again while others change the same allocation.
func (s *Service) change(ctx context.Context, id string, decide func(Allocation, time.Time) (Allocation, bool, error)) (Allocation, error) {
	for range maxDecides {
		a, now, err := s.store.Load(ctx, id)
		if err != nil {
			return Allocation{}, err
		}
		a, changed, err := decide(a, now)
		if err != nil || !changed {
			return a, err
		}
		a, err = s.store.Save(ctx, a)
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err == nil {
			s.wake(id)
		}
		return a, err
	}
	return Allocation{}, errs.New(errs.Contended, "allocation %s has too many writers at once; nothing changed, try again", id).Retry(100 * time.Millisecond)
}

// Check returns an error unless the placement can be served by the configuration.
func (s *Service) Check(p Placement) error {
	_, _, err := s.catalog.Place(p)
	return err
}

// Get returns an allocation.
func (s *Service) Get(ctx context.Context, namespace, id string) (Allocation, error) {
	a, _, err := s.store.Load(ctx, id)
	if err == nil && (a.Rev == 0 || a.Namespace != namespace) {
		err = unknown(namespace, id)
	}
	return a, err
}

// List returns a page of a namespace's allocations, newest first, and the cursor of the next one.
func (s *Service) List(ctx context.Context, namespace string, size int, cursor string) ([]Allocation, string, error) {
	return s.store.List(ctx, namespace, size, cursor)
}

// Providers returns the configured providers.
func (s *Service) Providers() Catalog { return s.catalog }

func unknown(namespace, id string) error {
	return errs.New(errs.AllocationUnknown, "namespace %q has no allocation %s; allocations are deleted an hour after their end", namespace, id)
}
