package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/redisx"
)

// Settings are those of a service.
type Settings struct {
	// Stdout writes entries to standard output, a line of JSON each. Default true.
	Stdout bool `yaml:"stdout" env:"STDOUT"`
	// StreamLength is how many entries, of all services together, Redis keeps, about. 1,000 to 10,000,000. Default 100,000.
	StreamLength int `yaml:"stream_length" env:"STREAM_LENGTH"`
}

// DefaultSettings returns the defaults.
func DefaultSettings() Settings { return Settings{Stdout: true, StreamLength: 100_000} }

// Validate returns an error that names the setting to change.
func (s Settings) Validate() error {
	if s.StreamLength < 1_000 || s.StreamLength > 10_000_000 {
		return fmt.Errorf("audit.stream_length (BERTH_AUDIT_STREAM_LENGTH): must be 1000 to 10000000, not %d", s.StreamLength)
	}
	return nil
}

// Appender takes entries, in order.
type Appender interface {
	// Append appends all entries and keeps about length of the newest.
	Append(ctx context.Context, length int, entries []Entry) error
}

// Config configures a Recorder.
type Config struct {
	// Service is who records.
	Service string
	// Stream keeps the entries.
	Stream Appender
	// Length is how many entries the stream keeps.
	Length int
	// Out gets a line of JSON for each entry; nil: nothing is written.
	Out io.Writer
	// Log is where trouble with the stream is logged.
	Log *slog.Logger
	// Metrics is where entries are counted; nil: nowhere.
	Metrics prometheus.Registerer
	// Queue is how many entries may wait for the stream, and for Out. 0 means 8192.
	Queue int
	// Window is how long equal refusals are folded into one. 0 means a minute.
	Window time.Duration
}

// Recorder takes entries and writes them in the background. It is safe for concurrent use; a nil one records nothing. Run must run.
type Recorder struct {
	cfg     Config
	out     *slog.Logger
	lines   chan Entry // when it is full, a line is dropped and counted
	rows    chan Entry // when it is full, an entry is dropped, counted, and the stream says so
	lost    atomic.Int64
	folds   *folder
	entries *prometheus.CounterVec
	drops   *prometheus.CounterVec
}

// New returns a Recorder.
func New(cfg Config) *Recorder {
	if cfg.Queue == 0 {
		cfg.Queue = 8192
	}
	if cfg.Window == 0 {
		cfg.Window = time.Minute
	}
	r := &Recorder{
		cfg: cfg, rows: make(chan Entry, cfg.Queue), lines: make(chan Entry, cfg.Queue), folds: newFolder(),
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_audit_entries_total", Help: "Acts and refusals of the audit, folded ones included, by kind."}, []string{"kind"}),
		drops:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_audit_lost_total", Help: "Entries of the audit that could not be kept, by where: stream or stdout."}, []string{"where"}),
	}
	if cfg.Metrics != nil {
		r.entries, r.drops = app.Register(cfg.Metrics, r.entries), app.Register(cfg.Metrics, r.drops)
	}
	if cfg.Out != nil {
		r.out = slog.New(slog.NewJSONHandler(cfg.Out, nil))
	}
	return r
}

// Open returns a Recorder that runs with the program and writes to its store and standard output.
func Open(b *app.Builder, s Settings, service string, store *redisx.Store) *Recorder {
	cfg := Config{Service: service, Stream: NewStream(store), Length: s.StreamLength, Log: b.Log(), Metrics: b.Metrics()}
	if s.Stdout {
		cfg.Out = os.Stdout
	}
	r := New(cfg)
	b.Run("audit", r.Run)
	return r
}

// Act records something that changes, or was to change, something.
func (r *Recorder) Act(e Entry) {
	if r == nil {
		return
	}
	r.entries.WithLabelValues("act").Inc()
	r.put(r.complete(e))
}

// Refuse records a refusal. Of equal ones, and of many from one address, only the first is written at once; the others are counted and written as one
// entry a minute later, so that who is refused a thousand times a second pushes nothing else out.
func (r *Recorder) Refuse(e Entry) {
	if r == nil {
		return
	}
	r.entries.WithLabelValues("refusal").Inc()
	if e = r.complete(e); r.folds.add(e) {
		r.put(e)
	}
}

// complete fills in what the recorder knows, and cleans the rest.
func (r *Recorder) complete(e Entry) Entry {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.LastTime.IsZero() {
		e.LastTime = e.Time
	}
	e.Count, e.Service, e.ID = max(1, e.Count), r.cfg.Service, uuid.NewString()
	e.clean()
	return e
}

// put queues an entry; it never waits.
func (r *Recorder) put(e Entry) {
	select {
	case r.rows <- e:
	default:
		r.lost.Add(1)
		r.drops.WithLabelValues("stream").Inc()
	}
	if r.out == nil {
		return
	}
	select {
	case r.lines <- e:
	default:
		r.drops.WithLabelValues("stdout").Inc()
	}
}

