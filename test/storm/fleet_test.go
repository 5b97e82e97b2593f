package storm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/test/stack"
)

// fleet is many game servers, and their backends.
type fleet struct {
	gateway   string // base URL of the link
	pace      time.Duration
	registry  gameserverv1.GameServerRegistryServiceClient
	instances instancev1.GameInstanceServiceClient
	messages  instancev1.MessageServiceClient
	log       *slog.Logger
	losses    *losses
	members   []*member

	stop    chan struct{} // closed when nothing new is to be written or asked
	living  sync.WaitGroup
	hearing sync.WaitGroup
	halt    context.CancelFunc // gives up what is not answered
}

// newFleet links a fleet and lets it talk until it is told to stop.
func newFleet(t testing.TB, api, gateway string, size scale) *fleet {
	t.Helper()
	conn, err := grpc.NewClient(api, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(withKey))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	f := &fleet{
		gateway: gateway, pace: size.pace, losses: &losses{by: map[string]int{}}, stop: make(chan struct{}),
		registry: gameserverv1.NewGameServerRegistryServiceClient(conn), instances: instancev1.NewGameInstanceServiceClient(conn),
		messages: instancev1.NewMessageServiceClient(conn),
	}
	f.log = slog.New(f.losses)
	t.Cleanup(func() { f.close(t) })
	f.link(t, size.servers)
	ctx, halt := context.WithCancel(context.Background())
	f.halt = halt
	byID := map[string]*member{}
	for _, m := range f.members {
		byID[m.id] = m
	}
	f.hearing.Go(func() { f.collect(ctx, byID) })
	for _, m := range f.members {
		f.hearing.Go(m.hear)
		f.living.Go(func() { m.live(ctx, f.stop) })
	}
	return f
}

// reports is the topic of what servers report.
const reports = "reports"

// collect is the backend of all members that watches for what they report, again and again, and acknowledges some of it: the rest comes again with the next watch.
func (f *fleet) collect(ctx context.Context, byID map[string]*member) {
	const ackEvery = 4
	watching := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+stack.APIKey)
	for ctx.Err() == nil {
		stream, err := f.messages.WatchMessages(watching, &instancev1.WatchMessagesRequest{Topics: []string{reports}})
		for err == nil {
			var resp *instancev1.WatchMessagesResponse
			if resp, err = stream.Recv(); err != nil {
				break
			}
			got := resp.GetMessage()
			m, n := byID[got.GetInstanceId()], noteIn(got.GetData())
			if m == nil {
				continue // another fleet's
			}
			m.ledger.Received(n, got.GetOffset())
			if n%ackEvery == 0 {
				_ = insist(ctx, func(ctx context.Context) error {
					_, err := f.messages.AckMessages(ctx, &instancev1.AckMessagesRequest{InstanceId: m.id, Offset: got.GetOffset()})
					return err
				}) // one that is refused comes again
			}
		}
		wait(ctx, nil, 100*time.Millisecond)
	}
}

// withKey makes each call that of a backend.
func withKey(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+stack.APIKey), method, req, reply, conn, opts...)
}

// link links all members, some at a time.
func (f *fleet) link(t testing.TB, servers int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for n := range servers {
		f.members = append(f.members, &member{fleet: f, ledger: &Ledger{Name: fmt.Sprint("server ", n)}})
	}
	failed := make(chan error, servers)
	places := make(chan struct{}, 16)
	for _, m := range f.members {
		places <- struct{}{}
		go func() {
			failed <- m.join(ctx)
			<-places
		}()
	}
	var errs []error
	for range f.members {
		errs = append(errs, <-failed)
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// quiet lets nothing new begin, and waits until what is under way is answered and every note has been heard of. What is not after the patience becomes a fault
// of its ledger.
func (f *fleet) quiet(patience time.Duration) {
	close(f.stop)
	giveUp := time.AfterFunc(patience, f.halt)
	f.living.Wait()
	giveUp.Stop()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for slices.ContainsFunc(f.members, func(m *member) bool { return m.ledger.Waiting() }) {
		select {
		case <-poll.C:
		case <-limit.C:
			return
		}
	}
}

// flows waits until every server has heard of something new and has had an answer since.
func (f *fleet) flows(t testing.TB, patience time.Duration) {
	t.Helper()
	type counts struct{ written, asked int64 }
	before := map[*member]counts{}
	for _, m := range f.members {
		written, _, asked := m.ledger.Counts()
		before[m] = counts{written, asked}
	}
	stack.EventuallyIn(t, patience, "notifications and requests flow", func() error {
		for m, was := range before {
			_, seen, asked := m.ledger.Counts()
			if seen <= was.written || asked <= was.asked+1 { // the first may have been answered before, and only be counted now
				return fmt.Errorf("%s has heard of %d (was written: %d), and had %d answers (were: %d)", m.ledger.Name, seen, was.written, asked, was.asked)
			}
			delete(before, m)
		}
		return nil
	})
}

// settle returns what both ends have counted, and all that is wrong.
func (f *fleet) settle(ctx context.Context) (sum Sum, faults []string) {
	for _, m := range f.members {
		stored, err := m.stored(ctx)
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s: %v", m.ledger.Name, err))
			continue
		}
		faults = append(faults, m.ledger.Settle(stored)...)
		sum.Add(m.ledger)
	}
	return sum, faults
}

// close ends everything that newFleet started.
func (f *fleet) close(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if f.halt != nil {
		f.halt()
	}
	f.living.Wait()
	var closing sync.WaitGroup
	for _, m := range f.members {
		if m.host != nil {
			closing.Go(func() {
				if err := m.host.Close(ctx); err != nil {
					t.Error(err)
				}
			})
		}
	}
	closing.Wait()
	f.hearing.Wait()
}

// losses counts, as the handler of the SDK's log, why links were lost.
type losses struct {
	mu sync.Mutex
	by map[string]int
}

// Enabled implements slog.Handler.
func (*losses) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

// Handle implements slog.Handler.
func (l *losses) Handle(_ context.Context, r slog.Record) error {
	what := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" || a.Key == "reason" {
			what += ": " + a.Value.String()
		}
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.by[what]++
	return nil
}

// WithAttrs implements slog.Handler.
func (l *losses) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements slog.Handler.
func (l *losses) WithGroup(string) slog.Handler { return l }

// String lists the reasons, the most frequent first.
func (l *losses) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	reasons := slices.SortedFunc(maps.Keys(l.by), func(a, b string) int { return l.by[b] - l.by[a] })
	var b strings.Builder
	for _, r := range reasons[:min(len(reasons), 15)] {
		fmt.Fprintf(&b, "\n  %5d × %.200s", l.by[r], r)
	}
	return b.String()
}
