package redisstore

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	sdk "github.com/berth-dev/berth/sdk/go/token"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

// ring is one whose every field is set.
func ring(revision int64) token.SealedRing {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	return token.SealedRing{Lineage: "l", Revision: revision, Keys: []token.SealedKey{
		{
			ID: "older", Algorithm: sdk.EdDSA, State: token.Withdrawn, CreateTime: at, SignTime: at.Add(1000), RetireTime: at.Add(2000), RemoveTime: at.Add(3000),
			Lifetime: time.Hour,
		},
		{ID: "newer", Algorithm: sdk.ES256, State: token.Signing, CreateTime: at, SignTime: at.Add(1000), Lifetime: 24 * time.Hour, Sealed: []byte{0, 1, 0xff}},
	}}
}

func TestSwapRingComparesTheRevision(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		store := New(s)
		if _, now, err := store.LoadRing(t.Context()); !errors.Is(err, token.ErrNoRing) || now.IsZero() {
			t.Fatalf("empty store: %v, %v, want ErrNoRing", now, err)
		}
		const first, second = 1_800_000_000_000_000, 1_800_000_000_000_001 // numbers that differ in their last of 16 digits
		for _, step := range []struct {
			expected, revision int64
			swapped            bool
		}{
			{first, second, false},
			{token.NoRing, first, true},
			{token.NoRing, second, false},
			{0, second, false},
			{second, second, false},
			{first, second, true},
			{first, first, false},
		} {
			if swapped, err := store.SwapRing(t.Context(), step.expected, ring(step.revision)); err != nil || swapped != step.swapped {
				t.Fatalf("%+v: %v, %v", step, swapped, err)
			}
		}
		if got, _, err := store.LoadRing(t.Context()); err != nil || !reflect.DeepEqual(got, ring(second)) {
			t.Errorf("got %+v, %v", got, err)
		}
		if ttl := s.TTL(t.Context(), RingKey).Val(); ttl != -1 {
			t.Errorf("the ring has a TTL of %v", ttl)
		}
	})
}

func openKeyring(t *testing.T, store token.RingStore) *token.Keyring {
	t.Helper()
	sealer, err := token.NewSealer("0123456789abcdef0123456789abcdef", "")
	if err != nil {
		t.Fatal(err)
	}
	policy := token.Policy{Algorithm: sdk.EdDSA, Rotation: time.Hour, Publish: time.Minute, Lifetime: time.Hour}
	k, err := token.OpenKeyring(t.Context(), token.KeyringConfig{Store: store, Sealer: sealer, Policy: policy, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// gate is a RingStore whose users wait for each other after their next load, once it is closed.
type gate struct {
	*Store
	seen   *sync.WaitGroup
	closed atomic.Bool
}

func (g *gate) LoadRing(ctx context.Context) (token.SealedRing, time.Time, error) {
	r, now, err := g.Store.LoadRing(ctx)
	if g.closed.CompareAndSwap(true, false) {
		g.seen.Done()
		g.seen.Wait()
	}
	return r, now, err
}

func TestReplicasThatStartTogetherAgree(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		var seen, opened sync.WaitGroup
		keyrings := make([]*token.Keyring, 8)
		seen.Add(len(keyrings))
		for i := range keyrings {
			g := &gate{Store: New(s), seen: &seen}
			g.closed.Store(true)
			opened.Go(func() { keyrings[i] = openKeyring(t, g) })
		}
		opened.Wait()
		for _, k := range keyrings {
			if keys := k.Ring().Keys(); len(keys) != 1 || keys[0].ID() != keyrings[0].Ring().Keys()[0].ID() {
				t.Errorf("one has %v, another %v", keyrings[0].Ring().Keys(), keys)
			}
		}
	})
}

// Two replicas that rotate at the same moment make one rotation.
func TestReplicasThatRotateTogetherRotateOnce(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		openKeyring(t, New(s))
		var seen, done sync.WaitGroup
		keyrings := make([]*token.Keyring, 6)
		stores := make([]*gate, len(keyrings))
		for i := range keyrings {
			stores[i] = &gate{Store: New(s), seen: &seen}
			keyrings[i] = openKeyring(t, stores[i])
		}
		seen.Add(len(keyrings))
		for i, k := range keyrings {
			stores[i].closed.Store(true)
			done.Go(func() {
				if err := k.Rotate(t.Context(), false); err != nil {
					t.Error(err)
				}
			})
		}
		done.Wait()
		var want []string
		for _, k := range keyrings {
			var got []string
			for _, key := range k.Ring().Sealed().Keys {
				got = append(got, string(key.State)+" "+key.ID)
			}
			if want == nil {
				want = got
			}
			if len(got) != 2 || !reflect.DeepEqual(got, want) {
				t.Errorf("one has %v, another %v", want, got)
			}
		}
	})
}

