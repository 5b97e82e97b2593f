package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a stream that can be away.
type memory struct {
	mu      sync.Mutex
	away    bool
	entries []audit.Entry
	tried   chan struct{} // gets a value for each attempt, if somebody waits
}

func (m *memory) Append(_ context.Context, _ int, entries []audit.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case m.tried <- struct{}{}:
	default:
	}
	if m.away {
		return errors.New("away")
	}
	m.entries = append(m.entries, entries...)
	return nil
}

func (m *memory) set(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = away
}

func (m *memory) all() []audit.Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.entries)
}

// run runs a recorder, and returns a func that stops it, with everything written.
func run(t *testing.T, cfg audit.Config) (*audit.Recorder, func()) {
	t.Helper()
	cfg.Service = "test"
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Length == 0 {
		cfg.Length = 1000
	}
	if cfg.Window == 0 {
		cfg.Window = time.Hour // only the end is one
	}
	r := audit.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	stop := sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return r, stop
}

func act(n int) audit.Entry {
	return audit.Entry{Action: fmt.Sprint("act ", n), Actor: "key:lobby", Outcome: audit.OK}
}

func TestNothingIsLostWhileTheStoreIsAwayButWhatOverflows(t *testing.T) {
	m := &memory{away: true, tried: make(chan struct{})}
	reg := prometheus.NewRegistry()
	var out bytes.Buffer
	r, stop := run(t, audit.Config{Stream: m, Queue: 10, Metrics: reg, Out: &out})
	r.Act(act(0))
	for range 2 { // the first entry is taken out of the queue, and is tried again
		select {
		case <-m.tried:
		case <-time.After(time.Minute):
			t.Fatal("it is not tried again")
		}
	}
	const overflow = 7
	for n := range 10 + overflow {
		r.Act(act(1 + n))
	}
	m.set(false)
	stop()
	var acts []string
	var lost int64
	for _, e := range m.all() {
		if e.Action == audit.Overflow {
			if e.Outcome != audit.Lost {
				t.Errorf("%+v", e)
			}
			lost += e.Count
			continue
		}
		acts = append(acts, e.Action)
	}
	var want []string
	for n := range 18 - lost {
		want = append(want, fmt.Sprint("act ", n))
	}
	// Some of the queue may have been taken between the calls.
	if lost == 0 || lost > overflow || !slices.Equal(acts, want) {
		t.Errorf("%d are said to be lost, and these are there: %v", lost, acts)
	}
	if got := counter(t, reg, "berth_audit_lost_total", "stream"); got != float64(lost) {
		t.Errorf("the metric says that %v are lost, the stream %d", got, lost)
	}
}

