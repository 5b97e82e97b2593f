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
		if !passing(err) {
			p.failf("Allocate: %s: %v", reason(err), err)
		}
		p.sleep(max(provider.RetryAfterOf(err), p.poll()), fmt.Sprintf("Allocate: %v", err))
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
	resp, err := call(ctx, p.cfg.Provider.Get, &providerv1.GetRequest{AttemptId: attempt, ExternalId: p.external(attempt), Deployment: p.cfg.Deployment})
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

// same ends the check if two answers are not about one server. An external id may be missing as long as the host has given none.
func (p *probe) same(what string, a, b *providerv1.Server) {
	if a.GetExternalId() != "" && b.GetExternalId() != "" && a.GetExternalId() != b.GetExternalId() {
		p.failf("%s: two servers for one attempt: external_id %q and %q", what, a.GetExternalId(), b.GetExternalId())
	}
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
		switch {
		case next == "":
			return servers
		case next == token:
			p.failf("List: the page of token %q names itself as the next one", token)
		case len(next) > maxToken:
			p.failf("List: next_page_token has %d bytes, and at most %d are taken", len(next), maxToken)
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
