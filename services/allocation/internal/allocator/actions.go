package allocator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

// giveUpAfter is how many of its time-outs a provider has to say whether it has a server, before the instance is told that it does not say so.
const giveUpAfter = 3

// do takes one action.
func (h *hold) do(ctx context.Context, action Action, at site) error {
	switch action {
	case Expire:
		h.a.Expired(h.now())
	case Place:
		return h.place(ctx, at)
	case Look:
		h.look(ctx)
	case GiveBack:
		h.giveBack(ctx)
	case Tell:
		h.tell(ctx)
	}
	return nil
}

// place asks the next candidate for a server. That it may have one is stored before it is asked; tokens are minted before that, so that a provider is
// not asked for a server which could not come to its instance.
func (h *hold) place(ctx context.Context, at site) error {
	p, ok := h.w.provider(at.provider)
	if !ok {
		h.a.ProviderLost(h.now())
		return nil
	}
	if ok, err := h.gate(ctx); !ok || err != nil {
		return err
	}
	done, resting := h.w.breakers.enter(at)
	if resting != "" {
		h.passOver(placement.Resting, resting)
		return nil
	}
	health := errNotAsked
	defer func() { done(health) }()
	if ok, err := h.take(ctx, p.Info); !ok || err != nil {
		return err
	}
	bootstrap, ok := h.bootstrap(ctx, p.Info)
	if !ok {
		h.untake(ctx)
		return nil
	}
	h.a.Placed(at.provider, at.region, giveUpAfter*p.Info.Timeout, h.now())
	if err := h.commit(ctx, Change{Keep: true}); err != nil {
		return err
	}
	health = h.ask(ctx, p, bootstrap)
	return nil
}

// take takes a slot of the provider, or passes it over.
func (h *hold) take(ctx context.Context, p ProviderInfo) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	ok, err := h.w.cfg.Slots.Take(ctx, p.Name, p.MaxServers, h.id)
	switch {
	case err != nil:
		return false, err
	case !ok:
		h.passOver(placement.Full, fmt.Sprintf("it has as many servers as it may have, %d", p.MaxServers))
		return false, nil
	}
	h.slot = p.Name
	return true, nil
}

// passOver leaves the candidate out in this round; one that was asked before, and may yet have a server, is waited for.
func (h *hold) passOver(why placement.Exclusion, message string) {
	if h.a.Provider != "" {
		h.a.Postponed(fmt.Sprintf("provider %q: %s", h.a.Provider, message), h.now())
		return
	}
	h.a.Exclude(h.a.candidate(), why, message)
}

// choose says where to ask: where a server may be already, or else at the next candidate of the round, which it begins if none is on.
func (h *hold) choose() (site, bool) {
	if h.a.Provider != "" {
		return site{h.a.Provider, h.a.Region}, true
	}
	if h.a.RoundAt.IsZero() {
		h.passed = false
		h.a.Begin(h.w.cfg.Explain(h.a.Placement.request(h.a.ID, h.a.Namespace)), h.now())
	}
	i := h.a.candidate()
	if i < 0 {
		h.a.RoundOver(h.now())
		return site{}, false
	}
	c := h.a.Explanation.Candidates[i]
	return site{c.Provider, c.Region}, true
}

// bootstrap mints the credentials for a server of the provider.
func (h *hold) bootstrap(ctx context.Context, p ProviderInfo) ([]byte, bool) {
	ctx, cancel := context.WithTimeout(ctx, h.w.cfg.ReportTimeout)
	defer cancel()
	doc, err := h.w.cfg.Credentials.Bootstrap(ctx, h.a, p)
	if err != nil {
		h.a.Postponed("no tokens for the server: "+message(err), h.now())
		return nil, false
	}
	if i := h.a.candidate(); p.MaxBootstrap > 0 && int64(len(doc)) > p.MaxBootstrap && h.a.Provider == "" && i >= 0 {
		h.a.Exclude(i, placement.Bootstrap, fmt.Sprintf("the bootstrap document has %d bytes, and it carries %d", len(doc), p.MaxBootstrap))
		return nil, false
	}
	return doc, true
}

