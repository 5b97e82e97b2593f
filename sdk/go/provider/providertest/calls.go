package providertest

import (
	"context"
	"fmt"
	"slices"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

const (
	starting = providerv1.ServerState_SERVER_STATE_STARTING
	running  = providerv1.ServerState_SERVER_STATE_RUNNING
	stopping = providerv1.ServerState_SERVER_STATE_STOPPING
	exited   = providerv1.ServerState_SERVER_STATE_EXITED
)

// maxPages is how many pages of List the suite reads before it takes them for endless.
const maxPages = 10_000

// order makes a request for a server that nobody asked for before. What comes of it is given back when the check is over.
func (p *probe) order() *providerv1.AllocateRequest {
	instance := uuid()
	attempt := instance + "-1"
	p.attempts = append(p.attempts, attempt)
	p.suite.attempts = append(p.suite.attempts, attempt)
	return &providerv1.AllocateRequest{
		AttemptId: attempt, Namespace: "default", InstanceId: instance, Build: p.cfg.Build, Region: p.cfg.Region, Deployment: p.cfg.Deployment,
		Labels: map[string]string{"suite": "providertest"}, Bootstrap: p.cfg.Bootstrap(attempt, instance),
	}
}

// tryAllocate calls Allocate. What it answers has to be a server.
func (p *probe) tryAllocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.Server, error) {
	resp, err := call(ctx, p.cfg.Provider.Allocate, req)
	p.seen(ctx, "Allocate", err)
	if err != nil {
		return nil, err
	}
	p.sane("Allocate", resp.GetServer(), req.GetAttemptId())
	return resp.GetServer(), nil
}

// allocate calls Allocate until there is a server, as the allocation service does with a host that is short of breath.
func (p *probe) allocate(req *providerv1.AllocateRequest) *providerv1.Server {
	for {
		s, err := p.tryAllocate(p.ctx, req)
		if err == nil {
			return s
		}
		switch provider.ReasonOf(err) {
		case provider.RateLimited, provider.Unavailable, provider.Ambiguous:
			p.sleep(max(provider.RetryAfterOf(err), p.poll()), fmt.Sprintf("Allocate: %v", err))
		default:
			p.failf("Allocate: %s: %v", reason(err), err)
		}
	}
}

func (p *probe) sleep(d time.Duration, why string) {
	select {
	case <-time.After(d):
	case <-p.ctx.Done():
		p.failf("%s", why)
	}
}

// tryGet calls Get.
func (p *probe) tryGet(ctx context.Context, attempt string) (*providerv1.Server, error) {
	resp, err := call(ctx, p.cfg.Provider.Get, &providerv1.GetRequest{AttemptId: attempt, Deployment: p.cfg.Deployment})
	p.seen(ctx, "Get", err)
	if err != nil {
		return nil, err
	}
	p.sane("Get", resp.GetServer(), attempt)
	return resp.GetServer(), nil
}

// get calls Get for a server that is there.
func (p *probe) get(attempt string) *providerv1.Server {
	s, err := p.tryGet(p.ctx, attempt)
	if err != nil {
		p.failf("Get of a server that is there: %s: %v", reason(err), err)
	}
	return s
}

// sane ends the check if an answer cannot be one for the attempt.
func (p *probe) sane(method string, s *providerv1.Server, attempt string) {
	switch {
	case s == nil:
		p.failf("%s answers without a server, and without a failure", method)
	case s.GetAttemptId() != attempt:
		p.failf("%s answers for attempt %q, asked about %q", method, s.GetAttemptId(), attempt)
	case s.GetState() < starting || s.GetState() > exited:
		p.failf("%s answers with state %v", method, s.GetState())
	case s.GetFailure() != 0 && s.GetState() != exited:
		p.failf("%s answers with the failure %v of a server that is %v: only one that has EXITED was refused after all", method, s.GetFailure(), s.GetState())
	case s.GetFailure() == provider.Ambiguous || s.GetFailure() == provider.NotFound:
		p.failf("%s answers with the failure %v of a server that has ended: that is no reason for which one is refused", method, s.GetFailure())
	}
	for _, e := range s.GetEndpoints() {
		if e.GetHost() == "" || e.GetPort() == 0 || e.GetPort() > 65535 {
			p.failf("%s answers with an endpoint that players cannot go to: %v", method, e)
		}
	}
}

