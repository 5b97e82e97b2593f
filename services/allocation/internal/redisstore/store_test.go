package redisstore_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func each(t *testing.T, test func(t *testing.T, s *redisstore.Store)) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) { test(t, redisstore.New(r)) })
}

// full is an allocation with every field set.
func full(instance string, n int, created time.Time) allocator.Allocation {
	return allocator.Allocation{
		ID: ids.Attempt(instance, n), Namespace: "default", InstanceID: instance, State: allocator.Releasing,
		Placement: allocator.Placement{
			Build: "demo", Regions: []string{"eu", "us"}, Labels: map[string]string{"a": "b"}, Latencies: map[string]time.Duration{"eu": 1500 * time.Nanosecond}, Priority: -7,
		},
		Explanation: allocator.Explanation{Rule: "rule", Candidates: []allocator.Candidate{
			{
				Candidate: placement.Candidate{Provider: "p", Region: "eu", Exclusion: placement.Full, Message: "10 of 10", Latency: time.Millisecond, Known: true, Weight: 3, Rank: 2},
				Tries:     []allocator.Try{{At: created.Add(9), Took: 10 * time.Millisecond, Failure: "NO_CAPACITY", Message: "full"}}, NotBefore: created.Add(11 * time.Microsecond),
			},
			{Candidate: placement.Candidate{Provider: "q"}},
		}},
		RoundAt: created.Add(12 * time.Microsecond), Rounds: 13, WaitSince: created.Add(14 * time.Microsecond), GiveUpAt: created.Add(15 * time.Microsecond),
		Deadline: created.Add(time.Minute), Traceparent: "00-x-y-01", Provider: "p", Region: "eu", PoolServer: "server", ExternalID: "vm-1",
		Endpoints: []allocator.Endpoint{{Name: "game", Host: "h", Port: 65535, Protocol: 2}}, Message: "m",
		Report: allocator.ReportExited, ReportAt: created.Add(1), ReportTries: 2, CallAt: created.Add(3 * time.Microsecond), Tries: 4, Missing: 6,
		Failure: "NO_CAPACITY", Setbacks: []allocator.Setback{{Provider: "q", Region: "us", Failure: "INVALID", Message: "no image"}}, Doubtful: true, Gone: true, End: allocator.Failed, CreateTime: created, UpdateTime: created.Add(7 * time.Microsecond), ExpireAt: created.Add(8 * time.Microsecond),
	}
}

var created = time.UnixMicro(1_790_000_000_000_000)

func save(t *testing.T, s *redisstore.Store, a allocator.Allocation) allocator.Allocation {
	t.Helper()
	saved, err := s.Save(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return saved
}

func load(t *testing.T, s *redisstore.Store, id string) allocator.Allocation {
	t.Helper()
	a, now, err := s.Load(t.Context(), id)
	if err != nil || time.Since(now).Abs() > time.Minute {
		t.Fatalf("%v at %v", err, now)
	}
	return a
}

func claim(t *testing.T, s *redisstore.Store, id, owner string, lease time.Duration, force bool) (allocator.Allocation, bool) {
	t.Helper()
	c, ok, err := s.Claim(t.Context(), id, owner, lease, force)
	if err != nil || (ok && time.Since(c.Now).Abs() > time.Minute) {
		t.Fatalf("%v at %v", err, c.Now)
	}
	return c.Allocation, ok
}

func TestEveryFieldIsKept(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		a := full(uuid.NewString(), 1, created)
		a.ReportAt = created.Add(time.Microsecond)
		v := reflect.ValueOf(a)
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; v.Field(i).IsZero() && name != "Rev" && name != "Stored" {
				t.Errorf("this test does not set %s", name)
			}
		}
		saved := save(t, s, a)
		got := load(t, s, a.ID)
		if !reflect.DeepEqual(got, saved) {
			t.Errorf("read %+v, written %+v", got, saved)
		}
		got.Rev, got.Stored = 0, nil
		if !reflect.DeepEqual(got, a) {
			t.Errorf("read %+v, want %+v", got, a)
		}
	})
}

