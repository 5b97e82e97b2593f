package allocator

import (
	"context"
	"errors"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

// Errors of a store that its callers deal with.
var (
	// ErrConflict: the allocation is not at the revision that the change was decided on.
	ErrConflict = errors.New("the allocation was changed meanwhile")
	// ErrLeaseLost: another worker holds the allocation.
	ErrLeaseLost = errors.New("another worker has the allocation")
)

// maxChanges is how many use-cases change allocations at once: a burst of them leaves connections to the store for the worker.
const maxChanges = 64

// maxDecides bounds how often a use-case decides again after a conflict.
const maxDecides = 8

// Store keeps allocations for the use-cases.
type Store interface {
	// Load returns an allocation and the store's time. Rev is 0 when it is not there. It fails with an UnreadableError when its record cannot be read.
	Load(ctx context.Context, id string) (Allocation, time.Time, error)
	// Save stores an allocation at the revision after Rev and makes it due at once; it fails with ErrConflict.
	Save(ctx context.Context, a Allocation) (Allocation, error)
	// List returns the allocations of a namespace, newest first, from a cursor on, and the cursor of the next page. With an UnreadableError
	// it returns all others.
	List(ctx context.Context, namespace string, size int, cursor string) ([]Allocation, string, error)
	// Waiting returns how many allocations wait for room for a build.
	Waiting(ctx context.Context, build string) (int, error)
}

// Service has the use-cases. It is safe for concurrent use.
type Service struct {
	store   Store
	explain Explain
	limit   int
	wake    func(id string)
	turns   chan struct{}
	passed  *PassedOver
}

// Explain says where a server may be looked for, as things are now. It is safe for concurrent use, and asks nobody.
type Explain = func(placement.Request) placement.Explanation

// NewService returns a Service. explain is what workers go by, too; limit is how many may wait for a build; wake is called after each change, so that a worker
// acts on it at once; passed counts what lists leave out.
func NewService(store Store, explain Explain, limit int, wake func(id string), passed *PassedOver) *Service {
	return &Service{
		store: store, explain: explain, limit: limit, wake: wake, passed: passed,
		turns: make(chan struct{}, maxChanges), // full: the next one waits until its caller gives up
	}
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
		if err := s.room(ctx, w.Placement.request(w.ID, w.Namespace)); err != nil {
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
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	case <-ctx.Done():
		return Allocation{}, ctx.Err()
	}
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

// Check returns an error unless a placement can be served somewhere as things are now, or may wait for that.
func (s *Service) Check(ctx context.Context, namespace string, p Placement) error {
	return s.room(ctx, p.request("", namespace))
}

// queueRetry is when it makes sense to ask again whether one more may wait.
const queueRetry = 5 * time.Second

func (s *Service) room(ctx context.Context, r placement.Request) error {
	if err := s.explain(r).Err(); err != nil {
		return err
	}
	n, err := s.store.Waiting(ctx, r.Build)
	if err == nil && n >= s.limit {
		err = errs.New(errs.AllocationQueueFull, "%d allocations wait for room for build %q, and no more may (queue.limit); try again later", n, r.Build).Retry(queueRetry)
	}
	return err
}

// Explain says where a placement would be tried, and why not elsewhere. That it would be tried nowhere is an answer, too; only of a build that nobody runs
// there is nothing to explain.
func (s *Service) Explain(namespace string, p Placement) (placement.Explanation, error) {
	e := s.explain(p.request("", namespace))
	if err := e.Err(); errs.Is(err, errs.BuildUnknown) {
		return placement.Explanation{}, err
	}
	return e, nil
}

// Get returns an allocation.
func (s *Service) Get(ctx context.Context, namespace, id string) (Allocation, error) {
	a, _, err := s.store.Load(ctx, id)
	if err == nil && (a.Rev == 0 || a.Namespace != namespace) {
		err = unknown(namespace, id)
	}
	return a, err
}

// List returns a page of a namespace's allocations, newest first, and the cursor of the next one. Those whose record cannot be read are left out.
func (s *Service) List(ctx context.Context, namespace string, size int, cursor string) ([]Allocation, string, error) {
	list, next, err := s.store.List(ctx, namespace, size, cursor)
	_, err = s.passed.over(ctx, err)
	return list, next, err
}

func unknown(namespace, id string) error {
	return errs.New(errs.AllocationUnknown, "namespace %q has no allocation %s; allocations are deleted an hour after their end", namespace, id)
}
