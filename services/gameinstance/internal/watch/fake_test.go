package watch_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/watch"
)

// store is a store in memory that can be made to misbehave. Its clock is the bubble's, moved by skew.
type store struct {
	mu        sync.Mutex
	instances map[string]*instance.Instance
	gone      map[string]time.Time
	skew      time.Duration
	silent    bool // hints are lost
	away      bool
	slow      time.Duration // of reading heads
	forgetful bool          // tombstones cannot be read
	loads     int           // of single instances, in full
	heads     int           // of summaries
	beforeOne func()        // is called once, after the next page was read and before it is returned
	hint      func(string)
	subscribe func()
}

func (s *store) Follow(ctx context.Context, hint func(string), subscribed func()) {
	s.mu.Lock()
	s.hint, s.subscribe = hint, subscribed
	s.mu.Unlock()
	<-ctx.Done()
}

func (s *store) now() time.Time { return time.Now().Add(s.skew) }

// check is called with the lock.
func (s *store) check() error {
	if s.away {
		return errs.New(errs.StoreUnavailable, "away")
	}
	return nil
}

func (s *store) Now(context.Context) (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now(), s.check()
}

func (s *store) Since(_ context.Context, since time.Time, visit func([]instance.Mark) error) error {
	s.mu.Lock()
	var marks []instance.Mark
	for _, i := range s.instances {
		if i.Revision >= since.UnixMicro() {
			marks = append(marks, instance.Mark{ID: i.ID, Revision: i.Revision})
		}
	}
	for id, at := range s.gone {
		if !at.Before(since) {
			marks = append(marks, instance.Mark{ID: id})
		}
	}
	err := s.check()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return visit(marks)
}

func (s *store) Heads(_ context.Context, ids, players []string) ([]instance.Head, error) {
	s.mu.Lock()
	slow := s.slow
	s.mu.Unlock()
	time.Sleep(slow) // of the bubble's clock; it reads at the end
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]instance.Head, 0, len(ids))
	for _, id := range ids {
		s.heads++
		h := instance.Head{ID: id}
		if i := s.instances[id]; i != nil {
			c := *i
			c.Players = maps.Clone(i.Players)
			maps.DeleteFunc(c.Players, func(player string, _ instance.Player) bool { return !slices.Contains(players, player) })
			h.Instance = &c
		}
		out = append(out, h)
	}
	return out, s.check()
}

func (s *store) Deleted(_ context.Context, id string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.gone[id]
	if s.forgetful {
		return false, errs.New(errs.StoreUnavailable, "away")
	}
	return ok, s.check()
}

func (s *store) Load(_ context.Context, id string, _ instance.Needs) (instance.Loaded, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads++
	return instance.Loaded{Instance: s.instances[id], Now: s.now()}, s.check()
}

func (s *store) Page(_ context.Context, q instance.Query) (page []*instance.Instance, next instance.Cursor, err error) {
	s.mu.Lock()
	order := func(a, b *instance.Instance) int {
		if c := b.CreateTime.Compare(a.CreateTime); c != 0 {
			return c
		}
		return strings.Compare(b.ID, a.ID)
	}
	for _, i := range slices.SortedFunc(maps.Values(s.instances), order) {
		if q.After != (instance.Cursor{}) && order(&instance.Instance{ID: q.After.ID, CreateTime: q.After.CreateTime}, i) >= 0 {
			continue
		}
		if len(page) == q.Limit {
			next = instance.Cursor{CreateTime: page[len(page)-1].CreateTime, ID: page[len(page)-1].ID}
			break
		}
		if i.Namespace == q.Namespace && q.Filter.Matches(i) {
			c := *i
			c.Players, c.GameData = nil, instance.Data{}
			page = append(page, &c)
		}
	}
	err, before := s.check(), s.beforeOne
	s.beforeOne = nil
	s.mu.Unlock()
	if before != nil {
		before()
	}
	return page, next, err
}

// put stores an instance at a new revision and hints at it.
func (s *store) put(i instance.Instance) *instance.Instance {
	s.mu.Lock()
	old := s.instances[i.ID]
	i.Revision = s.now().UnixMicro()
	if old != nil {
		i.Revision, i.CreateTime = max(i.Revision, old.Revision+1), old.CreateTime
	} else {
		i.CreateTime = s.now()
	}
	if i.State == 0 {
		i.State = instance.Running
	}
	s.instances[i.ID] = &i
	hint := s.hint
	if s.silent {
		hint = nil
	}
	s.mu.Unlock()
	if hint != nil {
		hint(i.ID)
	}
	return &i
}

// force stores an instance as it is and tells nobody.
func (s *store) force(i *instance.Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instances[i.ID] = i
}

