package tokenissuer_test

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// lookup returns what is known of a key; nil if nothing is.
func (i *issuer) lookup(t *testing.T, key string) *tokenv1.ApiKey {
	t.Helper()
	found, err := i.LookupApiKey(t.Context(), &tokenv1.LookupApiKeyRequest{Sha256: apikey.Hash(key)})
	if err != nil {
		t.Fatal(err)
	}
	return found.GetApiKey()
}

// A key's life: one replica makes it, another one knows it, also after a restart, until a third call ends it.
func TestAPIKey(t *testing.T) {
	each(t, func(t *testing.T, addr string, _ *redisx.Store) {
		one, two := start(t, slog.New(slog.DiscardHandler), config(addr)), start(t, slog.New(slog.DiscardHandler), config(addr))
		expires := timestamppb.New(time.Now().Add(time.Hour).Truncate(time.Microsecond))
		req := &tokenv1.CreateApiKeyRequest{Name: "matchmaker", Role: typev1.Role_ROLE_SERVICE, Namespaces: []string{"prod", "test"}, ExpireTime: expires}
		made, err := one.public.CreateApiKey(with(t, apiKey), req)
		if err != nil || !apikey.Valid(made.GetKey()) {
			t.Fatal(made.GetApiKey(), err)
		}
		check := func(k *tokenv1.ApiKey) {
			t.Helper()
			if k.GetName() != "matchmaker" || k.GetRole() != typev1.Role_ROLE_SERVICE || !slices.Equal(k.GetNamespaces(), req.GetNamespaces()) || k.GetCreator() != "key:root" ||
				k.GetCreateTime() == nil || !k.GetExpireTime().AsTime().Equal(expires.AsTime()) {
				t.Errorf("got %v", k)
			}
		}
		check(made.GetApiKey())
		check(two.lookup(t, made.GetKey()))
		if k := two.lookup(t, made.GetKey()+"x"); k != nil {
			t.Errorf("an unknown key is known: %v", k)
		}
		_, err = two.public.CreateApiKey(with(t, apiKey), req)
		wantReason(t, err, errs.ValidationFailed)
		one.stop()
		one = start(t, slog.New(slog.DiscardHandler), config(addr))
		check(one.lookup(t, made.GetKey()))

		revoked, err := one.public.RevokeApiKey(with(t, apiKey), &tokenv1.RevokeApiKeyRequest{Name: "matchmaker"})
		if err != nil {
			t.Fatal(err)
		}
		check(revoked.GetApiKey())
		if k := two.lookup(t, made.GetKey()); k != nil {
			t.Errorf("a revoked key is known: %v", k)
		}
		if again, err := two.public.CreateApiKey(with(t, apiKey), req); err != nil || again.GetKey() == made.GetKey() {
			t.Errorf("the name is not free again: %v", err)
		}
	})
}

func TestWhoIsLimitedMakesAndSeesOnlyLimitedKeys(t *testing.T) {
	limited := apikey.Prefix + "limited"
	cfg := withKey(withKey(config(miniredis.RunT(t).Addr()), limited, auth.RoleAdmin, "a", "b"), apikey.Prefix+"operator", auth.RoleOperator)
	i := start(t, slog.New(slog.DiscardHandler), cfg)
	create := func(key, name string, namespaces ...string) error {
		_, err := i.public.CreateApiKey(with(t, key), &tokenv1.CreateApiKeyRequest{Name: name, Role: typev1.Role_ROLE_ADMIN, Namespaces: namespaces})
		return err
	}
	for name, tc := range map[string]struct {
		namespaces []string
		fails      errs.Reason
	}{
		"own":       {[]string{"a"}, ""},
		"own-both":  {[]string{"b", "a"}, ""},
		"all":       {nil, errs.NamespaceDenied},
		"foreign":   {[]string{"c"}, errs.NamespaceDenied},
		"one-more":  {[]string{"a", "b", "c"}, errs.NamespaceDenied},
		"like-mine": {[]string{"a-b"}, errs.NamespaceDenied},
	} {
		wantReason(t, create(limited, name, tc.namespaces...), tc.fails)
	}
	for name, namespaces := range map[string][]string{"everything": nil, "others": {"c"}, "shared": {"a", "c"}} {
		wantReason(t, create(apiKey, name, namespaces...), "")
	}
	list := func(key string) string {
		t.Helper()
		var names []string
		for token := ""; ; {
			page, err := i.public.ListApiKeys(with(t, key), &tokenv1.ListApiKeysRequest{PageSize: 2, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range page.GetApiKeys() {
				names = append(names, k.GetName())
			}
			if token = page.GetNextPageToken(); token == "" {
				return strings.Join(names, " ")
			}
		}
	}
	if got := list(limited); got != "own own-both" {
		t.Errorf("the limited admin sees %s", got)
	}
	if got := list(apiKey); got != "everything others own own-both shared" {
		t.Errorf("the admin sees %s", got)
	}
	revoke := func(key, name string) error {
		_, err := i.public.RevokeApiKey(with(t, key), &tokenv1.RevokeApiKeyRequest{Name: name})
		return err
	}
	for name, reason := range map[string]errs.Reason{"everything": errs.NamespaceDenied, "others": errs.NamespaceDenied, "shared": errs.NamespaceDenied, "own": ""} {
		wantReason(t, revoke(limited, name), reason)
	}
	// What concerns all namespaces is not for who is limited to some.
	_, err := i.public.RotateSigningKey(with(t, limited), &tokenv1.RotateSigningKeyRequest{Immediate: true})
	wantReason(t, err, errs.NamespaceDenied)
	_, err = i.public.RetireSigningKey(with(t, limited), &tokenv1.RetireSigningKeyRequest{KeyId: strings.Repeat("x", 43)})
	wantReason(t, err, errs.NamespaceDenied)

	operator := apikey.Prefix + "operator"
	wantReason(t, create(operator, "x"), errs.RoleRequired)
	wantReason(t, revoke(operator, "own-both"), errs.RoleRequired)
	_, err = i.public.ListApiKeys(with(t, operator), &tokenv1.ListApiKeysRequest{})
	wantReason(t, err, errs.RoleRequired)
	_, err = i.public.LookupApiKey(with(t, apiKey), &tokenv1.LookupApiKeyRequest{Sha256: apikey.Hash("x")})
	wantReason(t, err, errs.RoleRequired)
}

func TestAPIKeysWithoutRedis(t *testing.T) {
	m := miniredis.RunT(t)
	i := start(t, slog.New(slog.DiscardHandler), config(m.Addr()))
	i.pair(t) // from here on it runs
	m.Close()
	_, err := i.public.CreateApiKey(with(t, apiKey), &tokenv1.CreateApiKeyRequest{Name: "x", Role: typev1.Role_ROLE_VIEWER})
	wantReason(t, err, errs.StoreUnavailable)
	_, err = i.LookupApiKey(t.Context(), &tokenv1.LookupApiKeyRequest{Sha256: apikey.Hash("x")})
	wantReason(t, err, errs.StoreUnavailable) // and not: no such key
	_, err = i.public.RevokeApiKey(with(t, apiKey), &tokenv1.RevokeApiKeyRequest{Name: "x"})
	wantReason(t, err, errs.StoreUnavailable)
}
