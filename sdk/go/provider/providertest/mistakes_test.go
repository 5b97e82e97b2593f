package providertest_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/chaos"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
)

type (
	allocateFunc = func(context.Context, *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error)
	getFunc      = func(context.Context, *providerv1.GetRequest) (*providerv1.GetResponse, error)
	releaseFunc  = func(context.Context, *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error)
)

func onAllocate(f func(p *plugin, next allocateFunc) allocateFunc) func(*plugin) {
	return func(p *plugin) { p.allocate = f(p, p.allocate) }
}

func onGet(f func(p *plugin, next getFunc) getFunc) func(*plugin) {
	return func(p *plugin) { p.get = f(p, p.get) }
}

func onRelease(f func(p *plugin, next releaseFunc) releaseFunc) func(*plugin) {
	return func(p *plugin) { p.release = f(p, p.release) }
}

// describes changes what Describe says.
func describes(change func(*providerv1.DescribeResponse)) func(*plugin) {
	return func(p *plugin) {
		next := p.describe
		p.describe = func(ctx context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
			resp, err := next(ctx, req)
			if err == nil {
				change(resp)
			}
			return resp, err
		}
	}
}

// tells changes what Allocate and Get say of a server.
func tells(change func(*providerv1.Server)) func(*plugin) {
	return func(p *plugin) {
		allocate, get := p.allocate, p.get
		p.allocate = func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
			resp, err := allocate(ctx, req)
			if err == nil {
				change(resp.Server)
			}
			return resp, err
		}
		p.get = func(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
			resp, err := get(ctx, req)
			if err == nil {
				change(resp.Server)
			}
			return resp, err
		}
	}
}

// finds answers to Get only if it is asked in the right way.
func finds(right func(*providerv1.GetRequest) bool) func(*plugin) {
	return onGet(func(_ *plugin, next getFunc) getFunc {
		return func(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
			if !right(req) {
				return nil, provider.Failure(provider.NotFound, "no such server")
			}
			return next(ctx, req)
		}
	})
}

// releases does so only if it is asked in the right way. If it is not, there is nothing to release.
func releases(right func(*providerv1.ReleaseRequest) bool) func(*plugin) {
	return onRelease(func(_ *plugin, next releaseFunc) releaseFunc {
		return func(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
			if !right(req) {
				return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, nil
			}
			return next(ctx, req)
		}
	})
}

// relabel answers with another reason where there was one.
func relabel(from, to providerv1.FailureReason) func(*plugin) {
	return onAllocate(func(_ *plugin, next allocateFunc) allocateFunc {
		return func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
			resp, err := next(ctx, req)
			if provider.ReasonOf(err) == from && err != nil {
				err = provider.RetryAfter(provider.Failure(to, "%v", err), provider.RetryAfterOf(err))
			}
			return resp, err
		}
	})
}

// fails has Get say of some servers that they were refused after all.
func fails(reason providerv1.FailureReason, which func(*providerv1.Server) bool) func(*plugin, getFunc) getFunc {
	return func(_ *plugin, next getFunc) getFunc {
		return func(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
			resp, err := next(ctx, req)
			if err == nil && which(resp.GetServer()) {
				resp.Server.Failure = reason
			}
			return resp, err
		}
	}
}

