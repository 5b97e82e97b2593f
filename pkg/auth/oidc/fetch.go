package oidc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berth-dev/berth/pkg/egress"
	"github.com/berth-dev/berth/pkg/errs"
)

const (
	// refreshEvery is how often the keys are fetched without need, so that one that is withdrawn is not believed for long.
	refreshEvery = 10 * time.Minute
	// A fetch that fails is tried again after retryFirst, and after twice as long each time, up to retryMax.
	retryFirst = 2 * time.Second
	retryMax   = time.Minute
	// fetchTimeout bounds a fetch of both documents.
	fetchTimeout = 5 * time.Second
	// patience is how long a caller waits for a fetch.
	patience = 3 * time.Second
	// Tokens with unknown key ids cause one fetch in askEvery: invented ids must not make Berth flood the issuer.
	askEvery = 5 * time.Second
	// keysLife is how long keys are believed that could not be fetched again. An issuer that is away that long has renewed no token either.
	keysLife = 24 * time.Hour
)

// round is a fetch that callers wait for.
type round struct {
	began time.Time
	err   error
	done  chan struct{} // closed when the two above are set
}

// Run fetches the keys at once, then now and then, and whenever a token names one that is not known, until ctx ends.
func (i *Issuer) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-i.wake:
		case <-timer.C:
		}
		if err := i.refresh(ctx); err == nil {
			failures = 0
			timer.Reset(refreshEvery)
			continue
		}
		timer.Reset(min(retryFirst<<min(failures, 10), retryMax))
		failures++
	}
}

// refresh fetches the keys for all who wait. What is known stays in force if that fails.
func (i *Issuer) refresh(ctx context.Context) error {
	r := i.begin()
	keys, err := i.fetch(ctx)
	if ctx.Err() != nil { // the service stops, which is no problem of the issuer's
		err = ctx.Err()
	} else {
		i.report(keys, err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if err == nil {
		i.keys, i.current = keys, r.began
	}
	i.running, r.err = nil, err
	close(r.done)
	return err
}

func (i *Issuer) begin() *round {
	i.mu.Lock()
	defer i.mu.Unlock()
	select {
	case <-i.wake: // this fetch is the one that is wished for
	default:
	}
	r := i.asked
	if r == nil {
		r = &round{done: make(chan struct{})}
	}
	r.began, i.asked, i.running = time.Now(), nil, r
	return r
}

// report counts a fetch, and logs when fetches begin to fail or to work again. Only Run's goroutine calls it.
func (i *Issuer) report(keys keySet, err error) {
	if err != nil {
		i.fetches.WithLabelValues(i.cfg.Issuer, "failed").Inc()
		if i.problem != err.Error() {
			i.problem = err.Error()
			i.log.Warn("the keys of an identity provider cannot be fetched; those that are known stay in force for a day", "issuer", i.cfg.Issuer, "error", err)
		}
		return
	}
	i.fetches.WithLabelValues(i.cfg.Issuer, "ok").Inc()
	if i.problem != "" {
		i.problem = ""
		i.log.Info("the keys of an identity provider can be fetched again", "issuer", i.cfg.Issuer, "keys", len(keys))
	}
}

func (i *Issuer) fetch(ctx context.Context) (keySet, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	raw, err := egress.Get(ctx, i.client, wellKnown(i.cfg.Issuer))
	if err != nil {
		return nil, err
	}
	at, err := parseDiscovery(raw, i.cfg.Issuer)
	if err != nil {
		return nil, err
	}
	if raw, err = egress.Get(ctx, i.client, at); err != nil {
		return nil, err
	}
	return parseKeys(raw)
}

// keysFor returns the keys with an id. If there are none it waits, for a short time, for a fetch that may bring them.
func (i *Issuer) keysFor(ctx context.Context, kid string) ([]key, error) {
	if keys := i.known(kid); keys != nil {
		return keys, nil
	}
	now := time.Now()
	r, err := i.ask(now)
	if err != nil {
		return nil, unavailable(err)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, unavailable(ctx.Err())
	case <-timer.C:
		return nil, unavailable(errors.New("the issuer does not answer"))
	case <-r.done:
	}
	if keys := i.known(kid); keys != nil {
		return keys, nil
	}
	if r.err != nil {
		return nil, unavailable(r.err)
	}
	if r.began.Before(now) { // the key may be newer than what was fetched
		return nil, unavailable(errors.New("the key was not among those that have just been fetched"))
	}
	return nil, fmt.Errorf("the issuer has no key %.100q", kid)
}

// known returns the keys with an id that are in force.
func (i *Issuer) known(kid string) []key {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Since(i.current) > keysLife {
		return nil
	}
	return i.keys[kid]
}

// ask returns a fetch to wait for: one that others have asked for, the one that is under way, or a new one, if that may be.
func (i *Issuer) ask(now time.Time) (*round, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.asked != nil:
		return i.asked, nil
	case i.running != nil:
		return i.running, nil
	case now.Sub(i.askedAt) < askEvery:
		return nil, errors.New("tokens with unknown keys have caused a fetch a moment ago")
	}
	i.askedAt, i.asked = now, &round{done: make(chan struct{})}
	select {
	case i.wake <- struct{}{}:
	default: // there is a wish already
	}
	return i.asked, nil
}

func unavailable(cause error) error {
	return errs.Wrap(cause, errs.ServiceUnavailable, "tokens of this identity provider cannot be verified now: its keys are out of reach").Retry(time.Second)
}
