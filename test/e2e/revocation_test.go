package e2e

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/sdk/go/gameserver"
)

// A server whose tokens are revoked is cut off at whichever gateway it is, comes in no more, and stays out when all of Berth is restarted.
func TestARevokedServerStaysOut(t *testing.T) {
	s := processes(t)
	bad, good := s.register(t, 1, 1), s.register(t, 1, 1)
	cut, stays := open(t, bad), open(t, good)
	s.ok(t, 0, "POST", "/v1/namespaces/default/revocations", fmt.Sprintf(`{"serverId":%q,"reason":"stolen"}`, bad.Server), nil)
	select {
	case <-cut.Done():
	case <-within(t).Done():
		t.Fatal("the revoked server is still connected")
	}
	out := func(when string) {
		t.Helper()
		_, err := gameserver.Open(within(t), gameserver.WithBootstrap(bad))
		var refused *gameserver.Error
		if !errors.As(err, &refused) || refused.Reason != "CREDENTIALS_REVOKED" {
			t.Errorf("%s the server is answered %v", when, err)
		}
	}
	out("at once")
	if _, err := stays.Create(within(t), nil); err != nil {
		t.Errorf("another server: %v", err)
	}
	for _, p := range s.procs {
		p.Kill(t)
	}
	for _, p := range s.procs {
		p.Start(t)
	}
	for _, p := range s.procs {
		p.Ready(t)
	}
	out("after a restart")
}

// BenchmarkRevocation measures how long it takes from the call that revokes a server, through one gateway, until the server's socket on the other one
// is closed.
func BenchmarkRevocation(b *testing.B) {
	rounds := 200
	if testing.Short() {
		rounds = 5
	}
	// One key makes all calls.
	s := processesWith(b, redistest.Server(b), nil, func(string) []string { return []string{"BERTH_LIMIT_CREDENTIAL_PER_SECOND=0"} })
	var took []time.Duration
	for b.Loop() { // once, however long it is to take
		for range rounds {
			doc := s.register(b, 1, 1)
			host := open(b, doc)
			begin := time.Now()
			s.ok(b, 0, "POST", "/v1/namespaces/default/revocations", fmt.Sprintf(`{"serverId":%q,"reason":"measured"}`, doc.Server), nil)
			select {
			case <-host.Done():
				took = append(took, time.Since(begin))
			case <-within(b).Done():
				b.Fatal("the revoked server is still connected")
			}
		}
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op") // of no use for what measures itself
	for _, f := range []struct {
		name    string
		percent int
	}{{"p50", 50}, {"p99", 99}} {
		b.ReportMetric(float64(took[len(took)*f.percent/100].Microseconds())/1000, f.name+":ms")
	}
}
