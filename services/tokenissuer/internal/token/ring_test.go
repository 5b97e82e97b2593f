package token

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	sdk "github.com/berth-dev/berth/sdk/go/token"
)

const sealingKey = conf.Secret("0123456789abcdef0123456789abcdef")

func newSealer(tb testing.TB, current, previous conf.Secret) *Sealer {
	tb.Helper()
	s, err := NewSealer(current, previous)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// memory is a RingStore with a clock of its own; the one in Redis has tests of its own.
type memory struct {
	mu    sync.Mutex
	ring  *SealedRing
	now   time.Time
	swaps int
}

func (m *memory) LoadRing(context.Context) (SealedRing, time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ring == nil {
		return SealedRing{}, m.now, ErrNoRing
	}
	return m.ring.clone(), m.now, nil
}

func (m *memory) SwapRing(_ context.Context, expected int64, ring SealedRing) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ring == nil && expected != NoRing || m.ring != nil && m.ring.Revision != expected {
		return false, nil
	}
	ring = ring.clone()
	m.ring = &ring
	m.swaps++
	return true, nil
}

// pass lets the store's clock run.
func (m *memory) pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = m.now.Add(d)
}

func policy() Policy {
	return Policy{Algorithm: sdk.EdDSA, Rotation: 30 * 24 * time.Hour, Publish: 10 * time.Minute, Lifetime: time.Hour}
}

