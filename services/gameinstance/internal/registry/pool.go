package registry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
)

const (
	// MaxPoolServers is how many servers a warm pool can have.
	MaxPoolServers = 10_000
	// Absence is how long a server of a pool may be without a connection before it leaves the pool.
	Absence = 2 * time.Minute
	// sweepPools is how often it is looked who is there, and sweepDeadline bounds one look.
	sweepPools    = 10 * time.Second
	sweepDeadline = 30 * time.Second
)

// Member is a server in a pool's list.
type Member struct {
	ServerID string
	// Seen is when it was last known to be there, or joined.
	Seen time.Time
}

// PoolStore keeps warm pools, besides their servers.
type PoolStore interface {
	Store
	// JoinPool makes a server one of its pool, and what it says now; LIMIT_EXCEEDED if the pool has as many servers as max.
	JoinPool(ctx context.Context, s Server, max int) (Server, error)
	// Pools returns the names of all pools that have servers.
	Pools(ctx context.Context) ([]string, error)
	// PoolMembers returns who is in a pool, and the store's time.
	PoolMembers(ctx context.Context, pool string) ([]Member, time.Time, error)
	// LoadServers returns those of the servers that are registered.
	LoadServers(ctx context.Context, ids []string) ([]Server, error)
	// KeepPool notes which servers of a pool are there, and drops members, unless they were noted or joined since they were looked at.
	KeepPool(ctx context.Context, pool string, there []string, gone []Member) error
	// ForgetServer forgets a server of a pool; false if it has instances, or has connected or joined since it was looked at.
	ForgetServer(ctx context.Context, s Server) (bool, error)
}

// Gateways knows which lives of gateways stand.
type Gateways interface {
	GatewayAlive(ctx context.Context, id string) (bool, error)
}

// Sessions takes a server's socket from whoever has it.
type Sessions interface {
	Yield(ctx context.Context, serverID string) error
}

// Pools has the use-cases around warm pools: servers that started by themselves, joined, and wait for instances. It is safe for concurrent use.
type Pools struct {
	store    PoolStore
	gateways Gateways
	sessions Sessions
	log      *slog.Logger

	mu    sync.Mutex
	views map[string]*view // by pool; an entry for each that allocation was configured to ask for room
}

// NewPools returns the use-cases. Run must be called for servers to leave their pools.
func NewPools(store PoolStore, gateways Gateways, sessions Sessions, log *slog.Logger) *Pools {
	return &Pools{store: store, gateways: gateways, sessions: sessions, log: log, views: map[string]*view{}}
}

// Join makes a server one of its pool, from whoever had its name before.
func (p *Pools) Join(ctx context.Context, server Server) (Server, error) {
	kept, err := p.store.JoinPool(ctx, server, MaxPoolServers)
	if err != nil {
		return Server{}, err
	}
	return kept, p.sessions.Yield(ctx, kept.ID)
}

// Run looks who is in the pools until ctx is cancelled.
func (p *Pools) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepPools)
	defer tick.Stop()
	watched := watched{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := p.look(ctx, watched.enough(time.Now()))
		if err != nil {
			watched.last = time.Time{} // whoever could not be seen was not away
		}
		if err != nil && ctx.Err() == nil {
			p.log.Warn("it could not be seen who is in the pools; nobody leaves them meanwhile", "error", err)
		}
	}
}

func (p *Pools) look(ctx context.Context, forget bool) error {
	ctx, cancel := context.WithTimeout(ctx, sweepDeadline)
	defer cancel()
	return p.Sweep(ctx, forget)
}

// watched is how long a replica has watched the pools without a gap: only who was watched for the whole of Absence can have been away for that long, and not
// Berth.
type watched struct{ since, last time.Time }

// enough notes a look, and reports whether who was not seen for Absence may be let go.
func (w *watched) enough(now time.Time) bool {
	if now.Sub(w.last) > 3*sweepPools {
		w.since = now
	}
	w.last = now
	return now.Sub(w.since) >= Absence
}

// Sweep notes who is there in all pools and, if forget, lets those leave that were away for the whole of Absence and have no instances.
func (p *Pools) Sweep(ctx context.Context, forget bool) error {
	pools, err := p.store.Pools(ctx)
	failed := []error{err}
	for _, pool := range pools {
		failed = append(failed, p.sweep(ctx, pool, forget))
	}
	return errors.Join(failed...)
}

func (p *Pools) sweep(ctx context.Context, pool string, forget bool) error {
	members, now, err := p.store.PoolMembers(ctx, pool)
	if err != nil {
		return err
	}
	servers, err := p.connected(ctx, members)
	if err != nil {
		return err
	}
	known := make(map[string]Server, len(servers))
	var there []string
	for _, s := range servers {
		known[s.ID] = s
		if s.Connected {
			there = append(there, s.ID)
		}
	}
	var gone []Member
	for _, m := range members {
		server, registered := known[m.ServerID]
		if !forget || server.Connected || now.Sub(m.Seen) < Absence {
			continue
		}
		if registered {
			left, err := p.store.ForgetServer(ctx, server)
			if err != nil {
				return err
			}
			if !left {
				continue
			}
			p.log.Info("a game server left its pool: it was away for too long", "server_id", server.ID, "pool", pool, "name", server.Name)
		}
		gone = append(gone, m)
	}
	if len(there) == 0 && len(gone) == 0 {
		return nil
	}
	return p.store.KeepPool(ctx, pool, there, gone)
}

// connected loads servers of a pool, and says of those that they are connected whose gateway is there, too: one that was killed says no goodbye.
func (p *Pools) connected(ctx context.Context, members []Member) ([]Server, error) {
	ids := make([]string, len(members))
	for n, m := range members {
		ids[n] = m.ServerID
	}
	servers, err := p.store.LoadServers(ctx, ids)
	if err != nil {
		return nil, err
	}
	alive := map[string]bool{}
	for n := range servers {
		s := &servers[n]
		if !s.Connected {
			continue
		}
		stands, asked := alive[s.GatewayID]
		if !asked {
			if stands, err = p.gateways.GatewayAlive(ctx, s.GatewayID); err != nil {
				return nil, err
			}
			alive[s.GatewayID] = stands
		}
		s.Connected = stands
	}
	return servers, nil
}

// errGone says that an attempt's room was given back, or went to a later attempt.
func errGone(attemptID string) error {
	return errs.New(errs.StateNotAllowed, "attempt_id: the room of attempt %s was given back or is a later attempt's, and it gets no other", attemptID)
}
