package pagetoken

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
)

const secret conf.Secret = "a secret that all of the replicas share"

// list is what a service may name a list with.
type list struct{ Of, Filter string }

func key(t testing.TB, secret conf.Secret, service string) Key {
	t.Helper()
	k, err := New(secret, service)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestATokenIsGoodForItsListOnEveryReplica(t *testing.T) {
	for _, place := range []string{"a", "\x00\xff", strings.Repeat("place", 50)} {
		token, err := key(t, secret, "a").Token(list{"x", "y"}, place)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := key(t, secret, "a").Place(list{"x", "y"}, token); err != nil || got != place {
			t.Errorf("%q, %v; want %q", got, err, place)
		}
	}
	if none, err := key(t, secret, "a").Token(list{}, ""); err != nil || none != "" {
		t.Errorf("token of the end: %q, %v", none, err)
	}
	if begin, err := key(t, secret, "a").Place(list{}, ""); err != nil || begin != "" {
		t.Errorf("the beginning is %q, %v", begin, err)
	}
}

func TestATokenOfAnotherListIsRefused(t *testing.T) {
	good := key(t, secret, "a")
	token, err := good.Token(list{"x", "y"}, "place")
	if err != nil {
		t.Fatal(err)
	}
	refused := func(name string, k Key, l any, token string) {
		t.Helper()
		if got, err := k.Place(l, token); !errs.Is(err, errs.ValidationFailed) || !strings.Contains(err.Error(), ": page_token: ") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	refused("another list", good, list{"z", "y"}, token)
	refused("another filter", good, list{"x", ""}, token)
	refused("a value that moved", good, list{"y", "x"}, token)
	refused("another kind of list", good, struct{ To, Filter string }{"x", "y"}, token)
	refused("another service", key(t, secret, "b"), list{"x", "y"}, token)
	refused("another deployment", key(t, secret+"!", "a"), list{"x", "y"}, token)
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	for n := range raw {
		bad := append([]byte{}, raw...)
		bad[n] ^= 1
		refused("one bit", good, list{"x", "y"}, base64.RawURLEncoding.EncodeToString(bad))
	}
	for _, bad := range []string{
		"x", token[1:], token[:len(token)-1], token + "A", token + "=", "AAAA" + token, "…",
		base64.RawURLEncoding.EncodeToString([]byte("place")), base64.RawURLEncoding.EncodeToString(raw[len("place"):]),
	} {
		refused(bad, good, list{"x", "y"}, bad)
	}
}

func TestAListThatHasNoNameIsAnError(t *testing.T) {
	k := key(t, secret, "a")
	if token, err := k.Token(func() {}, "place"); err == nil {
		t.Errorf("a token: %q", token)
	}
	if _, err := k.Place(func() {}, strings.Repeat("A", 100)); err == nil || errs.Is(err, errs.ValidationFailed) {
		t.Errorf("the caller is to blame: %v", err)
	}
}

func FuzzPlace(f *testing.F) {
	k := key(f, secret, "a")
	f.Add("")
	f.Add(base64.RawURLEncoding.EncodeToString(make([]byte, 40)))
	f.Fuzz(func(t *testing.T, token string) {
		if place, err := k.Place(list{"x", "y"}, token); token != "" && err == nil {
			t.Errorf("%q names %q", token, place)
		}
	})
}
