package token_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/sdk/go/token"
)

func TestKeySetFetchesUnknownKeysRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k1, k2 := newIssuer(t, "k1"), newIssuer(t, "k2")
		doc, fetches := document(t, k1), 0
		keys := token.NewKeySet(func(context.Context) ([]byte, error) { fetches++; return doc, nil })
		for range 3 {
			if _, err := keys.Key(t.Context(), "k1"); err != nil {
				t.Fatal(err)
			}
		}
		if fetches != 1 {
			t.Fatalf("%d fetches for a known key, want 1", fetches)
		}

		// A key id that a fresh document does not have is refused.
		for n := range 4 {
			_, err := keys.Key(t.Context(), fmt.Sprint("invented ", n))
			wantReason(t, err, token.Invalid)
		}
		// From now on nobody may fetch for it, however many ids are invented. A genuine token may be among them: there is no verdict.
		doc = document(t, k1, k2)
		for n := range 100 {
			if _, err := keys.Key(t.Context(), fmt.Sprint("more ", n)); !errors.Is(err, token.ErrKeysUnavailable) {
				t.Fatalf("without a fetch: %v", err)
			}
		}
		if fetches != 5 {
			t.Fatalf("%d fetches, want 5", fetches)
		}
		for range 10 {
			time.Sleep(5 * time.Second)
			for range 100 {
				_, _ = keys.Key(t.Context(), "invented")
			}
		}
		if fetches != 15 {
			t.Errorf("%d fetches in 50 s of invented key ids, want 10 more", fetches)
		}
		if got, err := keys.Key(t.Context(), "k2"); err != nil || !got.Equal(k2.key.Public()) {
			t.Errorf("the new key: %v, %v", got, err)
		}
	})
}

// A key that begins to sign just after somebody has fetched is not called invented.
func TestKeySetKnowsANewKeyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k1, k2 := newIssuer(t, "k1"), newES256Issuer(t, "k2")
		doc := document(t, k1)
		keys := token.NewKeySet(func(context.Context) ([]byte, error) { return doc, nil })
		if _, err := keys.Key(t.Context(), "k1"); err != nil {
			t.Fatal(err)
		}
		doc = document(t, k1, k2)
		if got, err := keys.Key(t.Context(), "k2"); err != nil || !got.Equal(k2.key.Public()) {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

// Whoever hangs up in the middle of a fetch has caused it all the same.
func TestKeySetCountsFetchesOfCallersThatGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fetches := 0
		keys := token.NewKeySet(func(ctx context.Context) ([]byte, error) { fetches++; <-ctx.Done(); return nil, ctx.Err() })
		for range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if _, err := keys.Key(ctx, "invented"); !errors.Is(err, token.ErrKeysUnavailable) {
				t.Fatal(err)
			}
			cancel()
		}
		if fetches != 5 {
			t.Errorf("%d fetches, want 5", fetches)
		}
	})
}

// Without a token that names an unknown key nobody would notice that a key was withdrawn.
func TestKeySetRefreshForgetsWithdrawnKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k1, k2 := newIssuer(t, "k1"), newIssuer(t, "k2")
		doc, fail := document(t, k1, k2), error(nil)
		keys := token.NewKeySet(func(context.Context) ([]byte, error) { return doc, fail })
		if _, err := keys.Key(t.Context(), "k1"); err != nil {
			t.Fatal(err)
		}
		doc, fail = document(t, k2), errors.New("away")
		if err := keys.Refresh(t.Context()); !errors.Is(err, token.ErrKeysUnavailable) {
			t.Errorf("refresh while the issuer is away: %v", err)
		}
		if _, err := keys.Key(t.Context(), "k1"); err != nil {
			t.Errorf("a refresh that failed has cost a key: %v", err)
		}
		fail = nil
		if err := keys.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := keys.Key(t.Context(), "k1")
		wantReason(t, err, token.Invalid)
	})
}

func TestKeySetFetchesOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doc := document(t, newIssuer(t, "k1"))
		var fetches atomic.Int32
		keys := token.NewKeySet(func(context.Context) ([]byte, error) {
			fetches.Add(1)
			time.Sleep(time.Second)
			return doc, nil
		})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := keys.Key(t.Context(), "k1"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := fetches.Load(); n != 1 {
			t.Errorf("%d fetches, want 1", n)
		}
	})
}

func TestKeySetKeepsKeysWhenFetchFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doc, fail := document(t, newIssuer(t, "k1")), error(nil)
		keys := token.NewKeySet(func(context.Context) ([]byte, error) { return doc, fail })
		if _, err := keys.Key(t.Context(), "k1"); err != nil {
			t.Fatal(err)
		}
		down := errors.New("issuer is away")
		for _, outage := range []func(){
			func() { fail = down },
			func() { fail, doc = nil, []byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k9","x":"AA"}]}`) },
		} {
			time.Sleep(5 * time.Second)
			outage()
			for range 2 { // the second comes within the interval: no verdict either
				if _, err := keys.Key(t.Context(), "k2"); !errors.Is(err, token.ErrKeysUnavailable) {
					t.Errorf("unknown key while the issuer is away: %v, want ErrKeysUnavailable", err)
				}
			}
			if _, err := keys.Key(t.Context(), "k1"); err != nil {
				t.Errorf("known key while the issuer is away: %v", err)
			}
		}
	})
}

// A caller that goes away must neither fail those who wait behind it nor use up their fetch.
func TestKeySetCallerGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doc := document(t, newIssuer(t, "k1"))
		keys := token.NewKeySet(func(ctx context.Context) ([]byte, error) {
			select {
			case <-time.After(2 * time.Second):
				return doc, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := keys.Key(impatient, "k1"); !errors.Is(err, token.ErrKeysUnavailable) {
				t.Errorf("impatient caller: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if _, err := keys.Key(impatient, "k1"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("impatient caller in the queue: %v", err)
			}
		})
		if _, err := keys.Key(t.Context(), "k1"); err != nil {
			t.Errorf("patient caller: %v", err)
		}
		wg.Wait()
	})
}

// While the keys cannot be had, a good token must not be called invalid: a game server would give up for good.
func TestVerifyWithoutKeysGivesNoVerdict(t *testing.T) {
	i := newIssuer(t, "k1")
	v := token.NewVerifier(token.NewKeySet(func(context.Context) ([]byte, error) { return nil, errors.New("away") }))
	_, err := v.VerifyTicket(t.Context(), i.sign(t, claims(token.AudienceTicket)))
	var refused *token.Error
	if !errors.Is(err, token.ErrKeysUnavailable) || errors.As(err, &refused) {
		t.Errorf("got %v, want ErrKeysUnavailable and no refusal", err)
	}
}

func TestParseKeys(t *testing.T) {
	const x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"                                                                                   // RFC 8037, appendix A.2
	const ec = `"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"` // RFC 7515, appendix A.3
	for name, tc := range map[string]struct {
		doc  string
		want int // keys; -1: refused
	}{
		"one":              {`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"` + x + `"}]}`, 1},
		"empty":            {`{"keys":[]}`, 0},
		"both types":       {`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"` + x + `"},{` + ec + `,"kid":"b","alg":"ES256"}]}`, 2},
		"other types":      {`{"keys":[{"kty":"EC","crv":"P-384","kid":"a","x":"AA","y":"AA"},{"kty":"OKP","crv":"X25519","kid":"b","x":"AA"},{"kty":"oct","kid":"c","k":"AA"}]}`, 0},
		"other algorithm":  {`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","alg":"ES256","x":"` + x + `"},{` + ec + `,"kid":"b","alg":"HS256"}]}`, 0},
		"EC, no y":         {`{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"` + x + `"}]}`, -1},
		"EC, no point":     {`{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"` + x + `","y":"` + x + `"}]}`, -1},
		"for encryption":   {`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","use":"enc","x":"` + x + `"}]}`, 0},
		"twice":            {`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"` + x + `"},{"kty":"OKP","crv":"Ed25519","kid":"a","x":"` + x + `"}]}`, -1},
		"without id":       {`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"` + x + `"}]}`, -1},
		"short":            {`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"AAAA"}]}`, -1},
		"not base64url":    {`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"` + x + `="}]}`, -1},
		"not JSON":         {`keys`, -1},
		"something behind": {`{"keys":[]} {}`, -1},
	} {
		t.Run(name, func(t *testing.T) {
			keys, err := token.ParseKeys([]byte(tc.doc))
			if (err != nil) != (tc.want < 0) || (err == nil && len(keys) != tc.want) {
				t.Errorf("got %d keys, error %v; want %d", len(keys), err, tc.want)
			}
		})
	}
}