func counter(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// A caller must not wait for a stream, or for a pipe that nobody reads.
func TestACallIsNeverHeldUp(t *testing.T) {
	reader, writer := io.Pipe()
	r, stop := run(t, audit.Config{Stream: &memory{away: true}, Queue: 2, Out: writer})
	for n := range 100 {
		r.Act(act(n))
	}
	_ = reader.Close()
	stop()
}

func TestWhatIsLeftAtTheEndIsSaid(t *testing.T) {
	var log bytes.Buffer
	r, stop := run(t, audit.Config{Stream: &memory{away: true}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	r.Act(act(1))
	r.Act(act(2))
	stop()
	if !strings.Contains(log.String(), "entries=2") {
		t.Error(log.String())
	}
}

func TestAFloodOfRefusalsIsFolded(t *testing.T) {
	for name, c := range map[string]struct {
		entry func(n int) audit.Entry
		most  int
	}{
		"the same again": {func(int) audit.Entry {
			return audit.Entry{Address: "1.2.3.4:5", Actor: audit.Unknown, Action: "a", Outcome: "CREDENTIALS_INVALID", Detail: "exact"}
		}, 2},
		"from other ports, of other instances": {func(n int) audit.Entry {
			return audit.Entry{Address: fmt.Sprintf("1.2.3.4:%d", n), Actor: audit.Unknown, Action: "a", Outcome: "X", Resource: fmt.Sprint("instance:", n), Namespace: fmt.Sprint(n), RequestID: fmt.Sprint(n)}
		}, 2},
		"for many": {func(n int) audit.Entry {
			return audit.Entry{Address: "1.2.3.4:5", ForwardedFor: fmt.Sprintf("10.0.%d.%d", n/250, n%250), Action: "a", Outcome: "X"}
		}, 2*16 + 1},
		"from a network of IPv6": {func(n int) audit.Entry {
			return audit.Entry{Address: fmt.Sprintf("[2001:db8::%x]:5", n), Action: "a", Outcome: "X"}
		}, 2},
		"from everywhere": {func(n int) audit.Entry {
			return audit.Entry{Address: fmt.Sprintf("10.0.%d.%d:5", n/250, n%250), Action: "a", Outcome: "X"}
		}, 256 + 256 + 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{}
			r, stop := run(t, audit.Config{Stream: m})
			const total = 10_000
			for n := range total {
				r.Refuse(c.entry(n))
			}
			stop()
			var sum int64
			for _, e := range m.all() {
				sum += e.Count
				if e.LastTime.Before(e.Time) || e.Action == "" {
					t.Errorf("%+v", e)
				}
			}
			if len(m.all()) > c.most || sum != total {
				t.Errorf("%d entries for %d refusals of %d", len(m.all()), sum, total)
			}
			if first := m.all()[0]; first.Count != 1 || first.Address != c.entry(0).Address || first.Detail != c.entry(0).Detail {
				t.Errorf("the first is %+v", first)
			}
		})
	}
}

// What a caller has proven is no text of its own choice: refusals about one instance do not hide those about another.
func TestRefusalsAboutWhatWasProvenAreToldApart(t *testing.T) {
	m := &memory{}
	r, stop := run(t, audit.Config{Stream: m})
	for n := range 30 {
		r.Refuse(audit.Entry{Address: "1.2.3.4:5", Action: "a", Outcome: "X", Namespace: "n", Resource: fmt.Sprint("instance:", n%3), Proven: true})
	}
	stop()
	of := make(map[string]int64)
	for _, e := range m.all() {
		of[e.Namespace+" "+e.Resource] += e.Count
	}
	if len(of) != 3 || of["n instance:0"] != 10 || len(m.all()) != 6 {
		t.Errorf("%v, in %d entries", of, len(m.all()))
	}
}

func TestRefusalsOfTheNextMinuteAreWrittenAgain(t *testing.T) {
	m := &memory{}
	r, stop := run(t, audit.Config{Stream: m, Window: time.Millisecond})
	deadline := time.Now().Add(time.Minute)
	single := func() (n int) {
		for _, e := range m.all() {
			if e.Count == 1 && e.Detail == "exact" {
				n++
			}
		}
		return n
	}
	for single() < 3 && time.Now().Before(deadline) {
		r.Refuse(audit.Entry{Address: "1.2.3.4:5", Action: "a", Outcome: "X", Detail: "exact"})
	}
	stop()
	if single() < 3 {
		t.Errorf("%+v", m.all())
	}
}

const (
	jwt    = "eyJhbGciOiJFZERTQSIsImtpZCI6ImsxIn0.eyJzdWIiOiJzZXJ2ZXIifQ.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
	apiKey = "berth_ThisKeyMustNotBeFoundAnywhere"
)

func TestNoSecretIsEverWritten(t *testing.T) {
	m := &memory{}
	var out bytes.Buffer
	r, stop := run(t, audit.Config{Stream: m, Out: &out})
	for _, secret := range []string{jwt, apiKey, "Bearer " + apiKey, "bearer opaque-secret", "x" + jwt + "y", jwt[:40], strings.Repeat("a", 240) + apiKey} {
		e := audit.Entry{Namespace: secret, Actor: secret, Role: secret, Action: secret, Resource: secret, Address: secret, ForwardedFor: secret, Outcome: secret, Detail: "a " + secret + " b", RequestID: secret}
		r.Act(e)
		r.Refuse(e)
	}
	stop()
	written := out.String() + fmt.Sprintf("%+v", m.all())
	for _, part := range []string{"eyJhbGci", "ThisKeyMust", "opaque-secret", "c2lnbmF0"} {
		if strings.Contains(written, part) {
			t.Errorf("%s is in %s", part, written)
		}
	}
	if n := len(m.all()); n < 8 { // equal refusals are folded
		t.Errorf("only %d entries", n)
	}
}

func TestTextsAreBounded(t *testing.T) {
	m := &memory{}
	r, stop := run(t, audit.Config{Stream: m})
	r.Act(audit.Entry{Actor: strings.Repeat("ä", 10_000), Detail: "\xff" + strings.Repeat("ä", 10_000)})
	stop()
	if e := m.all()[0]; len(e.Actor) > 256 || len(e.Detail) > 1024 || !strings.HasPrefix(e.Detail, "\uFFFDä") {
		t.Errorf("%d and %d bytes: %.20q", len(e.Actor), len(e.Detail), e.Detail)
	}
}

func TestLinesHaveWhoWhatWhereAndOutcome(t *testing.T) {
	var out bytes.Buffer
	r, stop := run(t, audit.Config{Stream: &memory{}, Out: &out})
	e := audit.Entry{Namespace: "eu", Actor: "key:ops", Role: "OPERATOR", Action: "a", Resource: "instance:1", Address: "1.2.3.4:5", ForwardedFor: "5.6.7.8", Outcome: "OK", Detail: "d", RequestID: "r"}
	r.Act(e)
	stop()
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"audit": true, "service": "test", "namespace": "eu", "actor": "key:ops", "role": "OPERATOR", "action": "a", "resource": "instance:1", "address": "1.2.3.4:5",
		"forwarded_for": "5.6.7.8", "outcome": "OK", "detail": "d", "request_id": "r",
	} {
		if line[key] != want {
			t.Errorf("%s is %v", key, line[key])
		}
	}
}

func TestNoRecorderRecordsNothing(*testing.T) {
	var r *audit.Recorder
	r.Act(act(1))
	r.Refuse(act(2))
}

func TestStream(t *testing.T) {
	redistest.Each(t, func(t *testing.T, store *redisx.Store) {
		ctx := context.Background()
		s := audit.NewStream(store)
		all := func(audit.Entry) bool { return true }
		if page, next, err := s.Page(ctx, "", 10, all); err != nil || len(page) != 0 || next != "" {
			t.Errorf("of none: %v, %q, %v", page, next, err)
		}
		at := time.Now().UTC().Truncate(time.Microsecond)
		whole := audit.Entry{
			ID: "id", Time: at, LastTime: at.Add(time.Second), Count: 3, Service: "s", Namespace: "n", Actor: "a", Role: "r", Action: "x", Resource: "y",
			Address: "1.2.3.4:5", ForwardedFor: "5.6.7.8", Outcome: "OK", Detail: "d", RequestID: "q",
		}
		if err := s.Append(ctx, 1000, []audit.Entry{whole}); err != nil {
			t.Fatal(err)
		}
		if page, _, err := s.Page(ctx, "", 10, all); err != nil || len(page) != 1 || page[0] != whole {
			t.Errorf("came back as %+v, %v", page, err)
		}

		var batch []audit.Entry
		for n := range 1200 {
			batch = append(batch, audit.Entry{Action: fmt.Sprint(n), Actor: []string{"even", "odd"}[n%2], Time: at, LastTime: at})
		}
		if err := s.Append(ctx, 100_000, batch); err != nil {
			t.Fatal(err)
		}
		// Pages of a filtered list are whole, in order, newest first, and end.
		var got []string
		place, pages := "", 0
		for {
			page, next, err := s.Page(ctx, place, 70, func(e audit.Entry) bool { return e.Actor == "odd" })
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page {
				got = append(got, e.Action)
			}
			pages++
			if place = next; place == "" {
				break
			}
		}
		if len(got) != 600 || got[0] != "1199" || got[599] != "1" || pages != 9 {
			t.Errorf("%d entries from %s to %s in %d pages", len(got), got[0], got[len(got)-1], pages)
		}

		// It stays bounded: Redis drops whole nodes of a stream, of 100 entries each.
		for range 3 {
			if err := s.Append(ctx, 1000, batch); err != nil {
				t.Fatal(err)
			}
		}
		if n := store.XLen(ctx, "berth:audit").Val(); n < 1000 || n > 1100 {
			t.Errorf("%d entries are kept of 1000", n)
		}
	})
}

// Nobody is kept waiting by a filter that nothing matches.
func TestAPageIsLookedForInSoManyEntriesOnly(t *testing.T) {
	store := redistest.Embedded(t)
	s := audit.NewStream(store)
	for range 7 {
		if err := s.Append(context.Background(), 100_000, make([]audit.Entry, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	looked := 0
	page, next, err := s.Page(context.Background(), "", 10, func(audit.Entry) bool { looked++; return false })
	if err != nil || len(page) != 0 || next == "" || looked != 5000 {
		t.Errorf("%d looked at, %v, %q, %v", looked, page, next, err)
	}
	if _, next, err = s.Page(context.Background(), next, 10, func(audit.Entry) bool { looked++; return false }); err != nil || next != "" || looked != 7000 {
		t.Errorf("%d looked at, %q, %v", looked, next, err)
	}
}

func TestSettings(t *testing.T) {
	if err := audit.DefaultSettings().Validate(); err != nil {
		t.Error(err)
	}
	if err := (audit.Settings{StreamLength: 999}).Validate(); err == nil || !strings.Contains(err.Error(), "audit.stream_length (BERTH_AUDIT_STREAM_LENGTH)") {
		t.Error(err)
	}
}
