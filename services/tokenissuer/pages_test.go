package tokenissuer_test

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/alicebob/miniredis/v2"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// A page token is good on every replica of one deployment, for the list that it was returned with, and leads nobody into another one.
func TestPageTokensAreGoodOnEveryReplicaAndForTheirListOnly(t *testing.T) {
	addr, limited := miniredis.RunT(t).Addr(), apikey.Prefix+"limited"
	cfg := withKey(config(addr), limited, auth.RoleAdmin, "a")
	one, two := start(t, slog.New(slog.DiscardHandler), cfg), start(t, slog.New(slog.DiscardHandler), cfg)
	cfg.Auth.InternalKey = conf.Secret("another-another-another-another-another")
	stranger := start(t, slog.New(slog.DiscardHandler), cfg)
	for n := range 3 {
		name := fmt.Sprintf("key-%d", n)
		if _, err := one.public.CreateApiKey(with(t, apiKey), &tokenv1.CreateApiKeyRequest{Name: name, Role: typev1.Role_ROLE_VIEWER, Namespaces: []string{"a"}}); err != nil {
			t.Fatal(err)
		}
		for _, namespace := range []string{"a", "b"} {
			req := &tokenv1.RevokeTokensRequest{Namespace: namespace, Target: &tokenv1.RevokeTokensRequest_PairId{PairId: ids.Pair(name)}}
			if _, err := one.public.RevokeTokens(with(t, apiKey), req); err != nil {
				t.Fatal(err)
			}
		}
	}
	revocations := func(i *issuer, namespace, token string) (string, error) {
		page, err := i.public.ListRevocations(with(t, apiKey), &tokenv1.ListRevocationsRequest{Namespace: namespace, PageSize: 1, PageToken: token})
		return page.GetNextPageToken(), err
	}
	keys := func(i *issuer, key, token string) (string, error) {
		page, err := i.public.ListApiKeys(with(t, key), &tokenv1.ListApiKeysRequest{PageSize: 1, PageToken: token})
		return page.GetNextPageToken(), err
	}
	ofA, err := revocations(one, "a", "")
	if err != nil || ofA == "" {
		t.Fatal(ofA, err)
	}
	ofKeys, err := keys(one, apiKey, "")
	if err != nil || ofKeys == "" {
		t.Fatal(ofKeys, err)
	}
	for name, tc := range map[string]struct {
		call  func() (string, error)
		fails errs.Reason
	}{
		"revocations, another replica":    {func() (string, error) { return revocations(two, "a", ofA) }, ""},
		"revocations, another deployment": {func() (string, error) { return revocations(stranger, "a", ofA) }, errs.ValidationFailed},
		"revocations, tampered":           {func() (string, error) { return revocations(one, "a", "A"+ofA[1:]) }, errs.ValidationFailed},
		"revocations, another namespace":  {func() (string, error) { return revocations(one, "b", ofA) }, errs.ValidationFailed},
		"revocations, of the keys":        {func() (string, error) { return revocations(one, "a", ofKeys) }, errs.ValidationFailed},
		"revocations, as it once was":     {func() (string, error) { return revocations(one, "a", "zz") }, errs.ValidationFailed},
		"keys, another replica":           {func() (string, error) { return keys(two, apiKey, ofKeys) }, ""},
		"keys, another deployment":        {func() (string, error) { return keys(stranger, apiKey, ofKeys) }, errs.ValidationFailed},
		"keys, tampered":                  {func() (string, error) { return keys(one, apiKey, "A"+ofKeys[1:]) }, errs.ValidationFailed},
		"keys, of one who sees fewer":     {func() (string, error) { return keys(one, limited, ofKeys) }, errs.ValidationFailed},
		"keys, of the revocations":        {func() (string, error) { return keys(one, apiKey, ofA) }, errs.ValidationFailed},
		"keys, a name":                    {func() (string, error) { return keys(one, apiKey, "key-0") }, errs.ValidationFailed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tc.call()
			wantReason(t, err, tc.fails)
		})
	}
}
