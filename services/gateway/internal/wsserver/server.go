// Package wsserver speaks the link (docs/link-protocol.md) with game servers: it checks credentials before a connection is upgraded, reads and
// writes frames, and closes with a code that says whether to come back.
package wsserver

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/audit"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/tracing"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/berth-dev/berth/sdk/go/token"

	"github.com/berth-dev/berth/services/gateway/internal/door"
	"github.com/berth-dev/berth/services/gateway/internal/hub"
	"github.com/berth-dev/berth/services/gateway/internal/messages"
	"github.com/berth-dev/berth/services/gateway/internal/metrics"
	"github.com/berth-dev/berth/services/gateway/internal/session"
)

// Upstream is what connections ask of game-instance. Its methods are safe for concurrent use.
type Upstream interface {
	OpenSession(ctx context.Context, server token.Server, gatewayID string, hello *linkv1.Hello) (*sessionv1.OpenSessionResponse, error)
	Pull(ctx context.Context, instanceID string, linkEpoch, after int64) (*sessionv1.PullNotificationsResponse, error)
	// Relay calls done once; neither blocks. traceparent is the call's trace; empty: none.
	Relay(caller *sessionv1.ServerIdentity, req *linkv1.Request, traceparent string, done func(*sessionv1.RelayResponse, error))
	// These queue and do not block.
	CloseSession(serverID string, epoch int64, instances []string)
	TakenOver(serverID string, epoch int64)
	Ack(instanceID string, linkEpoch, offset int64)
}

// Messages takes what game servers say and may be lost. It is safe for concurrent use.
type Messages interface {
	// Send queues a message, and returns why it is lost if it is. It does not block and keeps nothing of the message.
	Send(m messages.Message) error
}

// Limits bound what one connection may do and what may wait for it. Zero fields mean the defaults.
type Limits struct {
	// MaxFrameBytes is the largest frame that a server may send. Default 1 MiB + 64 KiB.
	MaxFrameBytes int64
	// MaxInFlight is how many requests may wait for an answer. Default 64.
	MaxInFlight int
	// MaxQueue and MaxQueueBytes bound the frames that wait to be written to one socket. Defaults 1024 and 4 MiB.
	MaxQueue, MaxQueueBytes int
}

// Config configures a Server.
type Config struct {
	// Verify verifies a pair of tokens; its time is bounded here.
	Verify session.Verify
	// Revoked reports whether a pair that was let in has been revoked since. Default: none.
	Revoked func(token.Server) bool
	// Outage reports whether Berth is known not to be able to renew a pair now.
	Outage func() bool
	// Ready returns an error while nobody can be let in.
	Ready func(context.Context) error
	// Short reports whether memory is too short for another connection. Default: it never is.
	Short func() bool
	// Gateway returns the id of the gateway's life, or an *errs.Error while sessions cannot be opened.
	Gateway func() (string, error)
	// Hub routes to the connections.
	Hub *hub.Hub
	// Upstream is game-instance.
	Upstream Upstream
	// Messages is where messages go that may be lost.
	Messages Messages
	// Limits bound each connection.
	Limits Limits
	// Heartbeat is how often a connection is pinged; one that was silent for two of them is dead. Default 10 s.
	Heartbeat time.Duration
	// HelloTimeout is how long after the upgrade Hello may come. Default 10 s.
	HelloTimeout time.Duration
	// CloseTimeout is how long a connection that is sent away gets for its closing handshake. Default 3 s.
	CloseTimeout time.Duration
	// Now tells the time by which tokens expire. Default time.Now.
	Now func() time.Time
	// Log is where connections are logged.
	Log *slog.Logger
	// Tracer makes spans of requests; nil: there are none.
	Tracer *tracing.Tracer
	// Metrics is where they are counted.
	Metrics *metrics.Metrics
	// Audit gets those that are refused.
	Audit *audit.Recorder
	// Door decides about upgrades before they are looked at, and limits requests. Default: none, so all are taken.
	Door *door.Door
}

// Server is the handler of the link's path. It is safe for concurrent use. Run must run for connections to be pinged and mailboxes to be read; Wait waits
// for the connections' goroutines.
type Server struct {
	cfg     Config
	made    time.Time
	pulls   *puller
	running sync.WaitGroup // the upgrades under way and a goroutine of each connection
	frames  sync.Pool      // of *[]byte, for reading frames
	batches sync.Pool      // of *[]byte, for writing several frames at once
}

// New returns a Server.
func New(cfg Config) *Server {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.Heartbeat, 10*time.Second)
	def(&cfg.HelloTimeout, 10*time.Second)
	def(&cfg.CloseTimeout, 3*time.Second)
	l := &cfg.Limits
	if l.MaxFrameBytes == 0 {
		l.MaxFrameBytes = 1<<20 + 64<<10
	}
	if l.MaxInFlight == 0 {
		l.MaxInFlight = 64
	}
	if l.MaxQueue == 0 {
		l.MaxQueue = 1024
	}
	if l.MaxQueueBytes == 0 {
		l.MaxQueueBytes = 4 << 20
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Revoked == nil {
		cfg.Revoked = func(token.Server) bool { return false }
	}
	if cfg.Short == nil {
		cfg.Short = func() bool { return false }
	}
	cfg.Verify = bounded(cfg.Verify)
	return &Server{
		cfg:    cfg,
		made:   time.Now(),
		pulls:  newPuller(cfg.Upstream, cfg.Metrics),
		frames: sync.Pool{New: func() any { return new(make([]byte, 0, 4<<10)) }},
	}
}

// Run pings connections and reads mailboxes until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	var pulling sync.WaitGroup
	pulling.Go(func() { s.pulls.run(ctx) })
	s.heartbeats(ctx)
	pulling.Wait()
	return nil
}

// Wait waits until every connection's goroutines have ended. No more requests may come.
func (s *Server) Wait(ctx context.Context) error {
	ended := make(chan struct{})
	go func() { s.running.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sweeps is how many times a heartbeat the connections are looked at.
const sweeps = 8

// heartbeats pings each connection every heartbeat, and cuts those that were silent for two.
func (s *Server) heartbeats(ctx context.Context) {
	tick := time.NewTicker(max(s.cfg.Heartbeat/sweeps, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, socket := range s.cfg.Hub.Sockets() {
				if c, ok := socket.(*conn); ok {
					c.beat(ctx, time.Now())
				}
			}
		case <-ctx.Done():
			return
		}
	}
}
