package providertest

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"sync"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// describeFirst is the check without which no other runs.
const describeFirst = "describe"

// at is how many calls come at the same time where that is the point.
const at = 8

func describeChecks() []check {
	return []check{
		{describeFirst, 0, describeIsSane},
		{"describe-other-contract", 0, describeRefusesOtherContracts},
	}
}

func describeIsSane(p *probe) {
	d, err := call(p.ctx, p.cfg.Provider.Describe, &providerv1.DescribeRequest{ContractMin: provider.Contract, ContractMax: provider.Contract})
	p.seen(p.ctx, "Describe", err)
	if err != nil {
		p.failf("Describe: %s: %v", reason(err), err)
	}
	if err := p.checkDescription(d); err != nil {
		p.failf("%v", err)
	}
}

// describeRefusesOtherContracts asks as a caller of a far future, and then as one that speaks the old versions, too.
func describeRefusesOtherContracts(p *probe) {
	const far = 1_000_000
	d, err := call(p.ctx, p.cfg.Provider.Describe, &providerv1.DescribeRequest{ContractMin: far, ContractMax: far})
	p.seen(p.ctx, "Describe", err)
	if provider.ReasonOf(err) != provider.Invalid {
		p.failf("Describe for a caller that speaks version %d of the contract alone: %s (%v), contract %d; want INVALID", far, reason(err), err, d.GetContract())
	}
	d, err = call(p.ctx, p.cfg.Provider.Describe, &providerv1.DescribeRequest{ContractMin: provider.Contract, ContractMax: far})
	p.seen(p.ctx, "Describe", err)
	if err != nil || max(1, d.GetContract()) != provider.Contract {
		p.failf("Describe for a caller that speaks versions %d to %d of the contract: %s (%v), contract %d; want %d", provider.Contract, far, reason(err), err, d.GetContract(), provider.Contract)
	}
}

func allocateChecks() []check {
	return []check{
		{"allocate", 1, allocateGivesAServer},
		{"allocate-twice", 1, allocateTwice},
		{"allocate-concurrently", 1, allocateConcurrently},
		{"allocate-two", 2, allocateTwo},
		{"time-out", 1, timeOut},
		{"cancel-in-flight", 1, cancelInFlight},
		{"bootstrap", 1, bootstrapIsIntact},
	}
}

func allocateGivesAServer(p *probe) {
	req := p.order()
	s := p.allocate(req)
	if s.GetState() != starting && s.GetState() != running {
		p.failf("Allocate answers with a server that is %v: %s", s.GetState(), s.GetMessage())
	}
	if p.cfg.Region != "" && s.GetRegion() != "" && s.GetRegion() != p.cfg.Region {
		p.failf("Allocate answers with a server in region %q, asked for %q", s.GetRegion(), p.cfg.Region)
	}
	p.wait("the server to run", func() bool {
		again := p.get(req.GetAttemptId())
		p.same("Get", s, again)
		if again.GetState() != starting && again.GetState() != running {
			p.failf("Get says that the server is %v: %s", again.GetState(), again.GetMessage())
		}
		return again.GetState() == running
	})
	for range 2 { // of which one is with the external id and one without
		p.same("Get", s, p.get(req.GetAttemptId()))
	}
}

func allocateTwice(p *probe) {
	req := p.order()
	first, second := p.allocate(req), p.allocate(req)
	p.same("the same Allocate twice", first, second)
	p.same("Get after the same Allocate twice", second, p.get(req.GetAttemptId()))
	p.one("the same Allocate twice", req.GetAttemptId())
}

func allocateConcurrently(p *probe) {
	req := p.order()
	responses, failures := make([]*providerv1.AllocateResponse, at), make([]error, at)
	var all sync.WaitGroup
	for n := range at {
		all.Go(func() { responses[n], failures[n] = call(p.ctx, p.cfg.Provider.Allocate, req) })
	}
	all.Wait()
	server := p.allocate(req)
	for n := range at {
		p.seen(p.ctx, "Allocate", failures[n])
		switch {
		case failures[n] == nil:
			p.sane("Allocate", responses[n].GetServer(), req.GetAttemptId())
			p.same("the same Allocate, concurrently", server, responses[n].GetServer())
		case !passing(failures[n]):
			p.failf("the same Allocate, concurrently: %s: %v", reason(failures[n]), failures[n])
		}
	}
	p.one("the same Allocate, concurrently", req.GetAttemptId())
}