// ask asks a provider for the server, and returns what that says about its health.
func (h *hold) ask(ctx context.Context, p Provider, bootstrap []byte) (symptoms error) {
	h.asked = &site{h.a.Provider, h.a.Region}
	ctx, cancel := context.WithTimeout(ctx, h.untilDeadline(p.Info.Timeout))
	defer cancel()
	start := time.Now()
	server, err := p.Host.Allocate(ctx, Order{
		Attempt: h.a.ID, Namespace: h.a.Namespace, InstanceID: h.a.InstanceID, Build: h.a.Placement.Build, Region: h.a.Region,
		Labels: h.a.Placement.Labels, Bootstrap: bootstrap, Traceparent: h.a.Traceparent,
	})
	took := time.Since(start)
	if err != nil {
		h.a.Refused(failureOf(err), took, h.now())
		return symptom(ctx, err, took, p.Info.Timeout)
	}
	h.a.Answered(took, h.now())
	h.a.Observed(server, p.Info.PollInterval, h.now())
	return nil
}

// untilDeadline is how long a provider may take to name a server.
func (h *hold) untilDeadline(timeout time.Duration) time.Duration {
	if h.a.Deadline.IsZero() || h.a.State > Placing {
		return timeout
	}
	return min(timeout, h.a.Deadline.Sub(h.now()))
}

func (h *hold) look(ctx context.Context) {
	p, ok := h.w.provider(h.a.Provider)
	if !ok {
		h.a.ProviderLost(h.now())
		return
	}
	ctx, cancel := context.WithTimeout(ctx, h.untilDeadline(p.Info.Timeout))
	defer cancel()
	server, err := p.Host.Get(ctx, h.a.ID, h.a.ExternalID)
	if err != nil {
		h.a.LookFailed(failureOf(err), p.Info.PollInterval, h.now())
		return
	}
	h.a.Observed(server, p.Info.PollInterval, h.now())
}

func (h *hold) giveBack(ctx context.Context) {
	p, ok := h.w.provider(h.a.Provider)
	if !ok {
		h.a.ProviderLost(h.now())
		return
	}
	callCtx, cancel := context.WithTimeout(ctx, p.Info.Timeout)
	defer cancel()
	h.w.keeper.takesBack(1)
	defer func() {
		if !h.a.Gone {
			h.w.keeper.takesBack(-1)
		}
	}()
	gone, err := p.Host.Release(callCtx, h.a.ID, h.a.ExternalID)
	if err != nil {
		h.a.GiveBackFailed(failureOf(err), h.now())
		if worthTelling(h.a.Tries) {
			h.w.cfg.Log.WarnContext(ctx, "a provider does not take a server back; trying again", keyAllocation, h.id, keyProvider, h.a.Provider, keyTries, h.a.Tries, keyError, err)
		}
		return
	}
	h.a.GivenBack(gone, p.Info.PollInterval, h.now())
}

func (h *hold) tell(ctx context.Context) {
	callCtx, cancel := context.WithTimeout(ctx, h.w.cfg.ReportTimeout)
	defer cancel()
	verdict, err := h.w.cfg.Instances.Report(callCtx, h.a)
	if err != nil {
		h.a.NotTold(h.now())
		if worthTelling(h.a.ReportTries) && ctx.Err() == nil { // a stop of ours is no news
			h.w.cfg.Log.WarnContext(ctx, "an instance cannot be told of its attempt; trying again", keyAllocation, h.id, keyInstance, h.a.InstanceID, keyTries, h.a.ReportTries, keyError, err)
		}
		return
	}
	h.a.Told(verdict, h.now())
}

// worthTelling picks the first failure in a row, and then ever fewer.
func worthTelling(tries int) bool { return tries&(tries-1) == 0 }

// message is what an error says to people, without its cause.
func message(err error) string {
	var e *errs.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}
