package dev

import (
	"context"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/berth-dev/berth/pkg/app"
)

// store is the embedded Redis.
type store struct{ redis *miniredis.Miniredis }

func startStore() (*store, error) {
	m, err := miniredis.Run()
	return &store{m}, err
}

func (s *store) addr() string { return s.redis.Addr() }

// module lets time pass in the store, whose keys otherwise never expire, and closes it last.
func (s *store) module() app.Module {
	return app.Module{Name: "store", Build: func(_ context.Context, b *app.Builder) error {
		b.OnStop(app.StageLast, "embedded store", func(context.Context) error { s.redis.Close(); return nil })
		b.Run("embedded store", func(ctx context.Context) error {
			const beat = time.Second
			tick := time.NewTicker(beat)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return nil
				case <-tick.C:
					s.redis.FastForward(beat)
				}
			}
		})
		return nil
	}}
}