func (s *store) remove(id string, tombstone bool) {
	s.mu.Lock()
	delete(s.instances, id)
	if tombstone {
		s.gone[id] = s.now()
	}
	hint, silent := s.hint, s.silent
	s.mu.Unlock()
	if !silent {
		hint(id)
	}
}

// counts returns how many reads there were since the last call.
func (s *store) counts() (loads, heads int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	loads, heads = s.loads, s.heads
	s.loads, s.heads = 0, 0
	return loads, heads
}

func (s *store) set(change func(*store)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// bubble runs a test with a hub on a store in memory, on a clock that moves when everybody waits.
func bubble(t *testing.T, cfg watch.Config, test func(t *testing.T, s *store, h *watch.Hub)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &store{instances: map[string]*instance.Instance{}, gone: map[string]time.Time{}}
		cfg.Feed, cfg.Records, cfg.Instances, cfg.Log = s, s, s, slog.New(slog.DiscardHandler)
		h := watch.New(cfg)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- h.Run(ctx) }()
		synctest.Wait()
		test(t, s, h)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// watcher is a watch under way, and what it was sent.
type watcher struct {
	t      *testing.T
	cancel context.CancelFunc
	ended  chan error
	hold   chan struct{} // closed: what is sent is taken

	mu        sync.Mutex
	revisions []int64
	instances []*instance.Instance
	updates   []watch.Update
}

func start(t *testing.T, watches func(context.Context, *watcher) error) *watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{t: t, cancel: cancel, ended: make(chan error, 1), hold: make(chan struct{})}
	close(w.hold)
	go func() { w.ended <- watches(ctx, w) }()
	return w
}

func one(t *testing.T, h *watch.Hub, id string, after int64) *watcher {
	return start(t, func(ctx context.Context, w *watcher) error {
		return h.One(ctx, "default", id, after, func(i *instance.Instance) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.instances, w.revisions = append(w.instances, i), append(w.revisions, i.Revision)
			return nil
		})
	})
}

func many(t *testing.T, h *watch.Hub, filter instance.Filter) *watcher {
	return start(t, func(ctx context.Context, w *watcher) error { return h.Many(ctx, "default", filter, w.take) })
}

func (w *watcher) take(u watch.Update) error {
	if u.Instance != nil && (u.Instance.Players != nil || u.Instance.GameData.Set) {
		w.t.Errorf("%s is sent with players or data", u.Instance.ID)
	}
	w.mu.Lock()
	w.updates = append(w.updates, u)
	hold := w.hold
	w.mu.Unlock()
	<-hold
	return nil
}

// stuck makes the watcher take nothing more until the returned function is called.
func (w *watcher) stuck() (release func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	hold := make(chan struct{})
	w.hold = hold
	return func() { close(hold) }
}

// sent returns what arrived since the last call, in short form.
func (w *watcher) sent() []string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	out := []string{}
	for _, i := range w.instances {
		out = append(out, describe(i))
	}
	for _, u := range w.updates {
		switch {
		case u.SnapshotComplete:
			out = append(out, "complete")
		case u.Removed != "":
			out = append(out, "removed "+u.Removed)
		default:
			out = append(out, describe(u.Instance))
		}
	}
	w.instances, w.updates = nil, nil
	return out
}

func describe(i *instance.Instance) string { return i.ID + " " + i.Message }

func (w *watcher) expect(want ...string) {
	w.t.Helper()
	if got := w.sent(); !slices.Equal(got, want) {
		w.t.Errorf("sent %q, want %q", got, want)
	}
}

// stop ends the watch.
func (w *watcher) stop() {
	w.t.Helper()
	w.cancel()
	if err := <-w.ended; !errors.Is(err, context.Canceled) {
		w.t.Errorf("the watch ended with %v", err)
	}
}

// failed returns what the watch ended with, waiting for it on the bubble's clock.
func (w *watcher) failed(want errs.Reason) {
	w.t.Helper()
	select {
	case err := <-w.ended:
		if errs.ReasonOf(err) != want {
			w.t.Errorf("the watch ended with %v, want %q", err, want)
		}
	case <-time.After(time.Hour):
		w.t.Errorf("the watch goes on; want %q", want)
		w.stop()
	}
}

// made returns an instance to put.
func made(message string) instance.Instance {
	return instance.Instance{
		Namespace: "default", ID: uuid.NewString(), Message: message, Players: map[string]instance.Player{"ann": {ID: "ann"}},
		GameData: instance.Data{Set: true, Binary: []byte{1}},
	}
}

func with(i *instance.Instance, message string) instance.Instance {
	c := *i
	c.Message = message
	return c
}