func TestALostRingIsWrittenBack(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		k := openKeyring(t, New(s))
		if err := k.Rotate(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		was := k.Ring().Sealed()
		if err := s.Del(t.Context(), RingKey).Err(); err != nil {
			t.Fatal(err)
		}
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, _, err := New(s).LoadRing(t.Context())
		if err != nil || got.Lineage != was.Lineage || got.Revision <= was.Revision || !reflect.DeepEqual(got.Keys, was.Keys) {
			t.Errorf("got %+v, %v, want %+v", got, err, was)
		}
	})
}

// firstRing is a ring as code of the first format has stored it, under the sealing key of openKeyring; firstKey is its key.
const (
	firstKey  = "N1XTShWKYP9PtOuqlylw9LjCUXxEq6smOLCxftKVFYw"
	firstRing = `{"v":1,"signing":"N1XTShWKYP9PtOuqlylw9LjCUXxEq6smOLCxftKVFYw","keys":[{"kid":"N1XTShWKYP9PtOuqlylw9LjCUXxEq6smOLCxftKVFYw","create_time":"CREATED","sealed":"9tzFB3nGR0aXV8L7X9Czxs2WfiKtcm2YctlVsxlDmsTj0OVIm1lT6CTBFrWWt8CA6esByH4VWgggi0nr"}]}`
)

// What replicas of the first format have stored is read, and then stored in the second.
func TestTheFirstFormatIsRead(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		if err := s.Set(t.Context(), RingKey, strings.Replace(firstRing, "CREATED", time.Now().UTC().Format(time.RFC3339Nano), 1), 0).Err(); err != nil {
			t.Fatal(err)
		}
		k := openKeyring(t, New(s))
		if keys := k.Ring().Keys(); len(keys) != 1 || keys[0].ID() != firstKey {
			t.Fatalf("keys: %v", keys)
		}
		got, _, err := New(s).LoadRing(t.Context())
		if err != nil || got.Revision == 0 || got.Lineage == "" || !strings.Contains(s.Get(t.Context(), RingKey).Val(), `"v":2`) {
			t.Errorf("stored %+v, %v", got, err)
		}
		if sealed := got.Keys[0]; sealed.Lifetime != 24*time.Hour || sealed.State == token.Retired {
			t.Errorf("stored %+v", sealed)
		}
	})
}

func TestLoadRingRefuses(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		for value, want := range map[string]string{
			"garbage":                         "cannot be read",
			`{"v":3,"keys":[]}`:               "format 3",
			`{}`:                              "format 0",
			`{"v":2,"keys":[{"sealed":"*"}]}`: "cannot be read",
		} {
			if err := s.Set(t.Context(), RingKey, value, 0).Err(); err != nil {
				t.Fatal(err)
			}
			if _, _, err := New(s).LoadRing(t.Context()); err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, token.ErrNoRing) {
				t.Errorf("%s: got %v, want an error with %q", value, err, want)
			}
		}
		if err := s.Set(t.Context(), RingKey, "garbage", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if swapped, err := New(s).SwapRing(t.Context(), token.NoRing, ring(1)); err != nil || swapped {
			t.Errorf("what cannot be read was replaced: %v, %v", swapped, err)
		}
	})
}

func TestStoreAway(t *testing.T) {
	m := miniredis.RunT(t)
	store := New(redistest.Open(t, m.Addr()))
	m.Close()
	if _, _, err := store.LoadRing(t.Context()); !errs.Is(err, errs.StoreUnavailable) {
		t.Errorf("load: %v", err)
	}
	if _, err := store.SwapRing(t.Context(), token.NoRing, ring(1)); !errs.Is(err, errs.StoreUnavailable) {
		t.Errorf("swap: %v", err)
	}
}

// FuzzDecodeRing: whatever lies in Redis, there is no panic, and what can be read survives being written again.
func FuzzDecodeRing(f *testing.F) {
	raw, err := encodeRing(ring(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(firstRing))
	f.Add([]byte(`{"v":1,"keys":[{"kid":"a","sealed":null}]}`))
	f.Add([]byte(`{"v":2,"keys":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		first, err := decodeRing(raw)
		if err != nil {
			return
		}
		again, err := encodeRing(first)
		if err != nil {
			t.Skip() // a time that JSON cannot have
		}
		if second, err := decodeRing(again); err != nil || len(second.Keys) != len(first.Keys) || second.Revision != first.Revision {
			t.Errorf("%+v became %+v, %v", first, second, err)
		}
	})
}
