package redisx_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/redisx/redistest"
)

// Over a slow line each connection waits for its answer most of the time. With as few as there are cores, everybody waited for everybody.
func TestAHundredAnswersThatAreLateKeepNobodyElseWaiting(t *testing.T) {
	const late = 100
	addr := redistest.Server(t)
	s, node := redistest.Open(t, addr), redistest.Node(t, addr)
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	defer func() { _ = node.LPush(ctx, "late", strings.Split(strings.Repeat("x", late), "")).Err() }()
	for range late {
		waiting.Go(func() { _ = s.BLPop(ctx, 20*time.Second, "late").Err() })
	}
	tick, limit := time.NewTicker(20*time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for under := ""; under != strconv.Itoa(late); {
		select {
		case <-tick.C:
			under = node.InfoMap(ctx, "clients").Item("Clients", "blocked_clients")
		case <-limit:
			t.Fatalf("%s of %d commands are under way together", under, late)
		}
	}
	if n, err := write(t, s); err != nil || n != 1 {
		t.Errorf("a write beside them: %d, %v", n, err)
	}
}