// A replica of this version leaves alone what a newer one wrote into the record.
func TestUnknownFieldsSurvive(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s := redisstore.New(r)
		a := save(t, s, full(uuid.NewString(), 1, created))
		key := redisx.Key(r.Partition(a.InstanceID), "alloc:r:"+a.ID)
		unknown := protowire.AppendString(protowire.AppendTag(nil, 999, protowire.BytesType), "from the future")
		if err := r.HSet(t.Context(), key, "head", append(a.Stored, unknown...)).Err(); err != nil {
			t.Fatal(err)
		}
		b := load(t, s, a.ID)
		b.Message = "changed"
		save(t, s, b)
		if c := load(t, s, a.ID); c.Message != "changed" || !contains(c.Stored, "from the future") {
			t.Errorf("stored: %q", c.Stored)
		}
	})
}

// An attempt that hung when the version before had its record is still one that may be made anew.
func TestAFailureWithoutAReasonIsASilence(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s := redisstore.New(r)
		a := save(t, s, full(uuid.NewString(), 1, created))
		key := redisx.Key(r.Partition(a.InstanceID), "alloc:r:"+a.ID)
		none := protowire.AppendString(protowire.AppendTag(nil, 34, protowire.BytesType), "") // the record's failure
		if err := r.HSet(t.Context(), key, "head", append(a.Stored, none...)).Err(); err != nil {
			t.Fatal(err)
		}
		if b := load(t, s, a.ID); b.Failure != allocator.Ambiguous.String() {
			t.Errorf("it failed for %q", b.Failure)
		}
	})
}

func contains(raw []byte, s string) bool {
	for i := range raw {
		if len(raw)-i >= len(s) && string(raw[i:i+len(s)]) == s {
			return true
		}
	}
	return false
}

func TestSaveComparesTheRevision(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		a := full(uuid.NewString(), 1, created)
		first := save(t, s, a)
		if first.Rev < time.Now().Add(-time.Minute).UnixMicro() {
			t.Errorf("revision %d is behind the clock", first.Rev)
		}
		if _, err := s.Save(t.Context(), a); !errors.Is(err, allocator.ErrConflict) {
			t.Errorf("created twice: %v", err)
		}
		second := save(t, s, first)
		if second.Rev <= first.Rev {
			t.Errorf("revision %d after %d", second.Rev, first.Rev)
		}
		if _, err := s.Save(t.Context(), first); !errors.Is(err, allocator.ErrConflict) {
			t.Errorf("saved at an old revision: %v", err)
		}
	})
}

func TestLeases(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		ctx := t.Context()
		a := save(t, s, full(uuid.NewString(), 1, created))
		if due, err := s.Due(ctx, 10); err != nil || len(due) != 1 || due[0] != a.ID {
			t.Fatalf("due: %v, %v", due, err)
		}
		a, ok := claim(t, s, a.ID, "one", time.Hour, false)
		if !ok {
			t.Fatal("a due allocation cannot be claimed")
		}
		if _, ok := claim(t, s, a.ID, "two", time.Hour, true); ok {
			t.Error("two have it")
		}
		if due, _ := s.Due(ctx, 10); len(due) != 0 {
			t.Errorf("leased and due: %v", due)
		}
		if ok, err := s.Renew(ctx, a.ID, "two", time.Hour); ok || err != nil {
			t.Errorf("a stranger renews: %v, %v", ok, err)
		}
		if _, err := s.Commit(ctx, allocator.Change{Allocation: a, Owner: "two"}); !errors.Is(err, allocator.ErrLeaseLost) {
			t.Errorf("a stranger commits: %v", err)
		}

		// A use-case changes it meanwhile: the worker finds out when it commits, and not by somebody else's claim.
		b := save(t, s, a)
		if due, _ := s.Due(ctx, 10); len(due) != 0 {
			t.Errorf("leased and due after a change: %v", due)
		}
		if _, err := s.Commit(ctx, allocator.Change{Allocation: a, Owner: "one", Due: time.Now().Add(time.Hour)}); !errors.Is(err, allocator.ErrConflict) {
			t.Errorf("the change went unnoticed: %v", err)
		}
		if again, ok := claim(t, s, a.ID, "one", time.Hour, false); !ok || again.Rev != b.Rev {
			t.Errorf("its own lease: %v, %d", ok, again.Rev)
		}

		// Done for now: due later, or now if a use-case changes it.
		if _, err := s.Commit(ctx, allocator.Change{Allocation: b, Owner: "one", Due: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		if _, ok := claim(t, s, a.ID, "two", time.Hour, false); ok {
			t.Error("claimed before it is due")
		}
		b = save(t, s, b)
		if _, ok := claim(t, s, a.ID, "two", time.Microsecond, false); !ok {
			t.Error("not due after a change")
		}
		// A lease that ran out is anybody's.
		var c allocator.Allocation
		for ok = false; !ok; c, ok = claim(t, s, a.ID, "three", time.Hour, false) {
		}
		if ok, err := s.Renew(ctx, a.ID, "two", time.Hour); ok || err != nil {
			t.Errorf("renewed a lease that was lost: %v, %v", ok, err)
		}
		if ok, err := s.Renew(ctx, a.ID, "three", time.Hour); !ok || err != nil {
			t.Errorf("renew: %v, %v", ok, err)
		}
		if _, err := s.Commit(ctx, allocator.Change{Allocation: c, Owner: "three", Delete: true}); err != nil {
			t.Fatal(err)
		}
		if got := load(t, s, a.ID); got.Rev != 0 {
			t.Errorf("deleted: %+v", got)
		}
		if list, _, err := s.List(ctx, "default", 10, ""); err != nil || len(list) != 0 {
			t.Errorf("list: %v, %v", list, err)
		}
		if _, ok := claim(t, s, a.ID, "four", time.Hour, true); ok {
			t.Error("claimed what is not there")
		}
	})
}