// same ends the check if two answers are not about one server. An external id may be missing as long as the host has given none.
func (p *probe) same(what string, a, b *providerv1.Server) {
	if a.GetExternalId() != "" && b.GetExternalId() != "" && a.GetExternalId() != b.GetExternalId() {
		p.failf("%s: two servers for one attempt: external_id %q and %q", what, a.GetExternalId(), b.GetExternalId())
	}
}

// release calls Release until the server has ended.
func (p *probe) release(attempt string) {
	p.wait("the end of the server of attempt "+attempt+" after its release", func() bool {
		resp, err := call(p.ctx, p.cfg.Provider.Release, &providerv1.ReleaseRequest{AttemptId: attempt, Deployment: p.cfg.Deployment})
		p.seen(p.ctx, "Release", err)
		switch {
		case err != nil && (provider.ReasonOf(err) == provider.RateLimited || provider.ReasonOf(err) == provider.Unavailable || provider.ReasonOf(err) == provider.Ambiguous):
			return false
		case err != nil:
			p.failf("Release: %s: %v", reason(err), err)
		case resp.GetState() != stopping && resp.GetState() != exited:
			p.failf("Release answers with state %v: it is STOPPING or EXITED", resp.GetState())
		}
		return resp.GetState() == exited
	})
}

// gone ends the check unless no server runs for the attempt.
func (p *probe) gone(what, attempt string) {
	s, err := p.tryGet(p.ctx, attempt)
	switch {
	case err == nil && s.GetState() != exited && s.GetState() != stopping:
		p.failf("%s: Get says that its server is %v", what, s.GetState())
	case err != nil && provider.ReasonOf(err) != provider.NotFound:
		p.failf("%s: Get: %s: %v", what, reason(err), err)
	}
}

// list reads all pages.
func (p *probe) list(deployment string) []*providerv1.Server {
	var servers []*providerv1.Server
	token := ""
	for range maxPages {
		resp, err := call(p.ctx, p.cfg.Provider.List, &providerv1.ListRequest{PageToken: token, Deployment: deployment})
		p.seen(p.ctx, "List", err)
		if err != nil {
			p.failf("List: %s: %v", reason(err), err)
		}
		servers = append(servers, resp.GetServers()...)
		next := resp.GetNextPageToken()
		switch next {
		case "":
			return servers
		case token:
			p.failf("List: the page of token %q names itself as the next one", token)
		}
		token = next
	}
	p.failf("List does not come to an end: %d pages", maxPages)
	return nil
}

// listed returns how often the attempt's server is in the list of our deployment.
func (p *probe) listed(attempt string) int {
	servers := p.list(p.cfg.Deployment)
	return len(slices.DeleteFunc(servers, func(s *providerv1.Server) bool { return s.GetAttemptId() != attempt }))
}

// nothingCame reports whether an attempt whose Allocate was cut off surely has no server: neither the provider nor its host knows of one. At some hosts a server takes
// several calls, and is none before the last. The repeat makes it whole.
func (p *probe) nothingCame(attempt string) bool {
	if n, err := p.cfg.Host.Started(p.ctx, attempt); err != nil || n != 0 {
		return false
	}
	_, err := p.tryGet(p.ctx, attempt)
	return provider.ReasonOf(err) == provider.NotFound
}

// one ends the check unless exactly one server was started for the attempt, as far as anybody can see.
func (p *probe) one(what string, attempt string) {
	if n, err := p.cfg.Host.Started(p.ctx, attempt); err == nil && n != 1 {
		p.failf("%s: the host started %d servers for one attempt", what, n)
	}
	p.wait(what+": one server of the attempt in List", func() bool {
		n := p.listed(attempt)
		if n > 1 {
			p.failf("%s: List has %d servers of one attempt", what, n)
		}
		return n == 1
	})
}