// mistakes are plugins with one mistake each, and the checks that have to find it.
func mistakes() map[string]struct {
	make   func(*plugin)
	checks []string
} {
	return map[string]struct {
		make   func(*plugin)
		checks []string
	}{
		"speaks every contract": {func(p *plugin) {
			next := p.describe
			p.describe = func(ctx context.Context, _ *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
				return next(ctx, &providerv1.DescribeRequest{ContractMin: 1, ContractMax: 1})
			}
		}, []string{"describe-other-contract"}},
		"speaks with nobody who is newer": {func(p *plugin) {
			next := p.describe
			p.describe = func(ctx context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
				if req.GetContractMax() != 1 {
					return nil, provider.Failure(provider.Invalid, "this speaks version 1")
				}
				return next(ctx, req)
			}
		}, []string{"describe-other-contract"}},
		"has no kind":                      {describes(func(d *providerv1.DescribeResponse) { d.Kind = "" }), []string{"describe"}},
		"has a build with an endless name": {describes(func(d *providerv1.DescribeResponse) { d.Builds = append(d.Builds, strings.Repeat("b", 129)) }), []string{"describe"}},
		"has a region for each street": {describes(func(d *providerv1.DescribeResponse) {
			d.Regions = append(d.Regions, slices.Repeat([]string{"r"}, 1000)...)
		}), []string{"describe"}},
		"names endpoints for people": {tells(func(s *providerv1.Server) {
			s.Endpoints = []*typev1.Endpoint{{Name: "Game port", Host: "10.0.0.5", Port: 7777}}
		}), []string{"allocate"}},
		"has two endpoints of one name": {tells(func(s *providerv1.Server) {
			s.Endpoints = []*typev1.Endpoint{{Name: "game", Host: "10.0.0.5", Port: 7777}, {Name: "game", Host: "10.0.0.5", Port: 7778}}
		}), []string{"allocate"}},
		"has an external id that is a document": {tells(func(s *providerv1.Server) { s.ExternalId = strings.Repeat("x", 513) }), []string{"allocate"}},
		"finds nothing by the external id that it gave": {finds(func(req *providerv1.GetRequest) bool {
			return req.GetExternalId() == ""
		}), []string{"allocate"}},
		"finds nothing without the external id": {finds(func(req *providerv1.GetRequest) bool {
			return req.GetExternalId() != ""
		}), []string{"allocate"}},
		"releases nothing by the external id that it gave": {releases(func(req *providerv1.ReleaseRequest) bool {
			return req.GetExternalId() == ""
		}), []string{"release"}},
		"releases nothing without the external id": {releases(func(req *providerv1.ReleaseRequest) bool {
			return req.GetExternalId() != ""
		}), []string{"release"}},
		"does not say how far a release is": {onRelease(func(_ *plugin, next releaseFunc) releaseFunc {
			return func(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
				_, err := next(ctx, req)
				return new(providerv1.ReleaseResponse), err
			}
		}), []string{"release", "release-twice", "list-several"}},
		"starts a server for each call": {onAllocate(func(_ *plugin, next allocateFunc) allocateFunc {
			var calls atomic.Int32
			return func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
				resp, err := next(ctx, renamed(req, calls.Add(1)))
				return as(req.GetAttemptId(), resp, err)
			}
		}), []string{"allocate-twice", "allocate-concurrently", "time-out", "clean-up"}},
		"is sure that a cancelled call did nothing": {onAllocate(func(_ *plugin, next allocateFunc) allocateFunc {
			return func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
				resp, cancelled, err := insist(ctx, next, req)
				if cancelled {
					return nil, provider.Failure(provider.NoCapacity, "the caller went away")
				}
				return resp, err
			}
		}), []string{"cancel-in-flight"}},
		"forgets the server of a cancelled call": {onAllocate(func(_ *plugin, next allocateFunc) allocateFunc {
			var forgotten sync.Map
			return func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
				if _, again := forgotten.Load(req.GetAttemptId()); again {
					resp, err := next(ctx, renamed(req, 0))
					return as(req.GetAttemptId(), resp, err)
				}
				resp, cancelled, err := insist(ctx, next, req)
				if cancelled {
					forgotten.Store(req.GetAttemptId(), true)
					return nil, provider.Failure(provider.Ambiguous, "the caller went away")
				}
				return resp, err
			}
		}), []string{"cancel-in-flight", "clean-up"}},
		"has one server for all": {onAllocate(func(_ *plugin, next allocateFunc) allocateFunc {
			return func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
				resp, err := next(ctx, req)
				if err == nil {
					resp.Server.ExternalId = "the one"
				}
				return resp, err
			}
		}), []string{"allocate-two"}},
		"starts two servers for a request that came twice": {onAllocate(func(p *plugin, next allocateFunc) allocateFunc {
			return func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
				if p.host.twice.Load() {
					script := p.host.Base
					script.Allocate = []chaos.Step{{Duplicate: true}}
					_ = p.host.Set(script)
				}
				return next(ctx, req)
			}
		}), []string{"duplicate"}},
		"takes nonsense for the end":   {func(p *plugin) { p.host.sense = provider.NotFound }, []string{"malformed-answer"}},
		"takes nonsense for a release": {func(p *plugin) { p.host.believes = true }, []string{"malformed-answer"}},
		"has less patience than its caller": {onAllocate(func(_ *plugin, next allocateFunc) allocateFunc {
			return func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
				ctx, cancel := context.WithTimeout(ctx, moment)
				defer cancel()
				return next(ctx, req)
			}
		}), []string{"slow-host"}},
		"releases nothing whose release it did not see": {onRelease(func(_ *plugin, next releaseFunc) releaseFunc {
			var missed sync.Map
			return func(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
				if _, again := missed.Load(req.GetAttemptId()); again {
					return nil, provider.Failure(provider.NotFound, "no such server")
				}
				resp, err := next(ctx, req)
				if err != nil {
					missed.Store(req.GetAttemptId(), true)
				}
				return resp, err
			}
		}), []string{"lost-reply-of-release"}},
		"answers for another attempt": {onAllocate(func(_ *plugin, next allocateFunc) allocateFunc {
			return func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
				resp, err := next(ctx, req)
				return as("another", resp, err)
			}
		}), []string{"allocate"}},
		"answers without a server": {onAllocate(func(_ *plugin, next allocateFunc) allocateFunc {
			return func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
				_, err := next(ctx, req)
				return new(providerv1.AllocateResponse), err
			}
		}), []string{"allocate"}},
		"starts servers of released attempts": {onAllocate(func(_ *plugin, next allocateFunc) allocateFunc {
			return func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
				resp, err := next(ctx, req)
				if err != nil && strings.Contains(err.Error(), "released before") {
					return &providerv1.AllocateResponse{Server: &providerv1.Server{AttemptId: req.GetAttemptId(), State: providerv1.ServerState_SERVER_STATE_RUNNING}}, nil
				}
				return resp, err
			}
		}), []string{"allocate-after-release"}},
		"takes every build": {onAllocate(func(_ *plugin, next allocateFunc) allocateFunc {
			return func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
				req.Build, req.Region = "chaos", "local"
				return next(ctx, req)
			}
		}), []string{"unknown-build", "unknown-region"}},
		"changes the bootstrap": {onAllocate(func(_ *plugin, next allocateFunc) allocateFunc {
			return func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
				changed := renamed(req, 0)
				changed.AttemptId, changed.Bootstrap = req.GetAttemptId(), []byte(strings.ReplaceAll(string(req.GetBootstrap()), "$HOME", "/root"))
				return next(ctx, changed)
			}
		}), []string{"bootstrap"}},
		"does not say when to try again": {func(p *plugin) {
			relabel(provider.RateLimited, provider.RateLimited)(p)
			next := p.allocate
			p.allocate = func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
				resp, err := next(ctx, req)
				if provider.ReasonOf(err) == provider.RateLimited {
					err = provider.Failure(provider.RateLimited, "slow down")
				}
				return resp, err
			}
		}, []string{"throttled"}},
		"calls a quota no room":         {relabel(provider.Quota, provider.NoCapacity), []string{"quota"}},
		"calls no room a quota":         {relabel(provider.NoCapacity, provider.Quota), []string{"no-capacity"}},
		"hides wrong credentials":       {relabel(provider.Unauthenticated, provider.Unavailable), []string{"wrong-credentials"}},
		"calls an absent host invalid":  {relabel(provider.Unavailable, provider.Invalid), []string{"host-away"}},
		"is too sure of what it missed": {relabel(provider.Ambiguous, provider.NoCapacity), []string{"lost-reply", "late-success", "hanging-host"}},
		"fails without a reason": {onGet(func(_ *plugin, next getFunc) getFunc {
			return func(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
				resp, err := next(ctx, req)
				if err != nil {
					err = untyped()
				}
				return resp, err
			}
		}), []string{"failures-are-typed", "get-unknown"}},
		"takes an error for the end": {onGet(func(_ *plugin, next getFunc) getFunc {
			return func(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
				resp, err := next(ctx, req)
				if err != nil {
					err = provider.Failure(provider.NotFound, "%v", err)
				}
				return resp, err
			}
		}), []string{"hanging-host"}},
		"says why a server was refused that runs": {onGet(fails(provider.NoCapacity, func(s *providerv1.Server) bool {
			return s.GetState() == providerv1.ServerState_SERVER_STATE_RUNNING
		})), []string{"allocate"}},
		"does not know whether a server that has ended was refused": {onGet(fails(provider.Ambiguous, func(s *providerv1.Server) bool {
			return s.GetState() == providerv1.ServerState_SERVER_STATE_EXITED
		})), []string{"release"}},
		"releases nothing": {onRelease(func(*plugin, releaseFunc) releaseFunc {
			return func(context.Context, *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
				return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, nil
			}
		}), []string{"release", "release-twice", "clean-up"}},
		"releases once only": {onRelease(func(p *plugin, next releaseFunc) releaseFunc {
			return func(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
				got, err := p.get(ctx, &providerv1.GetRequest{AttemptId: req.GetAttemptId()})
				if err != nil || got.GetServer().GetState() == providerv1.ServerState_SERVER_STATE_EXITED {
					return nil, provider.Failure(provider.NotFound, "no such server")
				}
				return next(ctx, req)
			}
		}), []string{"release", "release-unknown", "release-twice"}},
		"lists the first page only": {func(p *plugin) {
			next := p.list
			p.list = func(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
				resp, err := next(ctx, req)
				if err == nil {
					resp.NextPageToken = ""
				}
				return resp, err
			}
		}, []string{"list-several"}},
		"lists a page for ever": {func(p *plugin) {
			next := p.list
			p.list = func(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
				resp, err := next(ctx, &providerv1.ListRequest{Deployment: req.GetDeployment()})
				return resp, err
			}
		}, []string{"list-several"}},
		"lists for everybody": {func(p *plugin) {
			next, ours := p.list, ""
			p.list = func(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
				if strings.HasPrefix(req.GetDeployment(), "verify-") {
					ours = req.GetDeployment()
				}
				return next(ctx, &providerv1.ListRequest{Deployment: ours, PageToken: req.GetPageToken()})
			}
		}, []string{"list"}},
		"starts a server more for a request that came twice": {onAllocate(func(p *plugin, next allocateFunc) allocateFunc {
			return func(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
				resp, err := next(ctx, req)
				if p.host.twice.Load() {
					_, _ = next(ctx, renamed(req, 1)) // a server that nobody knows
				}
				return resp, err
			}
		}), []string{"clean-up"}},
		"does not heed the end of its context": {onGet(func(p *plugin, next getFunc) getFunc {
			return func(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
				resp, err := next(ctx, req)
				if ctx.Err() != nil {
					<-p.over
				}
				return resp, err
			}
		}), []string{"hanging-host"}},
		"panics": {onGet(func(*plugin, getFunc) getFunc {
			return func(context.Context, *providerv1.GetRequest) (*providerv1.GetResponse, error) { panic("no host") }
		}), []string{"get-unknown"}},
	}
}

// leaky are the mistakes by which servers stay that nobody can give back: they are released by nothing, or nobody knows of what attempt they are.
func leaky() []string {
	return []string{
		"releases nothing", "starts a server for each call", "forgets the server of a cancelled call", "starts a server more for a request that came twice",
	}
}

// Each mistake is found by the checks that are about it. Whatever it is, what can be given back is.
func TestEveryMistakeIsFound(t *testing.T) {
	for name, mistake := range mistakes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlugin()
			t.Cleanup(p.Close)
			mistake.make(p)
			report, err := providertest.Verify(t.Context(), providertest.Config{Provider: p, Host: p.host, Limit: 5 * time.Second, Checks: append([]string{"duplicate"}, mistake.checks...)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			var failed []string
			for _, r := range report {
				if r.Status == providertest.Failed {
					failed = append(failed, r.Name)
				}
			}
			for _, check := range mistake.checks {
				if !slices.Contains(failed, check) {
					t.Errorf("%s does not find it; these do: %q", check, failed)
				}
			}
			if alive := p.Stats().Alive; (alive > 0) != slices.Contains(leaky(), name) {
				t.Errorf("at the end %d servers run: %v", alive, report)
			}
		})
	}
}
