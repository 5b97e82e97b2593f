package redisstore

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/berth-dev/berth/services/allocation/internal/reaper"
)

var (
	//go:embed scripts/lead.lua
	leadSource string
	//go:embed scripts/note.lua
	noteSource string
	//go:embed scripts/noted.lua
	notedSource string
	//go:embed scripts/since.lua
	sinceSource string
)

var _ reaper.Store = (*Store)(nil)

// orphansKept is how long an orphan is remembered that nobody looks for: longer than any pause between two looks.
const orphansKept = time.Hour

// Lead implements allocator.Slots, fleet.Store and reaper.Store.
func (s *Store) Lead(ctx context.Context, what, owner string, lease time.Duration) (bool, error) {
	n, err := s.redis.Write(ctx, s.scripts.lead, []string{leadKey(what)}, owner, lease.Milliseconds()).Int()
	return n == 1, err
}

// Note implements reaper.Store.
func (s *Store) Note(ctx context.Context, provider, look string, attempts []string) error {
	args := []any{int64(orphansKept / time.Second)}
	for _, a := range attempts {
		args = append(args, a)
	}
	return s.redis.Write(ctx, s.scripts.note, []string{orphansKey(provider), lookKey(provider, look)}, args...).Err()
}

// Noted implements reaper.Store.
func (s *Store) Noted(ctx context.Context, provider, look string) error {
	return s.redis.Write(ctx, s.scripts.noted, []string{orphansKey(provider), lookKey(provider, look)}).Err()
}

// Since implements reaper.Store.
func (s *Store) Since(ctx context.Context, provider string, attempts []string) ([]time.Time, time.Time, error) {
	args := make([]any, len(attempts))
	for n, a := range attempts {
		args[n] = a
	}
	reply, err := s.redis.Read(ctx, s.scripts.since, []string{orphansKey(provider)}, args...).StringSlice()
	switch {
	case err != nil:
		return nil, time.Time{}, err
	case len(reply) != len(attempts)+1:
		return nil, time.Time{}, errors.New("orphans: unexpected reply")
	}
	times := make([]time.Time, len(reply))
	for n, r := range reply {
		us, err := strconv.ParseInt(r, 10, 64)
		if err != nil {
			return nil, time.Time{}, fmt.Errorf("orphans: time: %w", err)
		}
		times[n] = time.UnixMicro(us)
	}
	return times[1:], times[0], nil
}
