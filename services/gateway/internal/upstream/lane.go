package upstream

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/pkg/errs"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/rpc"

	"github.com/berth-dev/berth/services/gateway/internal/metrics"
)

const (
	// A lane holds at most this much without an answer. A call that finds it full is refused at once and may be repeated later: memory is bounded, and
	// a game-instance that is away makes no backlog that it would have to work off.
	maxCalls     = 8192
	maxBytes     = 64 << 20
	callOverhead = 256

	minBackoff = 50 * time.Millisecond
	maxBackoff = time.Second
	// steady is how long a stream lives that was a good one even if nobody called.
	steady = 5 * time.Second
)

// call is a relayed call without an answer.
type call struct {
	id       uint64
	deadline time.Time
	size     int
	request  *sessionv1.RelayRequest
	done     func(*sessionv1.RelayResponse, error)
}

// lane is one Relay stream at a time. When it breaks, another is opened and the calls without an answer are sent again on it, in order: a call has one
// effect however often it arrives, because the server's frame number goes with it.
type lane struct {
	client  sessionv1.SessionServiceClient
	log     *slog.Logger
	metrics *metrics.Metrics

	mu     sync.Mutex
	lastID uint64
	calls  map[uint64]*call // without an answer; bounded by maxCalls and maxBytes
	queue  []*call          // not sent on this stream yet; a subset of calls
	bytes  int
	wake   chan struct{} // has a token when the queue may be non-empty
}

func newLane(client sessionv1.SessionServiceClient, log *slog.Logger, m *metrics.Metrics) *lane {
	return &lane{client: client, log: log, metrics: m, calls: make(map[uint64]*call), wake: make(chan struct{}, 1)}
}

// submit queues a call.
func (l *lane) submit(c *call) {
	l.mu.Lock()
	if len(l.calls) >= maxCalls || (l.bytes+c.size > maxBytes && len(l.calls) > 0) {
		l.mu.Unlock()
		c.done(nil, unreachable())
		return
	}
	l.lastID++
	c.id, c.request.Id = l.lastID, l.lastID
	l.calls[c.id] = c
	l.bytes += c.size
	l.queue = append(l.queue, c)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take removes a call that got its answer; nil if it has one already.
func (l *lane) take(id uint64) *call {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.calls[id]
	if !ok {
		return nil
	}
	delete(l.calls, id)
	l.bytes -= c.size
	return c
}

// expire fails the calls whose time is up.
func (l *lane) expire(now time.Time) {
	l.fail(func(c *call) bool { return now.After(c.deadline) })
}

func (l *lane) fail(which func(*call) bool) {
	var failed []*call
	l.mu.Lock()
	for id, c := range l.calls {
		if which(c) {
			failed = append(failed, c)
			delete(l.calls, id)
			l.bytes -= c.size
		}
	}
	if len(failed) > 0 {
		l.queue = slices.DeleteFunc(l.queue, func(c *call) bool { return l.calls[c.id] == nil })
	}
	l.mu.Unlock()
	for _, c := range failed {
		c.done(nil, unreachable())
	}
}

func unreachable() error {
	return errs.New(errs.ServiceUnavailable, "the game-instance service does not answer; repeating with the same request id is safe").Retry(time.Second)
}

// run holds a stream open until ctx ends.
func (l *lane) run(ctx context.Context) {
	backoff := minBackoff
	for ctx.Err() == nil {
		opened := time.Now()
		answered, err := l.stream(ctx)
		if ctx.Err() != nil {
			break
		}
		l.metrics.Breaks.Inc()
		if answered || time.Since(opened) > steady {
			backoff = minBackoff
		}
		if backoff == minBackoff { // the first of a row of failures; the others would say the same
			level := slog.LevelWarn
			if e := (*errs.Error)(nil); errors.As(rpc.FromStatus(err), &e) && e.Cause == nil {
				level = slog.LevelInfo // a replica that stops says so
			}
			l.log.Log(ctx, level, "relay stream to game-instance broke; reconnecting", "error", err)
		}
		wait := time.NewTimer(time.Duration(float64(backoff) * (0.5 + rand.Float64()/2)))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
		}
		backoff = min(backoff*2, maxBackoff)
	}
	l.fail(func(*call) bool { return true })
}

// stream opens a stream and works it until it breaks. It reports whether an answer came over it.
func (l *lane) stream(ctx context.Context) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := l.client.Relay(ctx)
	if err != nil {
		return false, err
	}
	l.requeue()
	received := make(chan error, 1)
	go func() {
		err := l.receive(s, &answered)
		cancel() // ends the sender
		received <- err
	}()
	sendErr := l.send(ctx, s)
	cancel()
	err = <-received
	if errors.Is(err, context.Canceled) && sendErr != nil {
		err = sendErr
	}
	return answered, err
}

// requeue makes every call without an answer one that has to be sent, oldest first.
func (l *lane) requeue() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = slices.SortedFunc(maps.Values(l.calls), func(a, b *call) int { return cmp.Compare(a.id, b.id) })
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// send sends what is queued until the stream breaks or ctx ends.
func (l *lane) send(ctx context.Context, s grpc.BidiStreamingClient[sessionv1.RelayRequest, sessionv1.RelayResponse]) error {
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
			return nil
		}
		l.mu.Lock()
		batch := l.queue
		l.queue = nil
		l.mu.Unlock()
		for _, c := range batch {
			left := time.Until(c.deadline)
			if left <= 0 {
				continue // expire answers it
			}
			// The message may be one that went out on a stream that broke: then it is encoded already, and nobody else reads it.
			c.request.Timeout = durationpb.New(left)
			if err := s.Send(c.request); err != nil {
				return err // io.EOF when the stream is over; the receiver has the reason
			}
		}
	}
}

// receive hands answers to their calls until the stream breaks.
func (l *lane) receive(s grpc.BidiStreamingClient[sessionv1.RelayRequest, sessionv1.RelayResponse], answered *bool) error {
	for {
		resp, err := s.Recv()
		if err != nil {
			return err
		}
		*answered = true
		if c := l.take(resp.GetId()); c != nil {
			c.done(resp, nil)
		}
	}
}