func allocateTwo(p *probe) {
	a, b := p.order(), p.order()
	first, second := p.allocate(a), p.allocate(b)
	pooled := first.GetServerId() != "" // a server that was there before, with room for several
	if !pooled && first.GetExternalId() != "" && first.GetExternalId() == second.GetExternalId() {
		p.failf("two attempts have one server: external_id %q", first.GetExternalId())
	}
	p.release(a.GetAttemptId())
	if s := p.get(b.GetAttemptId()); s.GetState() != starting && s.GetState() != running {
		p.failf("the release of one server made another one %v", s.GetState())
	}
}

// timeOut gives up ever later, so that some call is cut off before the host was asked, some while it was at it, some when the server was there.
func timeOut(p *probe) {
	for _, patience := range []time.Duration{0, time.Microsecond, time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond} {
		req := p.order()
		within(p.ctx, patience, func(ctx context.Context) { p.cutOff(ctx, req) })
	}
}

func cancelInFlight(p *probe) {
	for _, patience := range []time.Duration{0, time.Millisecond, 50 * time.Millisecond} {
		req := p.order()
		ctx, cancel := context.WithCancel(p.ctx)
		timer := time.AfterFunc(patience, cancel)
		p.cutOff(ctx, req)
		timer.Stop()
		cancel()
	}
}

// cutOff calls Allocate with a context that ends soon, and checks that a repeat gets what that call started, if it did.
func (p *probe) cutOff(ctx context.Context, req *providerv1.AllocateRequest) {
	first, err := p.tryAllocate(ctx, req)
	if err != nil {
		p.notDefinite("Allocate that was cut off", err)
	}
	found, err := p.tryGet(p.ctx, req.GetAttemptId()) //nolint:contextcheck // the other one has ended
	if err != nil && provider.ReasonOf(err) != provider.NotFound {
		p.failf("Get after an Allocate that was cut off: %s: %v", reason(err), err)
	}
	if err != nil && first != nil {
		p.failf("Get does not find what Allocate answered with: %v", err)
	}
	repeated := p.allocate(req)
	p.same("an Allocate that was cut off and the repeat", first, repeated)
	p.same("Get after an Allocate that was cut off and the repeat", found, repeated)
	p.one("an Allocate that was cut off and its repeat", req.GetAttemptId())
	p.release(req.GetAttemptId())
}

// notDefinite ends the check if a failure says something for certain that nobody can know: the call was cut off, or its answer makes no sense.
func (p *probe) notDefinite(what string, err error) {
	switch provider.ReasonOf(err) {
	case provider.Ambiguous, provider.Unavailable: // the latter says that it was not even sent
	default:
		p.failf("%s: %s: %v; what the host did is not known: AMBIGUOUS, or UNAVAILABLE if it was not asked", what, reason(err), err)
	}
}

func bootstrapIsIntact(p *probe) {
	req := p.order()
	p.allocate(req)
	got, err := p.cfg.Host.Bootstrap(p.ctx, req.GetAttemptId())
	p.need("to say which bootstrap a server got", err)
	if !intact(req.GetBootstrap(), got) {
		p.failf("the server got another document of %d bytes than the %d that it was to get; only its member endpoints may change", len(got), len(req.GetBootstrap()))
	}
}

// intact reports whether a document arrived, byte by byte, but for the endpoints, which a provider fills in. Filling them in may write the rest in another way.
func intact(sent, got []byte) bool {
	if bytes.Equal(sent, got) {
		return true
	}
	var before, after map[string]any
	if json.Unmarshal(sent, &before) != nil || json.Unmarshal(got, &after) != nil {
		return false
	}
	if _, filled := after["endpoints"]; !filled {
		return false
	}
	delete(before, "endpoints")
	delete(after, "endpoints")
	return reflect.DeepEqual(before, after)
}
