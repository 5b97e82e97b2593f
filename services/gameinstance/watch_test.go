package gameinstance_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/services/gameinstance"
)

// createWith makes an instance without a server.
func (w *world) createWith(req *instancev1.CreateGameInstanceRequest) *instancev1.GameInstance {
	w.t.Helper()
	req.Placement = &instancev1.Placement{Build: "game"}
	out, err := w.instances.CreateGameInstance(as(apiKey), req)
	if err != nil {
		w.t.Fatal(err)
	}
	return out.GetInstance()
}

func (w *world) list(req *instancev1.ListGameInstancesRequest) (listed []string, next string) {
	w.t.Helper()
	out, err := w.instances.ListGameInstances(as(viewerKey), req)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, i := range out.GetInstances() {
		listed = append(listed, i.GetId())
	}
	return listed, out.GetNextPageToken()
}

// many is a watch of many instances.
type many struct {
	t      *testing.T
	stream grpc.ServerStreamingClient[instancev1.WatchGameInstancesResponse]
}

func (w *world) watch(filter *instancev1.InstanceFilter) many {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(as(viewerKey), 20*time.Second)
	w.t.Cleanup(cancel)
	stream, err := w.instances.WatchGameInstances(ctx, &instancev1.WatchGameInstancesRequest{Filter: filter})
	if err != nil {
		w.t.Fatal(err)
	}
	return many{t: w.t, stream: stream}
}

func (m many) next() *instancev1.WatchGameInstancesResponse {
	m.t.Helper()
	u, err := m.stream.Recv()
	if err != nil {
		m.t.Fatal(err)
	}
	return u
}

// snapshot returns the ids of what there is at the beginning.
func (m many) snapshot() (ids []string) {
	m.t.Helper()
	for {
		u := m.next()
		if u.GetSnapshotComplete() != nil {
			return ids
		}
		ids = append(ids, u.GetInstance().GetId())
	}
}

func TestListsAndWatchesAreFilteredByEachField(t *testing.T) {
	w := start(t, nil)
	allocated := w.create() // asks for a server, and has one in region r
	if _, err := w.attempts.ReportAttempt(internally(), &attemptv1.ReportAttemptRequest{
		InstanceId: allocated.GetId(), AttemptId: ids.Attempt(allocated.GetId(), 1), Outcome: &attemptv1.ReportAttemptRequest_Allocated{Allocated: &attemptv1.Allocated{Provider: "p", Region: "r"}},
	}); err != nil {
		t.Fatal(err)
	}
	duel := w.createWith(&instancev1.CreateGameInstanceRequest{SkipAllocation: true, Labels: map[string]string{"mode": "duel", "map": "x"}, Players: []*instancev1.Player{{Id: "eve"}}})
	race := w.createWith(&instancev1.CreateGameInstanceRequest{SkipAllocation: true, Labels: map[string]string{"mode": "race"}})
	if _, err := w.instances.TerminateGameInstance(as(apiKey), &instancev1.TerminateGameInstanceRequest{InstanceId: race.GetId()}); err != nil {
		t.Fatal(err)
	}
	a, d, r := allocated.GetId(), duel.GetId(), race.GetId()
	for name, c := range map[string]struct {
		filter *instancev1.InstanceFilter
		want   []string
	}{
		"none":         {nil, []string{r, d, a}},
		"empty":        {&instancev1.InstanceFilter{}, []string{r, d, a}},
		"state":        {&instancev1.InstanceFilter{States: []instancev1.GameInstance_State{instancev1.GameInstance_STATE_TERMINATED, instancev1.GameInstance_STATE_PENDING}}, []string{r, d}},
		"region":       {&instancev1.InstanceFilter{Region: "r"}, []string{a}},
		"label":        {&instancev1.InstanceFilter{Labels: map[string]string{"mode": "duel"}}, []string{d}},
		"other value":  {&instancev1.InstanceFilter{Labels: map[string]string{"mode": "chess"}}, nil},
		"player":       {&instancev1.InstanceFilter{PlayerId: "eve"}, []string{d}},
		"build":        {&instancev1.InstanceFilter{Build: "game"}, []string{r, d, a}},
		"other build":  {&instancev1.InstanceFilter{Build: "gam"}, nil},
		"all together": {&instancev1.InstanceFilter{States: []instancev1.GameInstance_State{instancev1.GameInstance_STATE_PENDING}, Labels: map[string]string{"mode": "duel", "map": "x"}, PlayerId: "eve", Build: "game"}, []string{d}},
		"all but one":  {&instancev1.InstanceFilter{States: []instancev1.GameInstance_State{instancev1.GameInstance_STATE_PENDING}, Labels: map[string]string{"mode": "duel", "map": "x"}, PlayerId: "ann", Build: "game"}, nil},
	} {
		if got, _ := w.list(&instancev1.ListGameInstancesRequest{Filter: c.filter}); !slices.Equal(got, c.want) {
			t.Errorf("%s: listed %v, want %v", name, got, c.want)
		}
		if got := w.watch(c.filter).snapshot(); !slices.Equal(got, c.want) {
			t.Errorf("%s: watched %v, want %v", name, got, c.want)
		}
	}
	for _, filter := range []*instancev1.InstanceFilter{
		{States: []instancev1.GameInstance_State{0}}, {States: []instancev1.GameInstance_State{99}}, {PlayerId: strings.Repeat("x", 129)}, {Labels: map[string]string{"": "x"}},
	} {
		_, err := w.instances.ListGameInstances(as(viewerKey), &instancev1.ListGameInstancesRequest{Filter: filter})
		reasonIs(t, err, errs.ValidationFailed)
	}
}