func openKeyring(tb testing.TB, store RingStore, p Policy) *Keyring {
	tb.Helper()
	k, err := OpenKeyring(context.Background(), KeyringConfig{Store: store, Sealer: newSealer(tb, sealingKey, ""), Policy: p, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func newStore() *memory { return &memory{now: time.Unix(1_800_000_000, 0)} }

func signing(tb testing.TB, k *Keyring) *Key {
	tb.Helper()
	key, err := k.Ring().Signing()
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// states names the states of a ring's keys, oldest first.
func states(k *Keyring) string {
	var all []string
	for _, key := range k.Ring().Sealed().Keys {
		all = append(all, string(key.State))
	}
	return strings.Join(all, " ")
}

func refresh(tb testing.TB, keyrings ...*Keyring) {
	tb.Helper()
	for _, k := range keyrings {
		if err := k.Refresh(context.Background()); err != nil {
			tb.Fatal(err)
		}
	}
}

func TestRingIsMadeOnceAndKept(t *testing.T) {
	store := newStore()
	first, again := openKeyring(t, store, policy()), openKeyring(t, store, policy())
	if signing(t, first).id != signing(t, again).id || states(again) != "signing" {
		t.Errorf("opened %v, then %v", signing(t, first), signing(t, again))
	}
	if store.swaps != 1 {
		t.Errorf("%d writes", store.swaps)
	}
}

// A key's whole life by the store's clock, seen by two replicas of which one only looks after the other has acted.
func TestKeysRotateByThemselves(t *testing.T) {
	for _, algorithm := range []sdk.Algorithm{sdk.EdDSA, sdk.ES256} {
		t.Run(string(algorithm), func(t *testing.T) {
			p := policy()
			p.Algorithm = algorithm
			store := newStore()
			one, two := openKeyring(t, store, p), openKeyring(t, store, p)
			first := signing(t, one)
			for _, step := range []struct {
				pass   time.Duration
				states string
				signs  string // "first" or "second"
			}{
				{p.Rotation - p.Publish - 1, "signing", "first"},
				{1, "signing published", "first"},
				{p.Publish - 1, "signing published", "first"},
				{1, "retired signing", "second"},
				{p.Lifetime + sdk.Leeway + lateSigning - 1, "retired signing", "second"},
				{1, "signing", "second"},
			} {
				store.pass(step.pass)
				refresh(t, one, two)
				if states(one) != step.states || states(two) != step.states || signing(t, one).id != signing(t, two).id {
					t.Fatalf("after %v: %s and %s, want %s", step.pass, states(one), states(two), step.states)
				}
				if (signing(t, one).id == first.id) != (step.signs == "first") {
					t.Errorf("%s: the wrong key signs", step.states)
				}
			}
			if signing(t, one).algorithm != algorithm || store.swaps != 4 {
				t.Errorf("%s after %d writes, want 4: each step is done by one replica", signing(t, one).algorithm, store.swaps)
			}
		})
	}
}

// A replica that was away for a whole rotation still publishes the next key before it signs.
func TestALateRotationPublishesFirst(t *testing.T) {
	store := newStore()
	k := openKeyring(t, store, policy())
	store.pass(100 * 24 * time.Hour)
	refresh(t, k)
	if states(k) != "signing published" {
		t.Errorf("keys: %s", states(k))
	}
	store.pass(policy().Publish)
	refresh(t, k)
	if states(k) != "retired signing" {
		t.Errorf("keys: %s", states(k))
	}
}

func TestRotateByHand(t *testing.T) {
	store := newStore()
	k := openKeyring(t, store, policy())
	first := signing(t, k)
	for range 2 { // asking twice is asking once
		if err := k.Rotate(t.Context(), false); err != nil || states(k) != "signing published" || signing(t, k) != first {
			t.Fatalf("%s, %v", states(k), err)
		}
	}
	published := k.Ring().Sealed().Keys[1].ID
	if err := k.Rotate(t.Context(), true); err != nil || states(k) != "retired signing" || signing(t, k).id != published {
		t.Fatalf("the published key should sign: %s, %v", states(k), err)
	}
	if err := k.Rotate(t.Context(), true); err != nil || states(k) != "retired retired signing" || signing(t, k).id == published {
		t.Fatalf("%s, %v", states(k), err)
	}
	var err error
	for n := 0; err == nil && n < 2*maxKeys; n++ {
		err = k.Rotate(t.Context(), true)
	}
	if !errs.Is(err, errs.LimitExceeded) || len(k.Ring().Sealed().Keys) != maxKeys {
		t.Errorf("%d keys: %v", len(k.Ring().Sealed().Keys), err)
	}
	store.pass(2 * time.Hour)
	refresh(t, k)
	if states(k) != "signing" {
		t.Errorf("keys: %s", states(k))
	}
}

func TestWithdraw(t *testing.T) {
	store := newStore()
	one, two := openKeyring(t, store, policy()), openKeyring(t, store, policy())
	first := signing(t, one).id
	for range 2 {
		if err := one.Withdraw(t.Context(), first); err != nil || states(one) != "withdrawn signing" || signing(t, one).id == first {
			t.Fatalf("%s, %v", states(one), err)
		}
	}
	refresh(t, two)
	for _, k := range []*Keyring{one, two} {
		if keys := k.Ring().Keys(); len(keys) != 1 || keys[0].id == first || signing(t, k).id == first {
			t.Errorf("the withdrawn key still verifies: %v", keys)
		}
	}
	if k := store.ring.Keys[0]; k.Sealed != nil || k.RemoveTime.IsZero() {
		t.Errorf("the withdrawn key is kept: %+v", k)
	}
	// A published key takes the place of the signing one; it is known everywhere.
	if err := one.Rotate(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	published := one.Ring().Sealed().Keys[2].ID
	if err := one.Withdraw(t.Context(), signing(t, one).id); err != nil || states(one) != "withdrawn withdrawn signing" || signing(t, one).id != published {
		t.Errorf("%s, %v", states(one), err)
	}
	if err := one.Withdraw(t.Context(), strings.Repeat("x", 43)); !errs.Is(err, errs.ValidationFailed) || !strings.Contains(err.Error(), "key_id") {
		t.Errorf("an unknown key: %v", err)
	}
	store.pass(2 * time.Hour)
	refresh(t, one)
	if states(one) != "signing" {
		t.Errorf("keys: %s", states(one))
	}
}

// A retired key stays as long as the longest-lived token that any replica may have signed with it, whatever a later configuration says.
func TestARetiredKeyStaysForTheLongestLifetime(t *testing.T) {
	store := newStore()
	long := policy()
	long.Lifetime = 24 * time.Hour
	k := openKeyring(t, store, policy())
	openKeyring(t, store, long)
	if err := k.Rotate(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	store.pass(24 * time.Hour)
	refresh(t, k)
	if states(k) != "retired signing" {
		t.Errorf("keys: %s", states(k))
	}
}

// An algorithm that is changed concerns keys from then on, so that replicas of two minds do not rotate against each other.
func TestAnotherAlgorithmComesWithTheNextKey(t *testing.T) {
	store := newStore()
	openKeyring(t, store, policy())
	p := policy()
	p.Algorithm = sdk.ES256
	k := openKeyring(t, store, p)
	if signing(t, k).algorithm != sdk.EdDSA {
		t.Fatal("changed at once")
	}
	if err := k.Rotate(t.Context(), true); err != nil || signing(t, k).algorithm != sdk.ES256 {
		t.Fatal(err, signing(t, k).algorithm)
	}
	if raw := k.Ring().Keys(); len(raw) != 2 || raw[0].algorithm != sdk.EdDSA {
		t.Errorf("keys: %v", raw)
	}
}

// What the first format had: one key for ever, made long ago.
func TestRingOfTheFirstFormat(t *testing.T) {
	store := newStore()
	s := newSealer(t, sealingKey, "")
	key, err := newKey(sdk.EdDSA, store.now.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.Seal(key)
	if err != nil {
		t.Fatal(err)
	}
	store.ring = &SealedRing{Keys: []SealedKey{{
		ID: key.id, Algorithm: sdk.EdDSA, State: Signing, CreateTime: key.createTime, SignTime: key.createTime, Lifetime: 24 * time.Hour, Sealed: sealed,
	}}}
	one, two := openKeyring(t, store, policy()), openKeyring(t, store, policy())
	if signing(t, one).id != key.id || signing(t, two).id != key.id || store.swaps != 1 || store.ring.Lineage == "" || store.ring.Revision == 0 {
		t.Errorf("signing %v, ring %+v after %d writes", signing(t, one), store.ring, store.swaps)
	}
}

func TestRingsThatCannotBeUsedAreRefused(t *testing.T) {
	store := newStore()
	k := openKeyring(t, store, policy())
	for name, change := range map[string]func(*SealedRing){
		"no signing key":  func(r *SealedRing) { r.Keys[0].State = Retired },
		"no key at all":   func(r *SealedRing) { r.Keys = nil },
		"two signing":     func(r *SealedRing) { r.Keys = append(r.Keys, r.Keys[0]) },
		"other algorithm": func(r *SealedRing) { r.Keys[0].Algorithm = sdk.ES256 },
	} {
		t.Run(name, func(t *testing.T) {
			ring := k.Ring().Sealed()
			change(&ring)
			broken := &memory{ring: &ring, now: store.now}
			if _, err := OpenKeyring(t.Context(), KeyringConfig{Store: broken, Sealer: newSealer(t, sealingKey, ""), Policy: policy(), Log: slog.New(slog.DiscardHandler)}); err == nil || broken.swaps != 0 {
				t.Errorf("opened: %v, %d writes", err, broken.swaps)
			}
		})
	}
}

func TestSealingKeyIsChanged(t *testing.T) {
	const next = sealingKey + "-next"
	store := newStore()
	before := openKeyring(t, store, policy())
	if err := before.Rotate(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	open := func(current, previous conf.Secret) (*Keyring, error) {
		return OpenKeyring(t.Context(), KeyringConfig{Store: store, Sealer: newSealer(t, current, previous), Policy: policy(), Log: slog.New(slog.DiscardHandler)})
	}
	was := store.ring.clone()
	if _, err := open(next, ""); !errors.Is(err, ErrSeal) || store.ring.Revision != was.Revision {
		t.Fatalf("without the previous key: %v", err)
	}
	after, err := open(next, sealingKey)
	if err != nil || signing(t, after).id != signing(t, before).id {
		t.Fatal(err)
	}
	for i, k := range store.ring.Keys {
		if bytes.Equal(k.Sealed, was.Keys[i].Sealed) {
			t.Errorf("%s was not sealed anew", k.ID)
		}
	}
	if _, err := open(next, ""); err != nil {
		t.Errorf("sealed anew, and still not to be opened without the previous key: %v", err)
	}
	// A replica that has not been restarted yet goes on with the keys that it has opened, and cannot sign with one made since.
	refresh(t, before)
	if signing(t, before).id != signing(t, after).id {
		t.Error("the older replica has lost the key")
	}
	if err := after.Rotate(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	refresh(t, before)
	if _, err := before.Ring().Signing(); !errs.Is(err, errs.ServiceUnavailable) || before.Ready(t.Context()) == nil || after.Ready(t.Context()) != nil {
		t.Errorf("the older replica signs with a key that it cannot open: %v", err)
	}
	if got := before.Ring().Keys(); len(got) != 2 {
		t.Errorf("the older replica verifies with %v", got)
	}
}

// faulty is a RingStore that is away while it is told to be.
type faulty struct {
	*memory
	away bool
}

func (f *faulty) LoadRing(ctx context.Context) (SealedRing, time.Time, error) {
	if f.away {
		return SealedRing{}, time.Time{}, errs.New(errs.StoreUnavailable, "away")
	}
	return f.memory.LoadRing(ctx)
}

func TestStoreAwayKeepsTheRing(t *testing.T) {
	store := &faulty{memory: newStore()}
	k := openKeyring(t, store, policy())
	key := signing(t, k)
	store.away = true
	if err := k.Refresh(t.Context()); !errs.Is(err, errs.StoreUnavailable) {
		t.Error(err)
	}
	if err := k.Rotate(t.Context(), true); !errs.Is(err, errs.StoreUnavailable) {
		t.Error(err)
	}
	if got := k.Fresh(t.Context()); signing(t, k) != key || len(got.Keys()) != 1 {
		t.Errorf("signing %v", signing(t, k))
	}
}

// A store that comes back empty gets the ring from whoever still has it, and what was signed stays valid.
func TestALostRingIsWrittenBack(t *testing.T) {
	store := newStore()
	one, two := openKeyring(t, store, policy()), openKeyring(t, store, policy())
	if err := one.Rotate(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	refresh(t, two)
	was := one.Ring().Sealed()
	store.ring = nil
	refresh(t, two, one)
	if store.ring == nil || states(one) != "retired signing" || store.ring.Lineage != was.Lineage || store.ring.Revision <= was.Revision || signing(t, one).id != signing(t, two).id {
		t.Errorf("ring %+v", store.ring)
	}
	if fresh := openKeyring(t, store, policy()); signing(t, fresh).id != signing(t, one).id {
		t.Error("a new replica signs with another key")
	}
}

// A replica that starts on the empty store before the others have looked makes a ring of its own; what the others have signed stays valid.
func TestALostRingThatWasMadeAnewTakesTheOldKeys(t *testing.T) {
	store := newStore()
	one, two := openKeyring(t, store, policy()), openKeyring(t, store, policy())
	stolen := signing(t, one).id
	if err := one.Withdraw(t.Context(), stolen); err != nil {
		t.Fatal(err)
	}
	refresh(t, two)
	old := signing(t, one).id
	store.ring = nil
	fresh := openKeyring(t, store, policy())
	refresh(t, one, two, fresh)
	for _, k := range []*Keyring{one, two, fresh} {
		if signing(t, k).id != signing(t, fresh).id || k.Ring().key(old) == nil || k.Ring().key(stolen) != nil {
			t.Errorf("signing %v, keys %v", signing(t, k), k.Ring().Keys())
		}
	}
	if store.ring.Keys[store.ring.index(stolen)].State != Withdrawn {
		t.Error("the stolen key is forgotten")
	}
	store.pass(2 * time.Hour)
	refresh(t, one)
	if states(one) != "signing" {
		t.Errorf("keys: %s", states(one))
	}
}

// A failover may lose the last change; a key that was withdrawn must not come back by it.
func TestALostChangeIsWrittenBack(t *testing.T) {
	store := newStore()
	k := openKeyring(t, store, policy())
	was := store.ring.clone()
	stolen := signing(t, k).id
	if err := k.Withdraw(t.Context(), stolen); err != nil {
		t.Fatal(err)
	}
	store.ring = &was
	refresh(t, k)
	if states(k) != "withdrawn signing" || store.ring.Keys[0].State != Withdrawn || signing(t, k).id == stolen {
		t.Errorf("keys: %s", states(k))
	}
}

// contended is a RingStore in which somebody else is always faster.
type contended struct{ *memory }

func (contended) SwapRing(context.Context, int64, SealedRing) (bool, error) { return false, nil }

func TestAChangeThatIsAlwaysLateEnds(t *testing.T) {
	store := newStore()
	k := openKeyring(t, store, policy())
	k.cfg.Store = contended{store}
	if err := k.Rotate(t.Context(), true); !errs.Is(err, errs.Contended) || states(k) != "signing" {
		t.Errorf("%s, %v", states(k), err)
	}
}

func TestSealedKeyOpensOnlyAsItWasSealed(t *testing.T) {
	for _, algorithm := range []sdk.Algorithm{sdk.EdDSA, sdk.ES256} {
		t.Run(string(algorithm), func(t *testing.T) { testSeal(t, algorithm) })
	}
}

func testSeal(t *testing.T, algorithm sdk.Algorithm) {
	k, err := newKey(algorithm, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	s := newSealer(t, sealingKey, "")
	text, err := s.Seal(k)
	if err != nil {
		t.Fatal(err)
	}
	sealed := SealedKey{ID: k.id, Algorithm: algorithm, CreateTime: k.createTime, Sealed: text}
	opened, stale, err := s.Open(sealed)
	if err != nil || stale || !equal(opened, k) || opened.id != k.id || opened.algorithm != algorithm || !opened.createTime.Equal(k.createTime) {
		t.Fatalf("opened %v, %v, %v", opened, stale, err)
	}
	other := sdk.ES256
	if algorithm == sdk.ES256 {
		other = sdk.EdDSA
	}
	secret, err := secretOf(k)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(change func(*SealedKey)) SealedKey {
		c := sealed
		c.Sealed = bytes.Clone(sealed.Sealed)
		change(&c)
		return c
	}
	for name, tc := range map[string]struct {
		sealer *Sealer
		key    SealedKey
	}{
		"other sealing key": {newSealer(t, sealingKey+"x", sealingKey+"y"), sealed},
		"other id":          {s, changed(func(k *SealedKey) { k.ID = "other" })},
		"other algorithm":   {s, changed(func(k *SealedKey) { k.Algorithm = other })},
		"unknown algorithm": {s, changed(func(k *SealedKey) { k.Algorithm = "HS256" })},
		"bit flipped":       {s, changed(func(k *SealedKey) { k.Sealed[20] ^= 1 })},
		"cut off":           {s, changed(func(k *SealedKey) { k.Sealed = k.Sealed[:5] })},
		"empty":             {s, changed(func(k *SealedKey) { k.Sealed = nil })},
		"not sealed at all": {s, changed(func(c *SealedKey) { c.Sealed = secret })},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := tc.sealer.Open(tc.key); !errors.Is(err, ErrSeal) {
				t.Errorf("got %v, want ErrSeal", err)
			}
		})
	}
	if again, err := s.Seal(k); err != nil || bytes.Equal(text, again) {
		t.Error("sealing twice gives the same bytes: the nonce repeats")
	}
	if _, stale, err := newSealer(t, sealingKey+"x", sealingKey).Open(sealed); err != nil || !stale {
		t.Errorf("with the previous sealing key: %v, %v", stale, err)
	}
}

func equal(a, b *Key) bool {
	private, ok := a.private().(interface{ Equal(crypto.PrivateKey) bool })
	return ok && private.Equal(b.private())
}

func TestSealingKeyTooShort(t *testing.T) {
	short := sealingKey[:len(sealingKey)-1]
	for _, keys := range [][2]conf.Secret{{short, ""}, {sealingKey, short}} {
		_, err := NewSealer(keys[0], keys[1])
		if err == nil || !strings.Contains(err.Error(), "32 characters") || strings.Contains(err.Error(), short.Reveal()) {
			t.Errorf("got %v", err)
		}
	}
}

func TestThumbprint(t *testing.T) {
	for want, jwk := range map[string]JWK{
		"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k": {Kty: "OKP", Crv: "Ed25519", X: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}, // RFC 8037, appendix A.3
		"oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U": { // of the key in RFC 7515, appendix A.3
			Kty: "EC", Crv: "P-256", X: "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", Y: "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
		},
	} {
		if got := jwk.thumbprint(); got != want {
			t.Errorf("%s: got %s, want %s", jwk.Kty, got, want)
		}
	}
}

func TestPrivateKeyIsNeverPrinted(t *testing.T) {
	for _, algorithm := range []sdk.Algorithm{sdk.EdDSA, sdk.ES256} {
		p := policy()
		p.Algorithm = algorithm
		keys := openKeyring(t, newStore(), p)
		ring, issuer := keys.Ring(), New(Config{Keys: keys, Revocations: openRevocations(t, newList())})
		key := ring.signing
		var out strings.Builder
		for _, v := range []any{key, *key, []*Key{key}, struct{ K Key }{*key}, ring, issuer} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
				fmt.Fprintf(&out, verb+"\n", v)
			}
			slog.New(slog.NewTextHandler(&out, nil)).Info("text", "v", v)
			slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "v", v)
		}
		secret, err := secretOf(key)
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range forms(secret) {
			if strings.Contains(out.String(), form) {
				t.Errorf("printed %q", form)
			}
		}
		if !strings.Contains(out.String(), "key "+key.id) {
			t.Error("the key's id is not printed either")
		}
	}
}

// forms are the ways in which the beginning of a private key might be written.
func forms(secret []byte) []string {
	seed := secret[:12]
	return []string{
		string(seed), hex.EncodeToString(seed), strings.ToUpper(hex.EncodeToString(seed)),
		base64.StdEncoding.EncodeToString(seed), base64.URLEncoding.EncodeToString(seed),
		strings.Trim(fmt.Sprintf("%d", seed), "[]"), strings.Trim(fmt.Sprintf("%#v", seed), "[]byte{}"),
	}
}
