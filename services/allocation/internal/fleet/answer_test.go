package fleet_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/fleet"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

// shy is a provider that answers late.
type shy struct {
	allocator.Host
	answers atomic.Bool
}

func (s *shy) Current(info allocator.ProviderInfo) (allocator.ProviderInfo, string) {
	if info.Unanswered = !s.answers.Load(); info.Unanswered {
		return info, "away"
	}
	info.Builds = []string{"x"}
	return info, ""
}

// The policy is checked again when a provider answers that had not at the start, and only then.
func TestWhatAnswersLateIsChecked(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s, checked := new(shy), make(chan []placement.Provider, 100)
		var lines bytes.Buffer
		f, err := fleet.New(t.Context(), fleet.Config{
			Store: redisstore.New(r), Owner: "one", Log: slog.New(slog.NewTextHandler(&lines, nil)), Health: func() []allocator.Health { return nil },
			Providers: []allocator.Provider{{Info: allocator.ProviderInfo{Name: "plug"}, Host: s}},
			Check: func(list []placement.Provider) error {
				checked <- list
				return errors.New("a rule wants more")
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if list := f.Providers(); !list[0].Unanswered {
			t.Errorf("before it has answered: %+v", list)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = f.Run(ctx) })
		s.answers.Store(true)
		list := <-checked
		cancel()
		running.Wait()
		if len(list) != 1 || list[0].Unanswered || list[0].Builds[0] != "x" || len(checked) != 0 {
			t.Errorf("checked with %+v, and %d times more", list, len(checked))
		}
		if n := strings.Count(lines.String(), "a rule wants more"); n != 1 {
			t.Errorf("said %d times: %s", n, &lines)
		}
	})
}