func TestPageTokensAreGoodOnEveryReplicaAndForTheirListOnly(t *testing.T) {
	w := start(t, nil)
	other := start(t, func(cfg *gameinstance.Config) { cfg.Redis = redisx.Config{Addrs: []string{addr(w.store)}} })
	first, second := w.createWith(&instancev1.CreateGameInstanceRequest{SkipAllocation: true}), w.createWith(&instancev1.CreateGameInstanceRequest{SkipAllocation: true})
	page, token := w.list(&instancev1.ListGameInstancesRequest{PageSize: 1})
	if !slices.Equal(page, []string{second.GetId()}) || token == "" {
		t.Fatalf("first page %v, then %q", page, token)
	}
	if page, end := other.list(&instancev1.ListGameInstancesRequest{PageSize: 1, PageToken: token}); !slices.Equal(page, []string{first.GetId()}) || end != "" {
		t.Errorf("second page on another replica: %v, then %q", page, end)
	}
	last := map[bool]string{true: "B", false: "A"}[token[10] == 'A']
	for name, req := range map[string]*instancev1.ListGameInstancesRequest{
		"tampered":  {PageToken: token[:10] + last + token[11:]},
		"namespace": {PageToken: token, Namespace: "other"},
		"filter":    {PageToken: token, Filter: &instancev1.InstanceFilter{Build: "game"}},
	} {
		_, err := w.instances.ListGameInstances(as(apiKey), req)
		if reasonIs(t, err, errs.ValidationFailed); !strings.Contains(err.Error(), "page_token") {
			t.Errorf("%s: %v does not name page_token", name, err)
		}
	}
	stranger := start(t, func(cfg *gameinstance.Config) {
		cfg.Redis, cfg.Auth.InternalKey = redisx.Config{Addrs: []string{addr(w.store)}}, "another-internal-key-of-32-characters"
	})
	_, err := stranger.instances.ListGameInstances(as(apiKey), &instancev1.ListGameInstancesRequest{PageToken: token})
	reasonIs(t, err, errs.ValidationFailed)
}

func TestAWatchOfManyTellsWhatCameChangedAndWent(t *testing.T) {
	w := start(t, nil)
	pending := &instancev1.InstanceFilter{States: []instancev1.GameInstance_State{instancev1.GameInstance_STATE_PENDING}}
	old := w.createWith(&instancev1.CreateGameInstanceRequest{SkipAllocation: true})
	all, some := w.watch(nil), w.watch(pending)
	for _, m := range []many{all, some} {
		if got := m.snapshot(); !slices.Equal(got, []string{old.GetId()}) {
			t.Fatalf("snapshot %v", got)
		}
	}
	inst := w.createWith(&instancev1.CreateGameInstanceRequest{
		SkipAllocation: true, Players: []*instancev1.Player{{Id: "ann"}}, Timeouts: &instancev1.Timeouts{Retention: durationpb.New(time.Second)},
	})
	for _, m := range []many{all, some} {
		if u := m.next(); u.GetInstance().GetId() != inst.GetId() || u.GetInstance().GetRevision() != inst.GetRevision() || u.GetInstance().GetPlayers() != nil {
			t.Errorf("created: %v", u)
		}
	}
	if _, err := w.instances.TerminateGameInstance(as(apiKey), &instancev1.TerminateGameInstanceRequest{InstanceId: inst.GetId()}); err != nil {
		t.Fatal(err)
	}
	if u := all.next(); u.GetInstance().GetState() != instancev1.GameInstance_STATE_TERMINATED {
		t.Errorf("terminated: %v", u)
	}
	if u := some.next(); u.GetRemoved().GetInstanceId() != inst.GetId() {
		t.Errorf("matches no more: %v", u)
	}
	if u := all.next(); u.GetRemoved().GetInstanceId() != inst.GetId() { // its retention is over
		t.Errorf("deleted: %v", u)
	}
	watchOne := func(id string, after int64) error {
		stream, err := w.instances.WatchGameInstance(as(viewerKey), &instancev1.WatchGameInstanceRequest{InstanceId: id, AfterRevision: after})
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		return err
	}
	reasonIs(t, watchOne(inst.GetId(), 0), errs.InstanceDeleted)
	reasonIs(t, watchOne(ids.Server("nobody"), 0), errs.InstanceUnknown)
	reasonIs(t, watchOne(old.GetId(), old.GetRevision()+1), errs.StateRolledBack)
	reasonIs(t, watchOne(old.GetId(), -1), errs.ValidationFailed)
	stranger, err := w.instances.WatchGameInstances(as(apikey.Prefix+"nobody"), &instancev1.WatchGameInstancesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stranger.Recv()
	reasonIs(t, err, errs.CredentialsInvalid)
}

func TestAWatchOfOneGoesOnAfterTheRevisionThatWasSeen(t *testing.T) {
	w := start(t, nil)
	inst := w.createWith(&instancev1.CreateGameInstanceRequest{SkipAllocation: true, Players: []*instancev1.Player{{Id: "ann"}}})
	ctx, cancel := context.WithTimeout(as(viewerKey), 20*time.Second)
	defer cancel()
	stream, err := w.instances.WatchGameInstance(ctx, &instancev1.WatchGameInstanceRequest{InstanceId: inst.GetId(), AfterRevision: inst.GetRevision()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.instances.AddPlayers(as(apiKey), &instancev1.AddPlayersRequest{InstanceId: inst.GetId(), Players: []*instancev1.Player{{Id: "eve"}}}); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetInstance().GetRevision() <= inst.GetRevision() || len(m.GetInstance().GetPlayers()) != 2 {
		t.Errorf("after revision %d: %v, %v", inst.GetRevision(), m, err)
	}
}
