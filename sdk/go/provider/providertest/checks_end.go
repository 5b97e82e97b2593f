package providertest

import (
	"slices"
	"strings"

	"github.com/berth-dev/berth/sdk/go/provider"
)

// cleanUp is the check that runs whatever happens.
const cleanUp = "clean-up"

func releaseChecks() []check {
	return []check{
		{"release", 1, releaseEndsTheServer},
		{"release-twice", 1, releaseTwice},
		{"release-unknown", 0, releaseUnknown},
		{"allocate-after-release", 1, allocateAfterRelease},
	}
}

func releaseEndsTheServer(p *probe) {
	p.endsByRelease("after the release", func(string) {})
	p.endsByRelease("after a release without external_id", func(attempt string) { delete(p.told, attempt) }) // as where the answer of Allocate was lost
}

func (p *probe) endsByRelease(what string, before func(attempt string)) {
	req := p.order()
	p.allocate(req)
	before(req.GetAttemptId())
	p.release(req.GetAttemptId())
	p.gone(what, req.GetAttemptId())
	p.wait("a released server to leave List", func() bool { return p.listed(req.GetAttemptId()) == 0 })
}

func releaseTwice(p *probe) {
	req := p.order()
	p.allocate(req)
	_, failures := p.releaseTogether(slices.Repeat([]string{req.GetAttemptId()}, at))
	for _, err := range failures {
		p.seen(p.ctx, "Release", err)
		if err != nil && !passing(err) {
			p.failf("the same Release, concurrently: %s: %v", reason(err), err)
		}
	}
	p.release(req.GetAttemptId())
	p.release(req.GetAttemptId()) // of a server that has ended
	p.gone("after two releases", req.GetAttemptId())
}

func releaseUnknown(p *probe) {
	p.release(uuid() + "-1")
}

// allocateAfterRelease is what a call does that was delayed on the way: the server would be nobody's.
func allocateAfterRelease(p *probe) {
	req := p.order()
	p.allocate(req)
	p.release(req.GetAttemptId())
	s, err := p.tryAllocate(p.ctx, req)
	if err == nil && s.GetState() != exited && s.GetState() != stopping {
		p.failf("an Allocate that comes after the Release of its attempt answers with a server that is %v; it starts nothing", s.GetState())
	}
	p.gone("an Allocate that comes after the Release of its attempt", req.GetAttemptId())
	if n := p.listed(req.GetAttemptId()); n != 0 {
		p.failf("an Allocate that comes after the Release of its attempt: List has %d servers of it", n)
	}
}

func listChecks() []check {
	return []check{
		{"get-unknown", 0, getUnknown},
		{"list", 1, listHasOurs},
		{"list-several", 3, listHasAll},
	}
}

func getUnknown(p *probe) {
	s, err := p.tryGet(p.ctx, uuid()+"-1")
	if provider.ReasonOf(err) != provider.NotFound {
		p.failf("Get of an attempt never heard of: %s (%v), %v; want NOT_FOUND", reason(err), err, s)
	}
}

func listHasOurs(p *probe) { p.listHas(1) }

func listHasAll(p *probe) { p.listHas(p.cfg.MaxServers) }

// listHas checks that List has exactly our servers, each once, and not for others.
func (p *probe) listHas(count int) {
	var want []string
	for range count {
		req := p.order()
		p.allocate(req)
		want = append(want, req.GetAttemptId())
	}
	slices.Sort(want)
	var got []string
	p.wait("List to have all servers", func() bool {
		got = nil
		for _, s := range p.list(p.cfg.Deployment) {
			p.sane("List", s, s.GetAttemptId())
			got = append(got, s.GetAttemptId())
		}
		slices.Sort(got)
		if repeated := len(got) - len(slices.Compact(slices.Clone(got))); repeated > 0 {
			p.failf("List has %d servers twice", repeated)
		}
		return !slices.ContainsFunc(want, func(attempt string) bool { return !slices.Contains(got, attempt) })
	})
	if !slices.Equal(got, want) {
		p.failf("List for deployment %q has servers of attempts that it did not start: %q, want %q", p.cfg.Deployment, got, want)
	}
	for _, s := range p.list(p.stranger) {
		if slices.Contains(want, s.GetAttemptId()) {
			p.failf("List for deployment %q has a server that is marked with %q", p.stranger, p.cfg.Deployment)
		}
	}
}

func endChecks() []check {
	return []check{
		{"failures-are-typed", 0, failuresAreTyped},
		{cleanUp, 0, nothingIsLeft},
	}
}

func failuresAreTyped(p *probe) {
	const few = 3
	if n := len(p.untyped); n > 0 {
		p.failf("%d failures have no ErrorInfo of domain %s with a reason, and count as AMBIGUOUS, such as: %s", n, provider.Domain, strings.Join(p.untyped[:min(n, few)], "; "))
	}
}
