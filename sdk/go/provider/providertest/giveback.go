package providertest

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// external is the external id to ask about an attempt with: the one that the provider told last, as the allocation service does. The contract says that it may be
// missing, so every second call for an attempt is without.
func (p *probe) external(attempt string) string {
	p.asked[attempt]++
	if p.asked[attempt]%2 == 0 {
		return ""
	}
	return p.told[attempt]
}

// releaseRequest makes a request that gives the attempt's server back.
func (p *probe) releaseRequest(attempt string) *providerv1.ReleaseRequest {
	return &providerv1.ReleaseRequest{AttemptId: attempt, ExternalId: p.external(attempt), Deployment: p.cfg.Deployment}
}

// release calls Release until the server has ended.
func (p *probe) release(attempt string) {
	p.wait("the end of the server of attempt "+attempt+" after its release", func() bool {
		resp, err := call(p.ctx, p.cfg.Provider.Release, p.releaseRequest(attempt))
		return p.released(resp, err)
	})
}

// released reports whether Release says that the server has ended, and ends the check if it says what cannot be.
func (p *probe) released(resp *providerv1.ReleaseResponse, err error) bool {
	p.seen(p.ctx, "Release", err)
	switch {
	case passing(err):
		return false
	case err != nil:
		p.failf("Release: %s: %v", reason(err), err)
	case resp.GetState() != stopping && resp.GetState() != exited:
		p.failf("Release answers with state %v: it is STOPPING or EXITED", resp.GetState())
	}
	return resp.GetState() == exited
}

// passing reports whether a repeat of the call makes sense.
func passing(err error) bool {
	r := provider.ReasonOf(err)
	return r == provider.RateLimited || r == provider.Unavailable || r == provider.Ambiguous
}

// releaseTogether calls Release for each of the attempts at the same time.
func (p *probe) releaseTogether(attempts []string) ([]*providerv1.ReleaseResponse, []error) {
	responses, failures := make([]*providerv1.ReleaseResponse, len(attempts)), make([]error, len(attempts))
	var all sync.WaitGroup
	for n, attempt := range attempts {
		req := p.releaseRequest(attempt)
		all.Go(func() { responses[n], failures[n] = call(p.ctx, p.cfg.Provider.Release, req) })
	}
	all.Wait()
	return responses, failures
}

// giveBack releases the servers of attempts, all at the same time, and again until all have ended or the time is over. These are real servers that cost money: neither a
// failure of one release nor one that never returns keeps the others from theirs. Those that were not seen to end are tried once more by the last check.
func (p *probe) giveBack(attempts []string) {
	going, refused := attempts, []string(nil)
	p.do(func(p *probe) {
		over := p.until(func() bool {
			var failed []string
			going, failed = p.releaseOnce(going)
			refused = append(refused, failed...)
			return len(going) == 0
		})
		if !over {
			p.failf("waited in vain for the end of servers after their release, of attempts %s", strings.Join(going, ", "))
		}
	})
	p.left = slices.Concat(p.left, going, refused)
}

// releaseOnce calls Release once for each attempt. It returns those whose servers go on, and those about which the provider says what cannot be.
func (p *probe) releaseOnce(attempts []string) (going, failed []string) {
	responses, failures := p.releaseTogether(attempts)
	for n, attempt := range attempts {
		ended, sane := false, false
		p.do(func(p *probe) { ended, sane = p.released(responses[n], failures[n]), true })
		switch {
		case !sane:
			failed = append(failed, attempt)
		case !ended:
			going = append(going, attempt)
		}
	}
	return going, failed
}

// nothingIsLeft releases what was not seen to end, and what is in List nevertheless, until that is empty. It releases only what the suite asked for: a provider that
// makes mistakes may list what is somebody else's.
func nothingIsLeft(p *probe) {
	left := p.left
	p.left = nil
	p.do((*probe).heal)
	p.giveBack(left)
	empty, there := false, []*providerv1.Server(nil)
	p.do(func(p *probe) {
		empty = p.until(func() bool {
			there = p.list(p.cfg.Deployment)
			p.giveBack(p.ours(there))
			return len(there) == 0
		})
	})
	if !empty {
		p.endByHand(there)
	}
	for _, attempt := range p.suite.attempts {
		p.gone("at the end", attempt)
	}
}

// ours returns the attempts of servers that the suite has asked for, each once.
func (p *probe) ours(servers []*providerv1.Server) []string {
	var attempts []string
	for _, s := range servers {
		if a := s.GetAttemptId(); slices.Contains(p.suite.attempts, a) && !slices.Contains(attempts, a) {
			attempts = append(attempts, a)
		}
	}
	return attempts
}

// endByHand ends the check with the servers that somebody has to look at, and with what failed before. Those that are not this run's are perhaps somebody's.
func (p *probe) endByHand(servers []*providerv1.Server) {
	var said, ours, others []string
	if p.status == Failed {
		said = append(said, p.why)
	}
	for _, s := range servers {
		name := fmt.Sprintf("%q of attempt %q", s.GetExternalId(), s.GetAttemptId())
		if slices.Contains(p.suite.attempts, s.GetAttemptId()) {
			ours = append(ours, name)
		} else {
			others = append(others, name)
		}
	}
	if len(ours) > 0 {
		said = append(said, "List still has servers of this run, which have to be ended at the host: "+strings.Join(ours, ", "))
	}
	if len(others) > 0 {
		said = append(said, "List has servers of attempts that this run did not name: "+strings.Join(others, ", "))
	}
	p.status, p.why = Failed, strings.Join(said, "; ")
	runtime.Goexit()
}
