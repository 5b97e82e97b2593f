package redisstore

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

func revoke(t *testing.T, store *Store, target token.Target, keep time.Duration) token.Revocation {
	t.Helper()
	r, err := store.Revoke(t.Context(), token.Revocation{Target: target, Reason: "because: \"so\"", Actor: "key:x"}, keep)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// byID reads the list.
func byID(t *testing.T, store *Store) (version int64, all map[string]token.Revocation) {
	t.Helper()
	list, err := store.LoadRevocations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all = make(map[string]token.Revocation)
	for _, r := range list.Revocations {
		all[r.ID()] = r
	}
	return list.Version, all
}

func TestRevocationsAreStoredAsTheyAre(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		store := New(s)
		if version, all := byID(t, store); version != 0 || len(all) != 0 {
			t.Fatalf("an empty store: version %d, %v", version, all)
		}
		want := make(map[string]token.Revocation)
		var last int64
		for _, target := range []token.Target{
			{Namespace: "n", PairID: "x"}, {Namespace: "n", ServerID: "x"}, {Namespace: "n", InstanceID: "x"}, {KeyID: "x"}, {Namespace: "m", PairID: "x"},
			{Namespace: "n", IssuedBefore: time.UnixMicro(1_700_000_000_123_456).UTC()},
		} {
			r := revoke(t, store, target, time.Hour)
			if r.Target != target || r.Version <= last || r.ExpireTime.Sub(r.CreateTime) != time.Hour || r.Version < r.CreateTime.UnixMicro() {
				t.Errorf("%+v was stored as %+v", target, r)
			}
			want[r.ID()], last = r, r.Version
		}
		version, all := byID(t, store)
		if version != last || !reflect.DeepEqual(all, want) {
			t.Errorf("version %d, want %d; got %+v, want %+v", version, last, all, want)
		}
		if v, err := store.RevocationsVersion(t.Context()); err != nil || v != last {
			t.Errorf("version %d, %v", v, err)
		}
	})
}

func TestRevokingAgainRenews(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		store := New(s)
		first := revoke(t, store, token.Target{Namespace: "n", PairID: "x"}, 2*time.Hour)
		again := revoke(t, store, token.Target{Namespace: "n", PairID: "x"}, time.Hour)
		if again.Version <= first.Version || !again.ExpireTime.Equal(first.ExpireTime) {
			t.Errorf("first %+v, again %+v", first, again)
		}
		if _, all := byID(t, store); len(all) != 1 {
			t.Errorf("%v", all)
		}
	})
}

func TestRevocationsExpire(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		store := New(s)
		for n := range 3 {
			revoke(t, store, token.Target{Namespace: "n", PairID: fmt.Sprint(n)}, 0)
		}
		if version, all := byID(t, store); version == 0 || len(all) != 0 {
			t.Errorf("version %d, %v", version, all)
		}
		kept := revoke(t, store, token.Target{Namespace: "n", PairID: "kept"}, time.Hour)
		if n, m := s.HLen(t.Context(), revocationsKey).Val(), s.ZCard(t.Context(), revocationExpiryKey).Val(); n != 1 || m != 1 {
			t.Errorf("%d entries and %d expiries are left", n, m)
		}
		if version, _ := byID(t, store); version != kept.Version {
			t.Errorf("version %d", version)
		}
	})
}

func TestRevokeRefuses(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		store := New(s)
		list, err := store.LoadRevocations(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		future := token.Revocation{Target: token.Target{Namespace: "n", IssuedBefore: list.Now.Add(time.Minute)}}
		if _, err := store.Revoke(t.Context(), future, time.Hour); !errors.Is(err, token.ErrFuture) {
			t.Errorf("a time in the future: %v", err)
		}
		old := revoke(t, store, token.Target{Namespace: "n", PairID: "old"}, time.Hour)
		fields := make(map[string]any, token.MaxRevocations)
		for n := range token.MaxRevocations - 1 {
			fields["pair:n:"+strconv.Itoa(n)] = "x"
		}
		if err := s.HSet(t.Context(), revocationsKey, fields).Err(); err != nil {
			t.Fatal(err)
		}
		one := token.Revocation{Target: token.Target{Namespace: "n", PairID: "one more"}}
		if _, err := store.Revoke(t.Context(), one, time.Hour); !errors.Is(err, token.ErrFull) {
			t.Errorf("one over the limit: %v", err)
		}
		if v, err := store.RevocationsVersion(t.Context()); err != nil || v != old.Version {
			t.Errorf("what was refused has changed the version: %d, %v", v, err)
		}
		revoke(t, store, old.Target, time.Hour)               // one that is there
		revoke(t, store, token.Target{KeyID: "k"}, time.Hour) // an emergency
	})
}

