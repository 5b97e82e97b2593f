package redisx_test

import (
	"context"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
)

func open(t *testing.T, addr string, partitions int) (*redisx.Store, error) {
	t.Helper()
	s, err := redisx.Open(context.Background(), redisx.Config{Addrs: []string{addr}, Partitions: partitions})
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

func TestAKeyspaceKeepsItsPartitions(t *testing.T) {
	m := miniredis.RunT(t)
	for _, asked := range []int{16, 32, 0} {
		s, err := open(t, m.Addr(), asked)
		if err != nil {
			t.Fatal(err)
		}
		if s.Partitions() != 16 {
			t.Errorf("asked for %d, got %d partitions, want the first 16", asked, s.Partitions())
		}
	}
}

func TestKeyspacesThatCannotBeUsedAreRefused(t *testing.T) {
	m := miniredis.RunT(t)
	if _, err := open(t, m.Addr(), 100_000); err == nil {
		t.Error("100000 partitions were accepted")
	}
	m.HSet("berth:meta", "format", "99", "partitions", "8")
	if _, err := open(t, m.Addr(), 8); err == nil || !strings.Contains(err.Error(), "99") {
		t.Errorf("another format: %v", err)
	}
	addr := m.Addr()
	m.Close()
	if _, err := open(t, addr, 8); err == nil {
		t.Error("a store that is not there was opened")
	}
	if _, err := redisx.Open(context.Background(), redisx.Config{}); err == nil || !strings.Contains(err.Error(), "BERTH_REDIS_ADDRS") {
		t.Errorf("no address: %v", err)
	}
}

func TestAStoreThatIsAwayIsUnavailableAndComesBack(t *testing.T) {
	m := miniredis.RunT(t)
	s := redistest.Open(t, m.Addr())
	m.SetError("LOADING")
	if err := redisx.Err(s.Get(context.Background(), "x").Err()); !errs.Is(err, errs.StoreUnavailable) {
		t.Errorf("away: %v", err)
	}
	if s.Ready(context.Background()) == nil {
		t.Error("ready while the store is away")
	}
	m.SetError("")
	if err := s.Ready(context.Background()); err != nil {
		t.Errorf("back: %v", err)
	}
}
