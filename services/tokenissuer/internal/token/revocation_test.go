package token

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	sdk "github.com/berth-dev/berth/sdk/go/token"
)

// list is a RevocationStore on the clock of the test; the one in Redis has tests of its own.
type list struct {
	mu      sync.Mutex
	version int64
	entries map[string]Revocation
	away    bool
}

func newList() *list { return &list{entries: make(map[string]Revocation)} }

func (l *list) RevocationsVersion(context.Context) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return 0, errs.New(errs.StoreUnavailable, "away")
	}
	return l.version, nil
}

func (l *list) LoadRevocations(context.Context) (RevocationList, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return RevocationList{}, errs.New(errs.StoreUnavailable, "away")
	}
	out := RevocationList{Version: l.version, Now: time.Now()}
	for _, r := range l.entries {
		if r.ExpireTime.After(out.Now) {
			out.Revocations = append(out.Revocations, r)
		}
	}
	return out, nil
}

func (l *list) Revoke(_ context.Context, r Revocation, keep time.Duration) (Revocation, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return Revocation{}, errs.New(errs.StoreUnavailable, "away")
	}
	l.version = max(l.version+1, time.Now().UnixMicro())
	r.CreateTime, r.ExpireTime, r.Version = time.Now(), time.Now().Add(keep), l.version
	l.entries[r.ID()] = r
	return r, nil
}

func (l *list) RestoreRevocations(_ context.Context, lost []Revocation) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range lost {
		l.version = max(l.version+1, r.Version+1, time.Now().UnixMicro())
		l.entries[r.ID()] = r
	}
	return nil
}

// lose makes the list empty, as a store that was flushed is.
func (l *list) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.version = 0
	clear(l.entries)
}

func openRevocations(tb testing.TB, store RevocationStore) *Revocations {
	tb.Helper()
	r, err := OpenRevocations(context.Background(), RevocationsConfig{Store: store, Keep: 48 * time.Hour, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func revoke(tb testing.TB, r *Revocations, t Target) Revocation {
	tb.Helper()
	stored, err := r.Revoke(context.Background(), Revocation{Target: t, Reason: "because", Actor: "somebody"})
	if err != nil {
		tb.Fatal(err)
	}
	return stored
}

// What is revoked is not minted again, by a replica that did not revoke it.
func TestNothingIsMintedForWhatIsRevoked(t *testing.T) {
	instance := ids.AttemptInstance(attempt)
	for name, tc := range map[string]struct {
		target                Target
		pair, refresh, ticket bool // is minted
	}{
		"the pair":                     {Target{Namespace: "n", PairID: ids.Pair(attempt)}, false, false, true},
		"the server":                   {Target{Namespace: "n", ServerID: ids.Server(attempt)}, false, false, true},
		"the instance":                 {Target{Namespace: "n", InstanceID: instance}, false, false, false},
		"everything before":            {Target{Namespace: "n", IssuedBefore: time.Now()}, true, true, true},
		"a key":                        {Target{KeyID: "k"}, true, true, true},
		"another pair":                 {Target{Namespace: "n", PairID: ids.Pair(attempt + "1")}, true, true, true},
		"the pair elsewhere":           {Target{Namespace: "m", PairID: ids.Pair(attempt)}, true, true, true},
		"the server elsewhere":         {Target{Namespace: "m", ServerID: ids.Server(attempt)}, true, true, true},
		"another namespace's instance": {Target{Namespace: "m", InstanceID: instance}, true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			store := newList()
			i := newIssuer(t)
			i.cfg.Revocations = openRevocations(t, store)
			revoke(t, openRevocations(t, store), tc.target)
			_, pair := i.IssuePair(t.Context(), "n", attempt)
			_, refresh := i.RefreshPair(t.Context(), "n", ids.Server(attempt), ids.Pair(attempt))
			_, ticket := i.IssueTicket(t.Context(), "n", instance, "p", time.Time{})
			for what, got := range map[string]struct {
				minted bool
				err    error
			}{"pair": {tc.pair, pair}, "refresh": {tc.refresh, refresh}, "ticket": {tc.ticket, ticket}} {
				if (got.err == nil) != got.minted || got.err != nil && !errs.Is(got.err, errs.CredentialsRevoked) {
					t.Errorf("%s: %v", what, got.err)
				}
			}
		})
	}
}

// An instance's revocation reaches the servers of all its attempts, and no other.
func TestExpandNamesTheServersOfAnInstance(t *testing.T) {
	id := uuid.NewString()
	set := sdk.NewRevocations(1, Expand([]Revocation{{Target: Target{Namespace: "n", InstanceID: id}}}))
	for n := 1; n <= 11; n++ {
		server := sdk.Server{ID: ids.Server(ids.Attempt(id, n)), PairID: ids.Pair(ids.Attempt(id, n)), Namespace: "n"}
		if set.Server(server) != (n <= 10) {
			t.Errorf("attempt %d: revoked %v", n, set.Server(server))
		}
	}
	if set.Server(sdk.Server{ID: ids.Server(ids.Attempt(uuid.NewString(), 1)), Namespace: "n"}) {
		t.Error("another instance's server is revoked")
	}
}

// Everything issued before now is revoked, and what is issued in the same second is not: a server that gets its pair then could not use it.
func TestWhatIsIssuedAfterARevocationIsValid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t)
		time.Sleep(300 * time.Millisecond)
		old, err := i.IssuePair(t.Context(), "n", attempt)
		if err != nil {
			t.Fatal(err)
		}
		ticket, err := i.IssueTicket(t.Context(), "n", "i", "p", time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		revoke(t, i.cfg.Revocations, Target{Namespace: "n", IssuedBefore: time.Now()})
		time.Sleep(100 * time.Millisecond)
		renewed, err := i.RefreshPair(t.Context(), "n", old.ServerID, old.PairID)
		if err != nil {
			t.Fatal(err)
		}
		for what, tc := range map[string]struct {
			raw    conf.Secret
			active bool
		}{"old pair": {old.Game, false}, "old ticket": {ticket.Token, false}, "renewed pair": {renewed.Social, true}} {
			got, err := i.Introspect(t.Context(), tc.raw.Reveal())
			if err != nil || (got.Refused == nil) != tc.active || got.Refused != nil && got.Refused.Reason != sdk.Revoked {
				t.Errorf("%s: %+v, %v", what, got, err)
			}
		}
	})
}

