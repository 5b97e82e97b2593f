package keys_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"

	"github.com/berth-dev/berth/services/gateway/internal/keys"
)

// issuer is a token-issuer that may be away.
type issuer struct {
	tokenv1.TokenServiceClient
	away  atomic.Bool
	asked atomic.Int64
}

func (i *issuer) GetJsonWebKeySet(context.Context, *tokenv1.GetJsonWebKeySetRequest, ...grpc.CallOption) (*tokenv1.GetJsonWebKeySetResponse, error) {
	i.asked.Add(1)
	if i.away.Load() {
		return nil, errors.New("away")
	}
	return &tokenv1.GetJsonWebKeySetResponse{}, nil
}

// That token-issuer is away is known after a minute at most, and that it is back a second after it is. The keys stay known.
func TestFailingFollowsTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := new(issuer)
		s := keys.New(i, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		check := func(when string, want bool) {
			t.Helper()
			synctest.Wait()
			if s.Failing() != want || s.Ready(ctx) != nil {
				t.Errorf("%s: failing %v, ready %v", when, s.Failing(), s.Ready(ctx))
			}
		}
		check("at the start", false)
		i.away.Store(true)
		check("before it is noticed", false)
		time.Sleep(time.Minute)
		check("after a minute without an issuer", true)
		time.Sleep(time.Hour)
		check("after an hour", true)
		i.away.Store(false)
		time.Sleep(time.Second)
		check("a second after it is back", false)
		stop()
		if err := <-ended; err != nil || s.Failing() {
			t.Errorf("at the end: %v, failing %v", err, s.Failing())
		}
	})
}

// Who asks with an invented key and hangs up makes nobody believe that the issuer is away.
func TestACallerThatGoesAwayIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := new(issuer)
		s := keys.New(i, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		go func() { _ = s.Run(ctx) }()
		synctest.Wait()
		time.Sleep(2 * time.Second) // so that what was fetched is no answer any more
		i.away.Store(true)
		gone, hangUp := context.WithCancel(ctx)
		hangUp()
		before := i.asked.Load()
		if _, err := s.Verifier().VerifyPair(gone, "eyJhbGciOiJFZERTQSIsImtpZCI6IngifQ.e30.AA", "x"); err == nil {
			t.Error("accepted")
		}
		synctest.Wait()
		if s.Failing() {
			t.Errorf("failing, after %d fetches", i.asked.Load()-before)
		}
		stop()
	})
}
