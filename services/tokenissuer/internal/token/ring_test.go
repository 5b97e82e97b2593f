package token

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/berth-dev/berth/pkg/conf"
)

const sealingKey = conf.Secret("0123456789abcdef0123456789abcdef")

func newSealer(tb testing.TB, key conf.Secret) *Sealer {
	tb.Helper()
	s, err := NewSealer(key)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// memory is a Store; the one in Redis has tests of its own.
type memory struct {
	mu   sync.Mutex
	ring *SealedRing
}

func (m *memory) LoadRing(context.Context) (SealedRing, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ring == nil {
		return SealedRing{}, ErrNoRing
	}
	return *m.ring, nil
}

func (m *memory) CreateRing(_ context.Context, ring SealedRing) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ring == nil {
		m.ring = &ring
	}
	return nil
}

func openRing(tb testing.TB, store Store) *Ring {
	tb.Helper()
	r, err := OpenRing(context.Background(), store, newSealer(tb, sealingKey))
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestRingIsMadeOnceAndKept(t *testing.T) {
	store := &memory{}
	first, again := openRing(t, store), openRing(t, store)
	if !first.signing.private().Equal(again.signing.private()) || len(again.keys) != 1 {
		t.Errorf("opened %v, then %v", first.signing, again.signing)
	}
}

// A rotated ring has more keys than the one that signs; rotation itself is not built, reading its outcome is.
func TestRingOfSeveralKeys(t *testing.T) {
	a, _ := newKey()
	b, _ := newKey()
	s := newSealer(t, sealingKey)
	store := &memory{ring: &SealedRing{Signing: b.id, Keys: []SealedKey{s.Seal(a), s.Seal(b)}}}
	r := openRing(t, store)
	if r.Signing().ID() != b.id || !slices.EqualFunc(r.Keys(), []*Key{a, b}, func(x, y *Key) bool { return x.private().Equal(y.private()) }) {
		t.Errorf("signing %v, keys %v", r.Signing(), r.Keys())
	}
	store.ring.Signing = "gone"
	if _, err := OpenRing(t.Context(), store, s); err == nil || !strings.Contains(err.Error(), `"gone"`) {
		t.Errorf("a ring without its signing key: %v", err)
	}
}

func TestSealedKeyOpensOnlyAsItWasSealed(t *testing.T) {
	k, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	s := newSealer(t, sealingKey)
	sealed := s.Seal(k)
	if opened, err := s.Open(sealed); err != nil || !opened.private().Equal(k.private()) || opened.id != k.id || !opened.createTime.Equal(k.createTime) {
		t.Fatalf("opened %v, %v", opened, err)
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
		"other sealing key": {newSealer(t, sealingKey+"x"), sealed},
		"other id":          {s, changed(func(k *SealedKey) { k.ID = "other" })},
		"bit flipped":       {s, changed(func(k *SealedKey) { k.Sealed[20] ^= 1 })},
		"cut off":           {s, changed(func(k *SealedKey) { k.Sealed = k.Sealed[:5] })},
		"empty":             {s, changed(func(k *SealedKey) { k.Sealed = nil })},
		"not sealed at all": {s, changed(func(c *SealedKey) { c.Sealed = k.private().Seed() })},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := tc.sealer.Open(tc.key); !errors.Is(err, ErrSeal) {
				t.Errorf("got %v, want ErrSeal", err)
			}
		})
	}
	if bytes.Equal(sealed.Sealed, s.Seal(k).Sealed) {
		t.Error("sealing twice gives the same bytes: the nonce repeats")
	}
}

func TestSealingKeyTooShort(t *testing.T) {
	short := sealingKey[:len(sealingKey)-1]
	_, err := NewSealer(short)
	if err == nil || !strings.Contains(err.Error(), "32 characters") || strings.Contains(err.Error(), short.Reveal()) {
		t.Errorf("got %v", err)
	}
}

func TestThumbprint(t *testing.T) {
	public, _ := base64.RawURLEncoding.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
	if got, want := thumbprint(public), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"; got != want { // RFC 8037, appendix A.3
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPrivateKeyIsNeverPrinted(t *testing.T) {
	ring := openRing(t, &memory{})
	key, issuer := ring.signing, New(Config{Ring: ring})
	var out strings.Builder
	for _, v := range []any{key, *key, []*Key{key}, struct{ K Key }{*key}, ring, issuer} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "v", v)
	}
	for _, form := range forms(key.private()) {
		if strings.Contains(out.String(), form) {
			t.Errorf("printed %q", form)
		}
	}
	if !strings.Contains(out.String(), "key "+key.id) {
		t.Error("the key's id is not printed either")
	}
}

// forms are the ways in which the beginning of a private key might be written.
func forms(private ed25519.PrivateKey) []string {
	seed := private.Seed()[:12]
	return []string{
		string(seed), hex.EncodeToString(seed), strings.ToUpper(hex.EncodeToString(seed)),
		base64.StdEncoding.EncodeToString(seed), base64.URLEncoding.EncodeToString(seed),
		strings.Trim(fmt.Sprintf("%d", seed), "[]"), strings.Trim(fmt.Sprintf("%#v", seed), "[]byte{}"),
	}
}
