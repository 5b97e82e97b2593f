package redisstore

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/tokenissuer/internal/caller"
)

func create(t *testing.T, store *Store, k caller.Key) caller.Key {
	t.Helper()
	made, err := store.CreateKey(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestAPIKeysAreStoredAsTheyAre(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		store := New(s)
		for _, want := range []caller.Key{
			{Name: "a", Hash: "ha", Role: "ADMIN", Namespaces: []string{"x", "y"}, Creator: "key:root", ExpireTime: time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)},
			{Name: "b", Hash: "hb", Role: "VIEWER"},
		} {
			made := create(t, store, want)
			if made.CreateTime.IsZero() {
				t.Error("no creation time")
			}
			want.CreateTime = made.CreateTime
			found, ok, err := store.KeyByHash(t.Context(), want.Hash)
			if err != nil || !ok || !reflect.DeepEqual(found, want) || !reflect.DeepEqual(made, want) {
				t.Errorf("made %+v, found %+v, %v, want %+v", made, found, err, want)
			}
		}
		if all, err := store.Keys(t.Context()); err != nil || len(all) != 2 {
			t.Errorf("%+v, %v", all, err)
		}
		if k, ok, err := store.KeyByHash(t.Context(), "unknown"); err != nil || ok {
			t.Errorf("%+v, %v", k, err)
		}
	})
}

// Of replicas that use a name at once, one gets it.
func TestANameIsGivenOnce(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		var made, taken atomic.Int32
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				switch _, err := New(s).CreateKey(t.Context(), caller.Key{Name: "a", Hash: fmt.Sprint(n)}); {
				case err == nil:
					made.Add(1)
				case errors.Is(err, caller.ErrTaken):
					taken.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if made.Load() != 1 || taken.Load() != 7 {
			t.Errorf("%d made, %d refused", made.Load(), taken.Load())
		}
		if all, err := New(s).Keys(t.Context()); err != nil || len(all) != 1 {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

func TestAPIKeysExpire(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		store := New(s)
		if _, err := store.CreateKey(t.Context(), caller.Key{Name: "a", Hash: "ha", ExpireTime: time.Now().Add(-time.Minute)}); !errors.Is(err, caller.ErrPast) {
			t.Errorf("a key that has expired already: %v", err)
		}
		create(t, store, caller.Key{Name: "a", Hash: "ha", ExpireTime: time.Now().Add(time.Hour)})
		create(t, store, caller.Key{Name: "b", Hash: "hb"})
		// Its time comes: in the entry, and in the order of expiry.
		if err := s.HSet(t.Context(), apiKeysKey, "ha", `1:2:{"name":"a"}`).Err(); err != nil {
			t.Fatal(err)
		}
		if err := s.ZIncrBy(t.Context(), apiKeyExpiryKey, -1e16, "a").Err(); err != nil {
			t.Fatal(err)
		}
		if k, ok, err := store.KeyByHash(t.Context(), "ha"); err != nil || ok {
			t.Errorf("an expired key: %+v, %v", k, err)
		}
		if all, err := store.Keys(t.Context()); err != nil || len(all) != 1 || all[0].Name != "b" {
			t.Errorf("%+v, %v", all, err)
		}
		create(t, store, caller.Key{Name: "a", Hash: "hc"}) // its name is free
		if n, m := s.HLen(t.Context(), apiKeysKey).Val(), s.ZCard(t.Context(), apiKeyExpiryKey).Val(); n != 2 || m != 0 {
			t.Errorf("%d keys, %d expiries", n, m)
		}
	})
}

func TestAPIKeysAreLimited(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		store := New(s)
		k := create(t, store, caller.Key{Name: "a", Hash: "ha"})
		fields := make(map[string]any)
		for n := range caller.MaxKeys - 1 {
			fields[fmt.Sprint(n)] = "1:0:{}"
		}
		if err := s.HSet(t.Context(), apiKeysKey, fields).Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := store.CreateKey(t.Context(), caller.Key{Name: "b", Hash: "hb"}); !errors.Is(err, caller.ErrFull) {
			t.Errorf("one over the limit: %v", err)
		}
		if deleted, err := store.DeleteKey(t.Context(), k); err != nil || !deleted {
			t.Error(deleted, err)
		}
		create(t, store, caller.Key{Name: "b", Hash: "hb"})
	})
}

// Who revokes a key by its name does not end another one that has got the name meanwhile.
func TestDeleteKeyLeavesALaterOneOfTheName(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		store := New(s)
		first := create(t, store, caller.Key{Name: "a", Hash: "first"})
		for _, want := range []bool{true, false} {
			if deleted, err := store.DeleteKey(t.Context(), first); err != nil || deleted != want {
				t.Errorf("deleted %v, %v", deleted, err)
			}
		}
		create(t, store, caller.Key{Name: "a", Hash: "second"})
		if deleted, err := store.DeleteKey(t.Context(), first); err != nil || deleted {
			t.Errorf("deleted %v, %v", deleted, err)
		}
		if _, err := store.CreateKey(t.Context(), caller.Key{Name: "a", Hash: "third"}); !errors.Is(err, caller.ErrTaken) {
			t.Errorf("the name is free: %v", err)
		}
	})
}

// FuzzDecodeKey: whatever lies in Redis, there is no panic.
func FuzzDecodeKey(f *testing.F) {
	f.Add(`1:0:{"name":"a","role":"ADMIN","namespaces":["x"]}`)
	f.Add(`1:{}`)
	f.Fuzz(func(t *testing.T, entry string) {
		if k, err := decodeKey("h", entry); err == nil && k.Hash != "h" {
			t.Error(k)
		}
	})
}