// What is due on the nodes of a Cluster that are there is found, and that some are away is said.
func TestWhatIsDueIsFoundWithoutAPartOfTheCluster(t *testing.T) {
	c := redistest.NewCluster(t)
	r := c.Open(t, redisx.Fast)
	s := redisstore.New(r)
	for _, n := range c.Nodes {
		if err := redistest.Node(t, n.Addr).ConfigSet(t.Context(), "cluster-require-full-coverage", "no").Err(); err != nil {
			t.Fatal(err)
		}
	}
	lost, want := c.MasterOf(t, 1), make(map[string]bool)
	for range 40 {
		a := save(t, s, full(uuid.NewString(), 1, created))
		if c.MasterOf(t, r.Partition(a.InstanceID)) != lost {
			want[a.ID] = true
		}
	}
	c.ReplicaOf(t, 1).Kill(t)
	lost.Kill(t)
	found, err := s.Due(t.Context(), 100)
	if !errs.Is(err, errs.StoreUnavailable) {
		t.Errorf("what is away is not said: %v", err)
	}
	for _, id := range found {
		delete(want, id)
	}
	if len(found) == 0 || len(want) != 0 {
		t.Errorf("%d are found, not %v", len(found), want)
	}
}

func TestListPages(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		var want []string
		for n := range 25 { // over all partitions; two of each time
			a := full(uuid.NewString(), 1, created.Add(time.Duration(n/2)*time.Microsecond))
			save(t, s, a)
			want = append(want, fmt.Sprintf("%d %s", a.CreateTime.UnixMicro(), a.ID))
		}
		other := full(uuid.NewString(), 1, created)
		other.Namespace = "other"
		save(t, s, other)
		seen := make(map[string]bool)
		cursor, last, pages := "", time.Now().Add(time.Hour*1e6), 0
		for {
			list, next, err := s.List(t.Context(), "default", 7, cursor)
			if err != nil {
				t.Fatal(err)
			}
			pages++
			for _, a := range list {
				if a.CreateTime.After(last) {
					t.Errorf("%v after %v", a.CreateTime, last)
				}
				last = a.CreateTime
				seen[fmt.Sprintf("%d %s", a.CreateTime.UnixMicro(), a.ID)] = true
			}
			if cursor = next; cursor == "" {
				break
			}
		}
		for _, w := range want {
			if !seen[w] {
				t.Errorf("not listed: %s", w)
			}
		}
		if len(seen) != len(want) || pages != 4 {
			t.Errorf("%d listed on %d pages", len(seen), pages)
		}
	})
}
