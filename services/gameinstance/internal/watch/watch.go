// Package watch tells watchers what becomes of instances. One reader a process follows the store and feeds them all: each instance that changed is
// read once, however many watch it. Hints say at once what changed; whatever they do not say is found by a look at the store's index of changes,
// every two seconds.
package watch

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// Feed says which instances changed.
type Feed interface {
	// Follow calls hint with the id of an instance that changed, and subscribed each time that hints begin to arrive, again or for the first time,
	// until ctx is cancelled. Hints may be lost. Neither call blocks.
	Follow(ctx context.Context, hint func(instanceID string), subscribed func())
	// Now returns the store's time.
	Now(ctx context.Context) (time.Time, error)
	// Since visits, part by part, what has a revision (in µs) or a deletion of that time or later.
	Since(ctx context.Context, since time.Time, visit func([]instance.Mark) error) error
}

// Records reads what watchers of many instances are sent.
type Records interface {
	instance.Pages
	// Heads reads many instances at once, in the order of ids, and of each which of the players it has.
	Heads(ctx context.Context, ids, players []string) ([]instance.Head, error)
	// Deleted reports whether an instance was deleted not long ago.
	Deleted(ctx context.Context, id string) (bool, error)
}

// Instances reads single instances, in full.
type Instances interface {
	Load(ctx context.Context, id string, needs instance.Needs) (instance.Loaded, error)
}

// Messages reads the messages of game servers to backends.
type Messages interface {
	// Messages returns the next of an instance above an offset, oldest first; none where there are no more.
	Messages(ctx context.Context, instanceID string, after int64) ([]instance.Said, error)
	// Newest returns, in the order of ids, the newest offset of those that have messages waiting and are of the namespace; 0 for others.
	Newest(ctx context.Context, namespace string, instanceIDs []string) ([]int64, error)
	// Talking returns the instances of a namespace that have messages waiting of which the newest has at least an offset, and that offset.
	Talking(ctx context.Context, namespace string, since int64) (map[string]int64, error)
}

// Config names what a Hub needs. The zero value of a bound means its default.
type Config struct {
	Feed      Feed
	Records   Records
	Instances Instances
	Messages  Messages
	Log       *slog.Logger

	// Recheck is how often the index of changes is read. Default 2 s.
	Recheck time.Duration
	// Stall is how long a watcher of many instances may not take what is sent. Default 30 s.
	Stall time.Duration
	// MaxWatchers is how many watchers there may be. Default 10,000.
	MaxWatchers int
	// MaxPending is for how many instances changes may wait for one watcher. Default 10,000.
	MaxPending int
	// MaxTracked bounds memory: of how many instances the watchers together may keep what they were sent, about 100 bytes each. Default 2,000,000.
	MaxTracked int64
}

func (c Config) withDefaults() Config {
	if c.Recheck == 0 {
		c.Recheck = 2 * time.Second
	}
	if c.Stall == 0 {
		c.Stall = 30 * time.Second
	}
	if c.MaxWatchers == 0 {
		c.MaxWatchers = 10_000
	}
	if c.MaxPending == 0 {
		c.MaxPending = 10_000
	}
	if c.MaxTracked == 0 {
		c.MaxTracked = 2_000_000
	}
	return c
}

const (
	// overlap is read again by each recheck: revisions of different instances are not in strict order, and neither are the clocks of a cluster.
	overlap = time.Second
	// maxDirty bounds the hints that wait. Those that find no room are dropped: a recheck follows at once.
	maxDirty = 65_536
	// batch is how many instances are read at once.
	batch = 256
	// loads is how many instances are read in full side by side.
	loads = 8
	// deadline is for one batch; whatever else is read has the driver's.
	deadline = 10 * time.Second
)

// Hub is safe for concurrent use. Run must be called for watchers to be fed.
type Hub struct {
	cfg     Config
	wake    chan struct{} // a value: there are hints
	look    chan struct{} // a value: recheck now
	senders sync.WaitGroup
	tracked atomic.Int64
	talk    *talk

	mu       sync.Mutex
	dirty    map[string]struct{} // at most maxDirty
	ones     map[string]map[*one]struct{}
	many     map[string]map[*many]struct{} // by namespace
	players  map[string]int                // that filters ask after, and how many do
	watchers int
	arrivals int64 // counts watchers that came
	// checked is the store's time up to which changes are known, as of checkedAt by this process' clock; zero while nobody watches.
	checked   time.Time
	checkedAt time.Time
	// unsure says that the store may have gone back: the subscription was lost, or what was read cannot be explained yet.
	unsure bool

	seen map[string]int64 // the reader's own: revisions that watchers were told, as far back as a recheck reads
}

// New returns a Hub.
func New(cfg Config) *Hub {
	return &Hub{
		cfg: cfg.withDefaults(), talk: newTalk(), wake: make(chan struct{}, 1), look: make(chan struct{}, 1), dirty: map[string]struct{}{},
		ones: map[string]map[*one]struct{}{}, many: map[string]map[*many]struct{}{}, players: map[string]int{}, seen: map[string]int64{},
	}
}

// Run feeds watchers until ctx is cancelled. It must end after the watchers.
func (h *Hub) Run(ctx context.Context) error {
	var follower sync.WaitGroup
	follower.Go(func() { h.cfg.Feed.Follow(ctx, h.hint, h.subscribed) })
	follower.Go(func() { h.listen(ctx) })
	h.read(ctx)
	follower.Wait()
	h.senders.Wait()
	return nil
}

// hint takes note of an instance that changed.
func (h *Hub) hint(id string) {
	h.talk.hint(id)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.many) == 0 && h.ones[id] == nil {
		return
	}
	if len(h.dirty) >= maxDirty {
		signal(h.look)
		return
	}
	h.dirty[id] = struct{}{}
	signal(h.wake)
}

// subscribed makes the reader look for what was missed while there was no subscription.
func (h *Hub) subscribed() {
	h.doubt()
	signal(h.look)
	signal(h.talk.look)
}

// doubt makes the next recheck read everything that watchers were sent.
func (h *Hub) doubt() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unsure = true
}

// signal leaves a value in a channel that has room for one.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// enter makes room for a watcher. What changes from now on reaches those that are registered in time.
func (h *Hub) enter(ctx context.Context, register func()) error {
	now := time.Time{}
	for {
		h.mu.Lock()
		if h.watchers >= h.cfg.MaxWatchers {
			h.mu.Unlock()
			return errs.New(errs.LimitExceeded, "this replica has %d watchers already; watch fewer instances one by one, or try again later", h.cfg.MaxWatchers)
		}
		if h.checked.IsZero() && now.IsZero() {
			h.mu.Unlock()
			var err error
			if now, err = h.cfg.Feed.Now(ctx); err != nil {
				return err
			}
			continue
		}
		if h.checked.IsZero() {
			h.checked, h.checkedAt = now, time.Now()
		}
		h.watchers++
		h.arrivals++
		register()
		h.mu.Unlock()
		return nil
	}
}

// leave gives a watcher's room back.
func (h *Hub) leave(remove func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers--
	remove()
}

// add and drop keep sets of watchers by key, without empty ones.
func add[W comparable](sets map[string]map[W]struct{}, key string, w W) {
	if sets[key] == nil {
		sets[key] = map[W]struct{}{}
	}
	sets[key][w] = struct{}{}
}

func drop[W comparable](sets map[string]map[W]struct{}, key string, w W) {
	delete(sets[key], w)
	if len(sets[key]) == 0 {
		delete(sets, key)
	}
}
