package providertest

import (
	"context"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

const (
	// patience is how long the suite waits for a host that does not answer.
	patience = 200 * time.Millisecond
	// late is how long a host takes that is slower than that.
	late = time.Second
	// veryLate is how long it is waited for what it does then, where the provider does not find it.
	veryLate = 10 * time.Second
	// retryAfter is when a host that throttles wants to be asked again.
	retryAfter = 7 * time.Second
)

func refusalChecks() []check {
	return []check{
		{"unknown-build", 0, unknownBuild},
		{"unknown-region", 0, unknownRegion},
		{"throttled", 1, throttled},
		{"no-capacity", 1, func(p *probe) { _ = p.refused("to have no room", provider.NoCapacity, p.cfg.Host.Exhaust) }},
		{"quota", 1, func(p *probe) { _ = p.refused("to refuse for a quota", provider.Quota, p.cfg.Host.Quota) }},
		{"wrong-credentials", 1, func(p *probe) { _ = p.refused("to refuse credentials", provider.Unauthenticated, p.cfg.Host.Refuse) }},
		{"host-away", 1, func(p *probe) { _ = p.refused("to be away", provider.Unavailable, p.cfg.Host.Down) }},
	}
}

func unknownBuild(p *probe) {
	req := p.order()
	req.Build = "no-such-build-" + random(4)
	p.invalid("of a build that Describe does not name", req)
}

func unknownRegion(p *probe) {
	if len(p.describe.GetRegions()) == 0 {
		p.skipf("Describe names no regions")
	}
	req := p.order()
	req.Region = "no-such-region-" + random(4)
	p.invalid("in a region that Describe does not name", req)
}

func (p *probe) invalid(what string, req *providerv1.AllocateRequest) {
	s, err := p.tryAllocate(p.ctx, req)
	if provider.ReasonOf(err) != provider.Invalid {
		p.failf("Allocate %s: %s (%v), %v; want INVALID", what, reason(err), err, s)
	}
	p.gone("an Allocate that was refused", req.GetAttemptId())
}

// refused has the host refuse, and checks that the provider says why, that nothing was started, and that the same attempt works when the host is well again.
func (p *probe) refused(what string, want providerv1.FailureReason, hurt func(context.Context) error) error {
	req := p.order()
	p.need(what, hurt(p.ctx))
	s, err := p.tryAllocate(p.ctx, req)
	if provider.ReasonOf(err) != want {
		p.failf("Allocate at a host that is made %s: %s (%v), %v; want %v", what, reason(err), err, s, want)
	}
	p.heal()
	if n, errHost := p.cfg.Host.Started(p.ctx, req.GetAttemptId()); errHost == nil && n != 0 {
		p.failf("Allocate failed with %s, which says that nothing was started, and the host started %d", reason(err), n)
	}
	p.gone("Allocate failed with "+reason(err), req.GetAttemptId())
	p.allocate(req)
	p.one("an Allocate that was refused and its repeat", req.GetAttemptId())
	return err
}

func throttled(p *probe) {
	err := p.refused("to throttle", provider.RateLimited, func(ctx context.Context) error { return p.cfg.Host.Throttle(ctx, retryAfter) })
	if got := provider.RetryAfterOf(err); got < retryAfter-time.Second || got > retryAfter+time.Second {
		p.failf("the host said that a repeat makes sense after %v, and the failure says %v", retryAfter, got)
	}
}

func hostChecks() []check {
	return []check{
		{"lost-reply", 1, lostReply},
		{"lost-reply-of-release", 1, lostReplyOfRelease},
		{"duplicate", 1, duplicate},
		{"late-success", 1, lateSuccess},
		{"malformed-answer", 1, malformedAnswer},
		{"slow-host", 1, slowHost},
		{"hanging-host", 1, hangingHost},
	}
}

func lostReply(p *probe) {
	req := p.order()
	p.need("to lose its reply", p.cfg.Host.LoseReply(p.ctx))
	within(p.ctx, late, func(ctx context.Context) {
		if _, err := p.tryAllocate(ctx, req); err != nil && provider.ReasonOf(err) != provider.Ambiguous {
			p.failf("Allocate whose reply is lost: %s: %v; the host did it, and the provider cannot know: AMBIGUOUS", reason(err), err)
		}
	})
	p.heal()
	var found *providerv1.Server
	if !p.nothingCame(req.GetAttemptId()) {
		found = p.get(req.GetAttemptId())
	}
	p.same("Get after a lost reply and the repeat", found, p.allocate(req))
	p.one("an Allocate whose reply was lost and its repeat", req.GetAttemptId())
}

func lostReplyOfRelease(p *probe) {
	req := p.order()
	p.allocate(req)
	p.need("to lose its reply", p.cfg.Host.LoseReply(p.ctx))
	within(p.ctx, late, func(ctx context.Context) {
		resp, err := call(ctx, p.cfg.Provider.Release, p.releaseRequest(req.GetAttemptId()))
		p.seen(ctx, "Release", err)
		if err == nil && resp.GetState() != stopping && resp.GetState() != exited {
			p.failf("Release whose reply is lost answers with state %v", resp.GetState())
		}
	})
	p.heal()
	p.release(req.GetAttemptId())
	p.gone("after a Release whose reply was lost and its repeat", req.GetAttemptId())
}

func duplicate(p *probe) {
	req := p.order()
	p.need("to get requests twice", p.cfg.Host.Duplicate(p.ctx))
	p.allocate(req)
	p.heal()
	p.one("a request that the host got twice", req.GetAttemptId())
	p.need("to get requests twice", p.cfg.Host.Duplicate(p.ctx))
	p.release(req.GetAttemptId())
}

// lateSuccess has the server come when nobody waits for the answer any more.
func lateSuccess(p *probe) {
	req := p.order()
	p.need("to be late", p.cfg.Host.Late(p.ctx, late))
	within(p.ctx, patience, func(ctx context.Context) {
		if _, err := p.tryAllocate(ctx, req); err != nil {
			p.notDefinite("Allocate that timed out", err)
		}
	})
	var found *providerv1.Server
	over := time.Now().Add(veryLate)
	p.wait("Get to find the server that came after the time-out", func() bool {
		s, err := p.tryGet(p.ctx, req.GetAttemptId())
		if err != nil && provider.ReasonOf(err) == provider.Invalid {
			p.failf("Get after a time-out: %v", err)
		}
		found = s
		return err == nil && s.GetState() != exited || err != nil && time.Now().After(over) && p.nothingCame(req.GetAttemptId())
	})
	p.heal()
	p.same("the server that came after the time-out and the repeat", found, p.allocate(req))
	p.one("a server that came after the time-out", req.GetAttemptId())
}

// nonsenses is how often the host is asked while it answers nonsense, so that it may do so in several ways.
const nonsenses = 5

func malformedAnswer(p *probe) {
	for range nonsenses {
		p.runsDespiteNonsense()
	}
	for range nonsenses {
		p.startsDespiteNonsense()
	}
}

// runsDespiteNonsense checks that no answer which makes no sense is taken for the end of a server.
func (p *probe) runsDespiteNonsense() {
	there := p.order()
	p.allocate(there)
	p.need("to answer nonsense", p.cfg.Host.Garble(p.ctx))
	if s, err := p.tryGet(p.ctx, there.GetAttemptId()); err != nil && provider.ReasonOf(err) == provider.NotFound || s.GetState() == exited {
		p.failf("Get takes an answer that makes no sense for the end of a server that runs: %v, %v", s, err)
	}
	resp, err := call(p.ctx, p.cfg.Provider.Release, p.releaseRequest(there.GetAttemptId()))
	p.seen(p.ctx, "Release", err)
	p.heal()
	if err == nil && resp.GetState() == exited {
		p.gone("Release says that the server has ended, after an answer that makes no sense", there.GetAttemptId())
	}
	p.release(there.GetAttemptId())
}

// startsDespiteNonsense checks that a server which may have been started is found again.
func (p *probe) startsDespiteNonsense() {
	req := p.order()
	p.need("to answer nonsense", p.cfg.Host.Garble(p.ctx))
	first, err := p.tryAllocate(p.ctx, req)
	p.heal()
	n, errHost := p.cfg.Host.Started(p.ctx, req.GetAttemptId())
	switch reason := provider.ReasonOf(err); {
	case err == nil, reason == provider.Ambiguous:
	case reason == provider.Unavailable && (errHost != nil || n == 0): // something on the way answered, and the provider knows that
	default:
		p.failf("Allocate whose answer makes no sense: %v: %v; the host may have done it: AMBIGUOUS", reason, err)
	}
	p.same("an Allocate whose answer made no sense and its repeat", first, p.allocate(req))
	p.one("an Allocate whose answer made no sense and its repeat", req.GetAttemptId())
	p.release(req.GetAttemptId())
}

func slowHost(p *probe) {
	req := p.order()
	p.need("to be slow", p.cfg.Host.Slow(p.ctx, late))
	if _, err := p.tryAllocate(p.ctx, req); err != nil {
		p.failf("Allocate at a host that takes %v: %s: %v", late, reason(err), err)
	}
	p.get(req.GetAttemptId())
}

// hangingHost checks that each call returns when its caller has no more time, and says nothing that it cannot know.
func hangingHost(p *probe) {
	there, req := p.order(), p.order()
	p.allocate(there)
	p.need("to hang", p.cfg.Host.Hang(p.ctx))
	within(p.ctx, patience, func(ctx context.Context) {
		if s, err := p.tryGet(ctx, there.GetAttemptId()); err != nil && provider.ReasonOf(err) == provider.NotFound || s.GetState() == exited {
			p.failf("Get at a host that hangs takes a server for gone: %v, %v", s, err)
		}
	})
	within(p.ctx, patience, func(ctx context.Context) {
		if resp, err := call(ctx, p.cfg.Provider.Release, p.releaseRequest(there.GetAttemptId())); err == nil && resp.GetState() == exited {
			p.failf("Release at a host that hangs says that the server has ended")
		} else {
			p.seen(ctx, "Release", err)
		}
	})
	within(p.ctx, patience, func(ctx context.Context) {
		_, err := call(ctx, p.cfg.Provider.List, &providerv1.ListRequest{Deployment: p.cfg.Deployment})
		p.seen(ctx, "List", err)
	})
	p.heal()
	p.release(there.GetAttemptId())
	p.need("to hang", p.cfg.Host.Hang(p.ctx))
	within(p.ctx, patience, func(ctx context.Context) {
		if _, err := p.tryAllocate(ctx, req); err != nil {
			p.notDefinite("Allocate at a host that hangs", err)
		}
	})
	p.heal()
	p.allocate(req)
	p.one("an Allocate at a host that hung and its repeat", req.GetAttemptId())
}
