// Package timer wakes instances when they are due, and sees to gateways whose lease ran out. Every replica may do it at once: what comes of it is decided by
// compare-and-set on the instance.
package timer

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// Look is a look at the timers of some partitions.
type Look struct {
	Partitions []int
	// Gap is how long a partition may go without a look before time in it does not count; from then on it is held for Hold.
	Gap, Hold time.Duration
	// Limit is how many due instances of a partition are read.
	Limit int
}

// Swept is what a look at one partition found.
type Swept struct {
	// Now is the store's time of the look.
	Now time.Time
	// Hold is until when nothing expires in the partition; the zero time if nothing is held.
	Hold time.Time
	// Due are the instances that want attention, the longest overdue first.
	Due []string
}

// Links counts links.
type Links struct{ Connected, Lost int64 }

// Store knows who is due, and who looks.
type Store interface {
	// Partitions returns how many partitions there are.
	Partitions() int
	// Sweep looks at partitions and keeps that it did. With an error it returns what it could reach.
	Sweep(ctx context.Context, look Look) ([]Swept, error)
	// Announce says that a replica lives, and returns the replicas that said so within life. A life of 0 takes it back.
	Announce(ctx context.Context, replica string, life time.Duration) (live []string, err error)
	// CountLinks counts the links of all live instances: those that are connected, and those that were lost within a time and are not back.
	CountLinks(ctx context.Context, within time.Duration) (Links, error)
}

// Instances is what the timer needs of instances.
type Instances interface {
	Apply(ctx context.Context, namespace, id string, env instance.Envelope, cmd instance.Command) (*instance.Instance, error)
}

// Driver drives outboxes.
type Driver interface{ Kick(instanceID string) }

// Reaper sees to links whose gateway or socket is gone.
type Reaper interface {
	Auditor
	Reap(ctx context.Context) error
}

// Auditor looks for what was left behind, and takes it back.
type Auditor interface {
	Audit(ctx context.Context) error
}

const (
	sweepEvery    = 250 * time.Millisecond
	fullEvery     = 5 * time.Second
	sweepLimit    = 64
	announceEvery = time.Second
	announceLife  = 5 * time.Second
	leaveDeadline = time.Second // comes on top of an answer that the last round may wait for, and both must fit into a stop
	reapEvery     = time.Second
	auditEvery    = 30 * time.Second
	// roundDeadline bounds one round of any of them; what is left over is done in the next.
	roundDeadline = 30 * time.Second
)

// Config names what a Sweeper needs.
type Config struct {
	Store     Store
	Instances Instances
	Driver    Driver
	Reaper    Reaper
	Servers   Auditor
	Log       *slog.Logger
	Metrics   *Metrics
	// Replica is the name of this process among those that sweep; no other may ever have it.
	Replica string
	// Gap is how long a partition may go unswept before the time does not count; Hold is how long nothing expires in it then.
	Gap, Hold time.Duration
	// MassLoss says when links count as lost together.
	MassLoss MassLoss
}

// Sweeper sweeps periodically. It is safe for concurrent use.
type Sweeper struct {
	Config
	losses losses
	slots  chan struct{} // holds a value for each instance that is dealt with

	mu   sync.Mutex
	live []string        // the replicas that live, this one included
	busy map[string]bool // instances that are dealt with or wait for it
	held int             // partitions in which nothing expires

	expiring sync.WaitGroup // owned by Run
}

// New returns a Sweeper.
func New(cfg Config) *Sweeper {
	return &Sweeper{
		Config: cfg, losses: losses{store: cfg.Store, cfg: cfg.MassLoss, log: cfg.Log, metrics: cfg.Metrics},
		slots: make(chan struct{}, expireAtOnce), live: []string{cfg.Replica}, busy: map[string]bool{},
	}
}

// Run sweeps until ctx is cancelled. Deadlines, leases and the audit have rounds of their own: a gateway that is lost with thousands of links must not keep
// deadlines waiting.
func (s *Sweeper) Run(ctx context.Context) error {
	var rounds sync.WaitGroup
	loop := func(interval time.Duration, what string, do func(context.Context) error) {
		rounds.Go(func() { s.every(ctx, interval, what, do) })
	}
	loop(announceEvery, "announce", s.announce)
	loop(min(sweepEvery, s.Gap/4), "sweep", func(bounded context.Context) error { return s.begin(ctx, bounded, s.mine()) })
	// Well within the gap: the partitions of a replica that died are swept by nobody else until its announcement is too old.
	loop(min(fullEvery, s.Gap/2), "full sweep", func(bounded context.Context) error { return s.begin(ctx, bounded, s.all()) })
	loop(countEvery, "count links", func(bounded context.Context) error { _, err := s.losses.stand(bounded); return err })
	loop(reapEvery, "reap", s.Reaper.Reap)
	loop(auditEvery, "audit links", s.Reaper.Audit)
	loop(auditEvery, "audit game servers", s.Servers.Audit)
	rounds.Wait()
	s.expiring.Wait()
	s.leave(ctx)
	return nil
}

func (s *Sweeper) every(ctx context.Context, interval time.Duration, what string, do func(context.Context) error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.round(ctx, what, do)
		}
	}
}

func (s *Sweeper) round(ctx context.Context, what string, do func(context.Context) error) {
	bounded, cancel := context.WithTimeout(ctx, roundDeadline)
	defer cancel()
	if err := do(bounded); err != nil && ctx.Err() == nil {
		s.Log.Warn("a round failed; the next one follows", "what", what, "error", err)
	}
}

// announce says that this replica lives, and learns of the others. While the store is away, the last view stays.
func (s *Sweeper) announce(ctx context.Context) error {
	live, err := s.Store.Announce(ctx, s.Replica, announceLife)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = live
	return nil
}

// leave lets the others take over at once.
func (s *Sweeper) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveDeadline)
	defer cancel()
	if _, err := s.Store.Announce(ctx, s.Replica, 0); err != nil {
		s.Log.Warn("this replica could not take its announcement back; it runs out by itself", "error", err)
	}
}

// mine returns the partitions that are this replica's to sweep often.
func (s *Sweeper) mine() []int {
	s.mu.Lock()
	live := s.live
	s.mu.Unlock()
	return owned(s.Replica, live, s.Store.Partitions())
}

func (s *Sweeper) all() []int {
	all := make([]int, s.Store.Partitions())
	for p := range all {
		all[p] = p
	}
	return all
}
