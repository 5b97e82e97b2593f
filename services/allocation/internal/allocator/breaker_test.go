package allocator

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

var errAway = &Failure{Kind: Unavailable, Message: "away"}

// call goes through the breaker, and reports whether it was let through.
func call(b *breakers, s site, err error) bool {
	done, resting := b.enter(s)
	if resting != "" {
		return false
	}
	done(err)
	return true
}

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers(slog.New(slog.DiscardHandler))
		eu, us := site{"p", "eu"}, site{"p", "us"}
		for range restAfter - 1 {
			call(b, eu, errAway)
		}
		call(b, eu, nil) // it answered: they were not in a row
		for range restAfter {
			if !call(b, eu, errAway) {
				t.Fatal("rests too early")
			}
			call(b, us, nil)
			call(b, eu, errNotAsked) // says nothing either way
		}
		if call(b, eu, nil) || !call(b, us, nil) {
			t.Error("it rests where it is well, or not where it is not")
		}
		if h := b.health(); len(h) != 2 || h[0] != (Health{"p", "eu", true, "away", BreakerOpen}) || h[1] != (Health{"p", "us", false, "", BreakerClosed}) {
			t.Errorf("health: %+v", h)
		}
		time.Sleep(restFor + time.Second) // on the bubble's clock
		probe, _ := b.enter(eu)
		if probe == nil || call(b, eu, nil) {
			t.Fatal("not one call at a time after the rest")
		}
		if h := b.health()[0]; h.Breaker != BreakerHalfOpen || !h.Resting {
			t.Errorf("with a call on the way: %+v", h)
		}
		probe(errNotAsked) // it did not come to the call
		if probe, _ = b.enter(eu); probe == nil {
			t.Fatal("a probe that did not come to pass is the last")
		}
		probe(errAway)
		if call(b, eu, nil) {
			t.Error("a failed probe does not prolong the rest")
		}
		time.Sleep(restFor + time.Second)
		well := call(b, eu, nil)
		if again := call(b, eu, nil); !well || !again || b.health()[0].Resting || b.health()[0].Message != "" {
			t.Errorf("not well after a call that was answered: %+v", b.health())
		}
	})
}

func TestSymptoms(t *testing.T) {
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	<-late.Done()
	stopped, stop := context.WithCancel(t.Context())
	stop()
	noAnswer := errors.New("no answer")
	for name, test := range map[string]struct {
		ctx  context.Context
		err  error
		took time.Duration
		want error
	}{
		"an answer":                  {t.Context(), nil, time.Second, nil},
		"no room is an answer":       {t.Context(), &Failure{Kind: NoCapacity}, 0, nil},
		"away":                       {t.Context(), errAway, 0, errAway},
		"no answer in time":          {late, noAnswer, fairChance, noAnswer},
		"no time at all":             {late, noAnswer, time.Millisecond, errNotAsked},
		"this process stops":         {stopped, noAnswer, time.Hour, errNotAsked},
		"an answer that is nonsense": {t.Context(), noAnswer, 0, nil},
	} {
		if got := symptom(test.ctx, test.err, test.took, time.Minute); !errors.Is(got, test.want) || (got == nil) != (test.want == nil) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