// Run writes entries until ctx is cancelled, and then what is left.
func (r *Recorder) Run(ctx context.Context) error {
	var writers sync.WaitGroup
	ended := make(chan struct{}) // when nothing is put any more
	writers.Go(func() { r.print(ctx, ended) })
	writers.Go(func() { r.write(ctx, ended) })
	tick := time.NewTicker(r.cfg.Window)
	defer tick.Stop()
	for over := false; !over; { // also one that is over before it began has something to write
		select {
		case <-ctx.Done():
			over = true
		case <-tick.C:
		}
		for _, e := range r.folds.flush() {
			r.put(r.complete(e))
		}
	}
	close(ended)
	writers.Wait()
	return nil
}

// print writes lines.
func (r *Recorder) print(ctx context.Context, ended <-chan struct{}) {
	for {
		select {
		case e := <-r.lines:
			r.line(ctx, e)
		case <-ended:
			for {
				select {
				case e := <-r.lines:
					r.line(ctx, e)
				default:
					return
				}
			}
		}
	}
}

func (r *Recorder) line(ctx context.Context, e Entry) {
	attrs := []slog.Attr{slog.Bool("audit", true), slog.String("id", e.ID), slog.Time("at", e.Time), slog.String("service", e.Service)}
	for _, a := range []struct{ key, value string }{
		{"namespace", e.Namespace}, {"actor", e.Actor}, {"role", e.Role}, {"action", e.Action}, {"resource", e.Resource}, {"address", e.Address},
		{"forwarded_for", e.ForwardedFor}, {"outcome", e.Outcome}, {"detail", e.Detail}, {"request_id", e.RequestID},
	} {
		if a.value != "" {
			attrs = append(attrs, slog.String(a.key, a.value))
		}
	}
	if e.Count > 1 {
		attrs = append(attrs, slog.Int64("count", e.Count), slog.Time("last", e.LastTime))
	}
	r.out.LogAttrs(ctx, slog.LevelInfo, "audit", attrs...)
}

const (
	// batchSize is how many entries are written at once, at most.
	batchSize = 256
	// writeTimeout bounds one attempt to write them.
	writeTimeout = 3 * time.Second
	// restTimeout bounds what is written at the end of the program. The attempt before may still wait for its answer, and both must fit into a stop.
	restTimeout = 2 * time.Second
	// writePause and maxWritePause are between attempts.
	writePause, maxWritePause = 100 * time.Millisecond, 5 * time.Second
)

// write appends entries to the stream. While that fails they stay here, and those behind them in the queue.
func (r *Recorder) write(ctx context.Context, ended <-chan struct{}) {
	var batch []Entry
	pause := writePause
	for {
		if len(batch) == 0 {
			select {
			case e := <-r.rows:
				batch = append(batch, e)
			case <-ended:
				r.writeRest(ctx, nil)
				return
			}
		}
		batch = r.gather(batch)
		err := r.append(ctx, batch)
		if err == nil {
			batch, pause = batch[:0], writePause
			continue
		}
		if pause == writePause && !errors.Is(err, context.Canceled) {
			r.cfg.Log.Warn("the audit cannot be written to the store; it is kept and tried again", "error", err)
		}
		select {
		case <-ended:
			r.writeRest(ctx, batch)
			return
		case <-time.After(pause):
			pause = min(2*pause, maxWritePause)
		}
	}
}

// gather adds what waits to a batch, and says how much was lost before.
func (r *Recorder) gather(batch []Entry) []Entry {
	if n := r.lost.Swap(0); n > 0 {
		batch = append(batch, r.complete(Entry{
			Actor: "service:" + r.cfg.Service, Action: Overflow, Outcome: Lost, Count: n,
			Detail: "the store did not take entries as fast as they came; standard output has those that are missing",
		}))
	}
	for len(batch) < batchSize {
		select {
		case e := <-r.rows:
			batch = append(batch, e)
		default:
			return batch
		}
	}
	return batch
}

func (r *Recorder) append(ctx context.Context, batch []Entry) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return r.cfg.Stream.Append(ctx, r.cfg.Length, batch)
}

// writeRest writes what is left at the end of the program, as far as one timeout allows.
func (r *Recorder) writeRest(ctx context.Context, batch []Entry) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restTimeout)
	defer cancel()
	for {
		if batch = r.gather(batch); len(batch) == 0 {
			return
		}
		if err := r.append(ctx, batch); err != nil {
			n := len(batch) + len(r.rows)
			r.drops.WithLabelValues("stream").Add(float64(n))
			r.cfg.Log.Error("the program ends before the store took the rest of the audit", "entries", n, "error", err)
			return
		}
		batch = batch[:0]
	}
}