func TestRevocationsAreHintedAt(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		store := New(s)
		sub := s.Subscribe(t.Context(), redisx.RevocationsChannel)
		defer sub.Close()
		if _, err := sub.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		hint := func(want int64) {
			t.Helper()
			msg, err := sub.ReceiveMessage(t.Context())
			if err != nil || msg.Payload != strconv.FormatInt(want, 10) {
				t.Errorf("hint %v, %v, want %d", msg, err, want)
			}
		}
		r := revoke(t, store, token.Target{Namespace: "n", PairID: "x"}, time.Hour)
		hint(r.Version)
		if err := s.Del(t.Context(), revocationsKey, revocationExpiryKey, revocationVersionKey).Err(); err != nil {
			t.Fatal(err)
		}
		if err := store.RestoreRevocations(t.Context(), []token.Revocation{r}); err != nil {
			t.Fatal(err)
		}
		version, _ := byID(t, store)
		hint(version)
	})
}

func TestRestoreRevocationsKeepsThemAsTheyWere(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		store := New(s)
		var lost []token.Revocation
		for n := range restoreBatch + 1 {
			at := time.UnixMicro(1_800_000_000_000_000 + int64(n)).UTC()
			lost = append(lost, token.Revocation{
				Target: token.Target{Namespace: "n", PairID: fmt.Sprint(n)}, Actor: "a", CreateTime: at, ExpireTime: time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond), Version: at.UnixMicro(),
			})
		}
		there := revoke(t, store, lost[0].Target, time.Hour)
		if err := store.RestoreRevocations(t.Context(), lost); err != nil {
			t.Fatal(err)
		}
		version, all := byID(t, store)
		if len(all) != len(lost) || all[there.ID()] != there || version <= there.Version || version <= lost[len(lost)-1].Version {
			t.Errorf("version %d, %d revocations, %+v", version, len(all), all[there.ID()])
		}
		for _, r := range lost[1:] {
			if all[r.ID()] != r {
				t.Fatalf("%+v became %+v", r, all[r.ID()])
			}
		}
		if err := store.RestoreRevocations(t.Context(), lost); err != nil {
			t.Fatal(err)
		}
		if again, _ := byID(t, store); again != version {
			t.Error("what was there already has changed the version")
		}
	})
}

// Two replicas revoke at once: nothing is lost, and no version is given out twice.
func TestReplicasRevokeAtOnce(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		const each = 20
		var wg sync.WaitGroup
		var mu sync.Mutex
		versions := make(map[int64]bool)
		for replica := range 4 {
			store := New(s)
			wg.Go(func() {
				for n := range each {
					r, err := store.Revoke(t.Context(), token.Revocation{Target: token.Target{Namespace: "n", PairID: fmt.Sprint(replica, n)}}, time.Hour)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					versions[r.Version] = true
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		version, all := byID(t, New(s))
		if len(all) != 4*each || len(versions) != 4*each || !versions[version] {
			t.Errorf("%d revocations, %d versions", len(all), len(versions))
		}
	})
}

// A store that was flushed gets the revocations back from whoever knows them.
func TestLostRevocationsAreWrittenBack(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		store := New(s)
		r, err := token.OpenRevocations(t.Context(), token.RevocationsConfig{Store: store, Keep: time.Hour, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		stored := revoke(t, store, token.Target{Namespace: "n", PairID: "x"}, time.Hour)
		r.Set(t.Context())
		if err := s.Del(t.Context(), revocationsKey, revocationExpiryKey, revocationVersionKey).Err(); err != nil {
			t.Fatal(err)
		}
		version, all, err := r.Current(t.Context())
		if err != nil || len(all) != 1 || all[0] != stored || version <= stored.Version {
			t.Errorf("version %d, %+v, %v", version, all, err)
		}
		if v, again := byID(t, store); v != version || again[stored.ID()] != stored {
			t.Errorf("stored: %d, %+v", v, again)
		}
	})
}

func TestRevocationsWithoutStore(t *testing.T) {
	m := miniredis.RunT(t)
	store := New(redistest.Open(t, m.Addr()))
	m.Close()
	_, version := store.RevocationsVersion(t.Context())
	_, load := store.LoadRevocations(t.Context())
	_, revoke := store.Revoke(t.Context(), token.Revocation{}, time.Hour)
	restore := store.RestoreRevocations(t.Context(), make([]token.Revocation, 1))
	for what, err := range map[string]error{"version": version, "load": load, "revoke": revoke, "restore": restore} {
		if !errs.Is(err, errs.StoreUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzDecodeRevocation: whatever lies in Redis, there is no panic, and what can be read survives being written again.
func FuzzDecodeRevocation(f *testing.F) {
	f.Add(`1:2:3:{"namespace":"n","pair":"x","reason":"r"}`)
	f.Add(`1800000000000000:1800000000000001:1800000000000002:{"issued_before":1}`)
	f.Add(`1:2:{}`)
	f.Fuzz(func(t *testing.T, entry string) {
		first, err := decodeRevocation(entry)
		if err != nil {
			return
		}
		doc, err := encodeRevocation(first)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeRevocation(fmt.Sprintf("%d:%d:%d:%s", first.CreateTime.UnixMicro(), first.ExpireTime.UnixMicro(), first.Version, doc))
		if err != nil || again != first {
			t.Errorf("%+v became %+v, %v", first, again, err)
		}
	})
}
