package timer

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// MassLoss says when so many links are lost that it is rather Berth or its network than the servers.
type MassLoss struct {
	// Share of the links that has to be lost, above 0; 1 is off.
	Share float64
	// Min is how many links have to be lost at least.
	Min int64
	// Limit is how old a loss may be: an older one counts no more and is not held.
	Limit time.Duration
}

// countEvery is how often links are counted at most.
const countEvery = time.Second

// losses knows whether a mass loss stands. It is safe for concurrent use.
type losses struct {
	store   Store
	cfg     MassLoss
	log     *slog.Logger
	metrics *Metrics

	mu       sync.Mutex
	counted  time.Time
	standing bool
}

// stand reports whether a mass loss stands, by a count that is not older than countEvery.
//
// Every link counts that is lost now and was lost within the limit. A window of one grace would not do: the deadlines of links that were lost at its
// beginning pass just as they drop out of it, and instances have graces of their own. What is lost and not held ends with its grace anyhow.
func (l *losses) stand(ctx context.Context) (bool, error) {
	if l.cfg.Share >= 1 {
		return false, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.counted.IsZero() && time.Since(l.counted) < countEvery {
		return l.standing, nil
	}
	links, err := l.store.CountLinks(ctx, l.cfg.Limit)
	if err != nil {
		return false, err
	}
	l.counted = time.Now()
	standing := links.Lost >= l.cfg.Min && float64(links.Lost) > l.cfg.Share*float64(links.Lost+links.Connected)
	l.turn(standing, links)
	return standing, nil
}

// turn says when a mass loss begins and when it is over.
func (l *losses) turn(standing bool, links Links) {
	switch {
	case standing && !l.standing:
		l.metrics.MassLoss.Set(1)
		l.log.Error("mass loss: unusually many links are lost at once; their servers are not given up for now", "lost", links.Lost, "connected", links.Connected, "limit", l.cfg.Limit)
	case !standing && l.standing:
		l.metrics.MassLoss.Set(0)
		l.log.Info("the mass loss is over", "lost", links.Lost, "connected", links.Connected)
	}
	l.standing = standing
}
