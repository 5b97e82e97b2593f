package redisstore

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

func ring(id string) token.SealedRing {
	return token.SealedRing{Signing: id, Keys: []token.SealedKey{
		{ID: id, CreateTime: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Sealed: []byte{0, 1, 0xff}},
		{ID: "older", CreateTime: time.Date(2025, 1, 2, 3, 4, 5, 6, time.UTC), Sealed: []byte{2}},
	}}
}

func TestCreateRingKeepsTheFirst(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		store := New(s)
		if _, err := store.LoadRing(t.Context()); !errors.Is(err, token.ErrNoRing) {
			t.Fatalf("empty store: %v, want ErrNoRing", err)
		}
		for _, id := range []string{"first", "second"} {
			if err := store.CreateRing(t.Context(), ring(id)); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := store.LoadRing(t.Context()); err != nil || !reflect.DeepEqual(got, ring("first")) {
			t.Errorf("got %+v, %v", got, err)
		}
		if ttl := s.TTL(t.Context(), RingKey).Val(); ttl != -1 {
			t.Errorf("the ring has a TTL of %v", ttl)
		}
	})
}

// together is a Store whose users have all seen that there is no ring before any of them makes one.
type together struct {
	*Store
	seen *sync.WaitGroup
}

func (s together) LoadRing(ctx context.Context) (token.SealedRing, error) {
	r, err := s.Store.LoadRing(ctx)
	if errors.Is(err, token.ErrNoRing) {
		s.seen.Done()
		s.seen.Wait()
	}
	return r, err
}

func TestReplicasThatStartTogetherAgree(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		sealer, err := token.NewSealer("0123456789abcdef0123456789abcdef")
		if err != nil {
			t.Fatal(err)
		}
		var seen, opened sync.WaitGroup
		rings := make([]*token.Ring, 8)
		seen.Add(len(rings))
		for i := range rings {
			opened.Go(func() {
				var err error
				if rings[i], err = token.OpenRing(t.Context(), together{New(s), &seen}, sealer); err != nil {
					t.Error(err)
				}
			})
		}
		opened.Wait()
		for _, r := range rings {
			if len(r.Keys()) != 1 || !r.Signing().Public().Equal(rings[0].Signing().Public()) {
				t.Errorf("one has %v, another %v", rings[0].Keys(), r.Keys())
			}
		}
	})
}

func TestLoadRingRefuses(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		for value, want := range map[string]string{
			"garbage":                         "cannot be read",
			`{"v":2,"signing":"a"}`:           "format 2",
			`{}`:                              "format 0",
			`{"v":1,"keys":[{"sealed":"*"}]}`: "cannot be read",
		} {
			if err := s.Set(t.Context(), RingKey, value, 0).Err(); err != nil {
				t.Fatal(err)
			}
			if _, err := New(s).LoadRing(t.Context()); err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, token.ErrNoRing) {
				t.Errorf("%s: got %v, want an error with %q", value, err, want)
			}
		}
	})
}

func TestStoreAway(t *testing.T) {
	m := miniredis.RunT(t)
	store := New(redistest.Open(t, m.Addr()))
	m.Close()
	if _, err := store.LoadRing(t.Context()); !errs.Is(err, errs.StoreUnavailable) {
		t.Errorf("load: %v", err)
	}
	if err := store.CreateRing(t.Context(), ring("a")); !errs.Is(err, errs.StoreUnavailable) {
		t.Errorf("create: %v", err)
	}
}

// FuzzDecode: whatever lies in Redis, there is no panic, and what can be read survives being written again.
func FuzzDecode(f *testing.F) {
	raw, err := encode(ring("a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"v":1,"keys":[{"kid":"a","sealed":null}]}`))
	f.Add([]byte(`{"v":1,"keys":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		first, err := decode(raw)
		if err != nil {
			return
		}
		again, err := encode(first)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := decode(again); err != nil || len(second.Keys) != len(first.Keys) || second.Signing != first.Signing {
			t.Errorf("%+v became %+v, %v", first, second, err)
		}
	})
}
