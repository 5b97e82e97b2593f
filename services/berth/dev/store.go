package dev

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/redisx"
)

// store is the embedded Redis. It listens on a port that everybody on this machine can reach, so it asks for a password, which is made anew at each start.
type store struct {
	redis    *miniredis.Miniredis
	password conf.Secret
}

func startStore() (*store, error) {
	s := &store{miniredis.NewMiniRedis(), conf.Secret(rand.Text())}
	s.redis.RequireAuth(s.password.Reveal())
	return s, s.redis.Start()
}

// config says how to reach the store.
func (s *store) config() redisx.Config {
	return redisx.Config{Addrs: []string{s.redis.Addr()}, Password: s.password}
}

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