func TestRevocationsWhileTheStoreIsAway(t *testing.T) {
	store := newList()
	i := newIssuer(t)
	i.cfg.Revocations = openRevocations(t, store)
	revoke(t, i.cfg.Revocations, Target{Namespace: "n", PairID: ids.Pair(attempt)})
	i.cfg.Revocations.Set(t.Context())
	store.away = true
	if _, err := i.IssuePair(t.Context(), "n", attempt); !errs.Is(err, errs.CredentialsRevoked) {
		t.Errorf("what was known to be revoked is minted: %v", err)
	}
	if _, err := i.IssuePair(t.Context(), "n", attempt+"1"); err != nil {
		t.Errorf("what was not revoked: %v", err)
	}
	if _, _, err := i.cfg.Revocations.Current(t.Context()); !errs.Is(err, errs.StoreUnavailable) {
		t.Errorf("a list that may be old is given out: %v", err)
	}
	if _, err := i.cfg.Revocations.Revoke(t.Context(), Revocation{}); !errs.Is(err, errs.StoreUnavailable) {
		t.Error(err)
	}
	if _, err := OpenRevocations(t.Context(), i.cfg.Revocations.cfg); !errs.Is(err, errs.StoreUnavailable) {
		t.Errorf("started without knowing what is revoked: %v", err)
	}
}

// A store that lost its data must not make revoked tokens valid.
func TestLostRevocationsAreWrittenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newList()
		one, two := openRevocations(t, store), openRevocations(t, store)
		shared := revoke(t, one, Target{Namespace: "n", PairID: "a"})
		two.Set(t.Context())
		late := revoke(t, one, Target{Namespace: "n", PairID: "b"})
		one.Set(t.Context())
		time.Sleep(time.Second)
		store.lose()
		// The replica that knows less comes first; what it does not know is there after the other.
		two.Set(t.Context())
		one.Set(t.Context())
		for _, r := range []*Revocations{one, two, openRevocations(t, store)} {
			version, all, err := r.Current(t.Context())
			if err != nil || len(all) != 2 || version <= late.Version || all[0] != late || all[1] != shared {
				t.Errorf("version %d: %+v, %v", version, all, err)
			}
		}
		time.Sleep(49 * time.Hour) // they have expired: nobody brings them back
		store.lose()
		if _, all, err := one.Current(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

func TestListRevocations(t *testing.T) {
	r := openRevocations(t, newList())
	for n := range 5 {
		revoke(t, r, Target{Namespace: "n", PairID: fmt.Sprint(n)})
		revoke(t, r, Target{Namespace: "m", PairID: fmt.Sprint(n)})
	}
	revoke(t, r, Target{KeyID: "k"})
	var got []string
	for place := int64(0); ; {
		page, next, err := r.List(t.Context(), "n", 2, place)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			got = append(got, e.Target.PairID)
		}
		if len(got) == 2 { // what comes meanwhile is newer than the pages to come
			revoke(t, r, Target{Namespace: "n", PairID: "meanwhile"})
		}
		if place = next; place == 0 {
			break
		}
	}
	if fmt.Sprint(got) != "[4 3 2 1 0]" {
		t.Errorf("got %v", got)
	}
}

func TestRetireKey(t *testing.T) {
	i := newIssuer(t)
	stolen := signing(t, i.cfg.Keys).ID()
	pair, err := i.IssuePair(t.Context(), "n", attempt)
	if err != nil {
		t.Fatal(err)
	}
	server, err := verifier(i).VerifyPair(t.Context(), pair.Game.Reveal(), pair.Social.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	if err := i.RetireKey(t.Context(), stolen, "somebody"); err != nil {
		t.Fatal(err)
	}
	if signing(t, i.cfg.Keys).ID() == stolen || !i.cfg.Revocations.Set(t.Context()).Server(server) {
		t.Error("what the key has signed is not revoked for those who have the key already")
	}
	if got, err := i.Introspect(t.Context(), pair.Game.Reveal()); err != nil || got.Refused == nil || got.Refused.Reason != sdk.Invalid || got.Verified != nil {
		t.Errorf("introspected as %+v, %v", got, err)
	}
	if err := i.RetireKey(t.Context(), "unknown", "somebody"); !errs.Is(err, errs.ValidationFailed) {
		t.Error(err)
	}
	if _, all, _ := i.cfg.Revocations.Current(t.Context()); len(all) != 1 {
		t.Errorf("revocations: %+v", all)
	}
}
