package redisstore_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
	"github.com/berth-dev/berth/services/gameinstance/internal/registry"
)

// Calls at the same time for one attempt each choose a server, and one of them counts. The others' choice was counted as room that is had, so that the next
// attempt was refused by a pool that was almost empty.
func TestAPoolWithRoomRefusesNobody(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		for n := range 3 {
			joined(t, s, member(fmt.Sprint("server-", n), 1))
		}
		p := pools(s, s)
		for range 5 {
			first, second := want(), want()
			first.Spread, second.Spread = true, true
			var calls sync.WaitGroup
			for range 8 {
				calls.Go(func() {
					if _, err := p.Take(t.Context(), first); err != nil {
						t.Errorf("one of several calls: %v", err)
					}
				})
			}
			calls.Wait()
			take(t, p, second)
			for _, w := range []registry.Want{first, second} {
				if err := p.GiveBack(t.Context(), w.AttemptID); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// slow is a store at which something happens before room is given, and its caller goes away before it is told of it.
type slow struct {
	*redisstore.Store
	before func()
	leave  context.CancelFunc
}

func (s slow) Assign(ctx context.Context, namespace, id string, a registry.Assignment) (registry.Server, error) {
	s.before()
	defer s.leave()
	return s.Store.Assign(ctx, namespace, id, a)
}

// busy is a store at which the first that asks for room is told that there is none, and something happened meanwhile.
type busy struct {
	*redisstore.Store
	meanwhile func()
	once      *sync.Once
}

func (s busy) Assign(ctx context.Context, namespace, id string, a registry.Assignment) (server registry.Server, err error) {
	s.once.Do(func() {
		s.meanwhile()
		err = registry.Full(id)
	})
	if err != nil {
		return registry.Server{}, err
	}
	return s.Store.Assign(ctx, namespace, id, a)
}

// A call that found no room on a server takes the room there all the same if a repeat of it has got it since. It went on to another server, and the attempt
// had room on both.
func TestRoomThatARepeatGotIsTheRoom(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		for n := range 2 {
			joined(t, s, member(fmt.Sprint("server-", n), 1))
		}
		w, repeated := want(), ""
		first := pools(busy{s, func() { repeated = take(t, pools(s, s), w) }, new(sync.Once)}, s)
		if got := take(t, first, w); got != repeated {
			t.Errorf("one call got room on %s, the other one on %s", got, repeated)
		}
	})
}

// A call that is overtaken by the release of its attempt, and then cut off, left room on the server that nobody had, until the audit a minute later.
func TestACallThatIsCutOffKeepsNoRoom(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		server := joined(t, s, member("server", 1))
		ctx, cancel := context.WithCancel(t.Context())
		w := want()
		release := func() {
			if err := pools(s, s).GiveBack(t.Context(), w.AttemptID); err != nil {
				t.Error(err)
			}
		}
		if room, err := pools(slow{s, release, cancel}, s).Take(ctx, w); err == nil {
			t.Errorf("it got %v", room)
		}
		if got := holders(t, s, server.ID); len(got) != 0 {
			t.Errorf("%v is kept", got)
		}
	})
}

// A call of an earlier attempt that arrives after a later attempt has got room on the same server took that room over, and took it away with its release.
func TestAnEarlierAttemptComesTooLate(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		server := joined(t, s, member("server", 2))
		early := want()
		later := early
		later.AttemptID = ids.Attempt(early.InstanceID, 2)
		overtake := func() { take(t, pools(s, s), later) }
		if room, err := pools(slow{s, overtake, func() {}}, s).Take(t.Context(), early); !errs.Is(err, errs.StateNotAllowed) {
			t.Errorf("the earlier attempt got %v, %v", room, err)
		}
		joined(t, s, member("other", 1))
		if room, err := pools(s, s).Take(t.Context(), early); !errs.Is(err, errs.StateNotAllowed) {
			t.Errorf("asked again, the earlier attempt got %v, %v", room, err)
		}
		if err := pools(s, s).GiveBack(t.Context(), early.AttemptID); err != nil {
			t.Fatal(err)
		}
		if got := holders(t, s, server.ID); !slices.Equal(got, []string{later.AttemptID}) {
			t.Errorf("the room is %v's, want the later attempt's", got)
		}
		if _, err := pools(s, s).Get(t.Context(), later.AttemptID); err != nil {
			t.Errorf("the later attempt's room: %v", err)
		}
	})
}
