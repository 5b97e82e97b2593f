package host_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/durationpb"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/host"
)

// stub answers every call with what it has.
type stub struct {
	provider.Provider
	server *providerv1.Server
	err    error
	poll   *durationpb.Duration
	listed *providerv1.ListResponse
}

func (s *stub) List(context.Context, *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	return s.listed, s.err
}

func (s *stub) Describe(context.Context, *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return &providerv1.DescribeResponse{Kind: "stub", Builds: []string{"demo"}, Regions: []string{"eu"}, PollInterval: s.poll, MaxBootstrapBytes: 7}, nil
}

func (s *stub) Get(context.Context, *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	return &providerv1.GetResponse{Server: s.server}, s.err
}

func open(t *testing.T, s *stub) allocator.Provider {
	t.Helper()
	m, err := host.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	p, err := host.Open(t.Context(), host.Config{Name: "name", Provider: s, Metrics: m})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// marked notes which deployment each call names.
type marked struct {
	provider.Provider
	deployments []string
}

func (m *marked) Describe(context.Context, *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return &providerv1.DescribeResponse{Kind: "stub", Builds: []string{"demo"}}, nil
}

func (m *marked) Allocate(_ context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	m.deployments = append(m.deployments, req.GetDeployment())
	return nil, errors.New("no")
}

func (m *marked) Get(_ context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	m.deployments = append(m.deployments, req.GetDeployment())
	return nil, errors.New("no")
}

func (m *marked) Release(_ context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	m.deployments = append(m.deployments, req.GetDeployment())
	return nil, errors.New("no")
}

func (m *marked) List(_ context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	m.deployments = append(m.deployments, req.GetDeployment())
	return nil, errors.New("no")
}

// A host whose servers' names have the mark finds none by a call without it.
func TestEveryCallNamesTheDeployment(t *testing.T) {
	metrics, err := host.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	m := new(marked)
	p, err := host.Open(t.Context(), host.Config{Name: "name", Deployment: "live", Provider: m, Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	h := p.Host.(*host.Host)
	_, _ = h.Allocate(t.Context(), allocator.Order{})
	_, _ = h.Get(t.Context(), "a", "")
	_, _ = h.Release(t.Context(), "a", "")
	_, _ = h.List(t.Context(), "")
	if got := strings.Join(m.deployments, " "); got != "live live live live" {
		t.Errorf("the calls name %q", got)
	}
}

func TestInfo(t *testing.T) {
	for want, poll := range map[time.Duration]*durationpb.Duration{
		time.Second: nil, 10 * time.Millisecond: durationpb.New(0), 3 * time.Second: durationpb.New(3 * time.Second),
	} {
		info := open(t, &stub{poll: poll}).Info
		if info.Name != "name" || info.Kind != "stub" || info.PollInterval != want || info.MaxBootstrap != 7 || info.Builds[0] != "demo" || info.Regions[0] != "eu" {
			t.Errorf("%v: %+v", poll, info)
		}
	}
}

func TestFailuresKeepTheirMeaning(t *testing.T) {
	for _, test := range []struct {
		err  error
		want allocator.Failure
	}{
		{provider.Failure(provider.NoCapacity, "full"), allocator.Failure{Kind: allocator.NoCapacity, Message: "full"}},
		{provider.Failure(provider.Quota, "pay"), allocator.Failure{Kind: allocator.Quota, Message: "pay"}},
		{provider.RetryAfter(provider.Failure(provider.RateLimited, "slow"), time.Minute), allocator.Failure{Kind: allocator.RateLimited, Message: "slow", RetryAfter: time.Minute}},
		{provider.Failure(provider.Unavailable, "away"), allocator.Failure{Kind: allocator.Unavailable, Message: "away"}},
		{provider.Failure(provider.Invalid, "no"), allocator.Failure{Kind: allocator.Invalid, Message: "no"}},
		{provider.Failure(provider.Unauthenticated, "who"), allocator.Failure{Kind: allocator.Unauthenticated, Message: "who"}},
		{provider.Failure(provider.NotFound, "none"), allocator.Failure{Kind: allocator.NotFound, Message: "none"}},
		{provider.Failure(provider.Ambiguous, "hm"), allocator.Failure{Kind: allocator.Ambiguous, Message: "hm"}},
		{errors.New("boom"), allocator.Failure{Kind: allocator.Ambiguous, Message: "boom"}},
		{context.DeadlineExceeded, allocator.Failure{Kind: allocator.Ambiguous, Message: "no answer in time"}},
	} {
		_, err := open(t, &stub{err: test.err}).Host.Get(t.Context(), "a", "x")
		var got *allocator.Failure
		if !errors.As(err, &got) || *got != test.want {
			t.Errorf("%v: %+v, want %+v", test.err, got, test.want)
		}
	}
}

// What a provider says is checked before an instance is told of it, which would refuse it for ever.
func TestAnswersThatCannotBeAreAmbiguous(t *testing.T) {
	running := providerv1.ServerState_SERVER_STATE_RUNNING
	good := &typev1.Endpoint{Name: "game", Host: "h", Port: 1}
	for name, s := range map[string]*providerv1.Server{
		"nothing":                 nil,
		"no state":                {Endpoints: []*typev1.Endpoint{good}},
		"no port":                 {State: running, Endpoints: []*typev1.Endpoint{{Name: "game", Host: "h"}}},
		"no host":                 {State: running, Endpoints: []*typev1.Endpoint{{Name: "game", Port: 1}}},
		"a failure while it runs": {State: running, Failure: provider.NoCapacity},
		"an unclear failure":      {State: providerv1.ServerState_SERVER_STATE_EXITED, Failure: provider.Ambiguous},
		"a failure to find it":    {State: providerv1.ServerState_SERVER_STATE_EXITED, Failure: provider.NotFound},
		"bad name":                {State: running, Endpoints: []*typev1.Endpoint{good, {Name: "Game!", Host: "h", Port: 1}}},
	} {
		_, err := open(t, &stub{server: s}).Host.Get(t.Context(), "a", "x")
		var got *allocator.Failure
		if !errors.As(err, &got) || got.Kind != allocator.Ambiguous {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := open(t, &stub{server: &providerv1.Server{State: running, Endpoints: []*typev1.Endpoint{good}}}).Host.Get(t.Context(), "a", "x")
	if err != nil || s.State != allocator.ServerRunning || len(s.Endpoints) != 1 {
		t.Errorf("a good answer: %+v, %v", s, err)
	}
	s, err = open(t, &stub{server: &providerv1.Server{State: providerv1.ServerState_SERVER_STATE_EXITED, Failure: provider.NoCapacity, Message: "full"}}).Host.Get(t.Context(), "a", "x")
	if err != nil || s.State != allocator.ServerExited || s.Failure == nil || s.Failure.Kind != allocator.NoCapacity || s.Failure.Message != "full" {
		t.Errorf("refused after all: %+v, %v", s, err)
	}
}

// An entry that can be no server does not hide the others.
func TestNonsenseInAListIsPassedOver(t *testing.T) {
	running := providerv1.ServerState_SERVER_STATE_RUNNING
	h, ok := open(t, &stub{listed: &providerv1.ListResponse{NextPageToken: "2", Servers: []*providerv1.Server{
		{AttemptId: "a", State: running}, nil, {AttemptId: "b", Message: "seen before"}, {State: running}, {AttemptId: strings.Repeat("x", 49), State: running},
		{AttemptId: "c", State: running, Endpoints: []*typev1.Endpoint{{Name: "game", Host: "h"}}}, {AttemptId: "d", State: running},
	}}}).Host.(*host.Host)
	if !ok {
		t.Fatal("another host")
	}
	page, err := h.List(t.Context(), "")
	if err != nil || len(page.Servers) != 2 || page.Servers[0].Attempt != "a" || page.Servers[1].Attempt != "d" || page.Next != "2" {
		t.Errorf("%+v, %v", page, err)
	}
	for n, says := range []string{"no state", "seen before", "0 bytes", "49 bytes", "endpoint"} {
		if len(page.Nonsense) != 5 || !strings.Contains(page.Nonsense[n], says) {
			t.Errorf("passed over %q, want %q", page.Nonsense, says)
		}
	}
}

// living is a stub that may be away.
type living struct {
	stub
	described *providerv1.DescribeResponse
	problem   string
}

func (l *living) Describe(context.Context, *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return nil, errors.New("away")
}

func (l *living) Status() (*providerv1.DescribeResponse, string) { return l.described, l.problem }

func TestAProviderThatIsAwayIsThereWithoutBuilds(t *testing.T) {
	l := &living{problem: "away"}
	m, err := host.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	p, err := host.Open(t.Context(), host.Config{Name: "name", Provider: l, Metrics: m})
	if err != nil || p.Info.Name != "name" || len(p.Info.Builds) != 0 || !p.Info.Unanswered || p.Info.PollInterval != time.Second {
		t.Fatalf("%+v, %v", p.Info, err)
	}
	h, ok := p.Host.(*host.Host)
	if !ok {
		t.Fatalf("%T", p.Host)
	}
	p.Info.Claims = true // as its configuration says
	if info, problem := h.Current(p.Info); len(info.Builds) != 0 || problem != "away" {
		t.Errorf("away: %+v, %q", info, problem)
	}
	l.described, l.problem = &providerv1.DescribeResponse{Kind: "theirs", Builds: []string{"b"}, Regions: []string{"eu"}, PollInterval: durationpb.New(2 * time.Second)}, ""
	if info, problem := h.Current(p.Info); info.Kind != "theirs" || info.Builds[0] != "b" || info.PollInterval != 2*time.Second || !info.Claims || info.Unanswered || info.Name != "name" || problem != "" {
		t.Errorf("there: %+v, %q", info, problem)
	}
	l.described, l.problem = nil, "refused"
	if info, problem := h.Current(p.Info); info.Builds != nil || info.Regions != nil || !info.Unanswered || problem != "refused" {
		t.Errorf("refused: %+v, %q", info, problem)
	}
	builtin := open(t, new(stub))
	if info, problem := builtin.Host.(*host.Host).Current(builtin.Info); info.Kind != "stub" || info.Builds[0] != "demo" || problem != "" {
		t.Errorf("built in: %+v, %q", info, problem)
	}
}
