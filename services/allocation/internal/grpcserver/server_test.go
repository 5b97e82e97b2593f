package grpcserver

import (
	"context"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
)

func TestOneWatcherTooManyIsRefused(t *testing.T) {
	s := &Server{watchers: make(chan struct{}, 1)}
	over := func(context.Context) (bool, error) { return true, nil }
	err := s.watch(t.Context(), time.Hour, func(ctx context.Context) (bool, error) {
		if err := s.watch(ctx, time.Hour, over); !errs.Is(err, errs.LimitExceeded) {
			t.Errorf("one beside it: %v", err)
		}
		return true, nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := s.watch(t.Context(), time.Hour, over); err != nil {
		t.Errorf("one after it: %v", err)
	}
}
