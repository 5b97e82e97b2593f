// Package upstream is the gateway's way to game-instance: game servers' calls over a few pooled streams, and the calls about their sessions and
// mailboxes. What must arrive in the end (acknowledgements, the ends of sessions) is kept here and repeated until it is answered.
package upstream

import (
	"context"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/pkg/errs"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/rpc"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/berth-dev/berth/sdk/go/token"

	"github.com/berth-dev/berth/services/gateway/internal/incarnation"
	"github.com/berth-dev/berth/services/gateway/internal/metrics"
)

const (
	unaryTimeout = 5 * time.Second
	// perInstance is how much longer a call may take for each instance that it names: they are dealt with one after the other.
	perInstance = 5 * time.Millisecond
	// maxOpening is how many sessions are opened at once. When another gateway dies, its servers all come here within a second; asked for all at once, their
	// sessions would take longer to open than anybody waits, and all would have to be opened again.
	maxOpening = 64
	// openingWait is how long a session waits for its turn, and openingTime how long its opening may take with that: clearly less than a server waits for
	// Welcome (the Go SDK 15 s from dialling), so that it is told to try again and does not find out by giving up.
	openingWait = 5 * time.Second
	openingTime = 10 * time.Second
	// expiryTick is how exact the timeouts of relayed calls are.
	expiryTick = 100 * time.Millisecond
)

// Config configures a Client.
type Config struct {
	// Conn is the connection to game-instance; it shows the internal key.
	Conn grpc.ClientConnInterface
	// Streams is how many Relay streams are held open. Default 4.
	Streams int
	// CallTimeout is how long a relayed call may take, over however many streams. Default 10 s.
	CallTimeout time.Duration
	// Log is where broken streams are logged.
	Log *slog.Logger
	// Metrics is where they are counted.
	Metrics *metrics.Metrics
}

// Client speaks to game-instance. It is safe for concurrent use. Run must run for calls to be relayed and for acknowledgements and ends of sessions to
// be sent.
type Client struct {
	sessions sessionv1.SessionServiceClient
	timeout  time.Duration
	seed     maphash.Seed
	lanes    []*lane
	acks     *acks
	closes   *closes
	opening  chan struct{} // holds a value for each session that is being opened
}

// New returns a Client.
func New(cfg Config) *Client {
	if cfg.Streams == 0 {
		cfg.Streams = 4
	}
	if cfg.CallTimeout == 0 {
		cfg.CallTimeout = 10 * time.Second
	}
	sessions := sessionv1.NewSessionServiceClient(cfg.Conn)
	c := &Client{
		sessions: sessions,
		timeout:  cfg.CallTimeout,
		seed:     maphash.MakeSeed(),
		acks:     newAcks(sessions, cfg.Log),
		closes:   newCloses(sessions, cfg.Log),
		opening:  make(chan struct{}, maxOpening), // overflow: the next one waits for its turn, and is then refused
	}
	for range cfg.Streams {
		c.lanes = append(c.lanes, newLane(sessions, cfg.Log, cfg.Metrics))
	}
	return c
}

// Run holds the streams open and sends what is queued until ctx ends. Calls without an answer are then failed.
func (c *Client) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, l := range c.lanes {
		running.Go(func() { l.run(ctx) })
	}
	running.Go(func() { c.acks.run(ctx) })
	running.Go(func() { c.closes.run(ctx) })
	tick := time.NewTicker(expiryTick)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case now := <-tick.C:
			for _, l := range c.lanes {
				l.expire(now)
			}
		case <-ctx.Done():
		}
	}
	running.Wait()
	return nil
}

// Relay passes a game server's call on and calls done once, with the answer or with an *errs.Error. done must not block; it may be called before Relay
// returns. Calls of one server go out in order. caller and req must not be changed afterwards. traceparent is the call's trace; it may be empty.
func (c *Client) Relay(caller *sessionv1.ServerIdentity, req *linkv1.Request, traceparent string, done func(*sessionv1.RelayResponse, error)) {
	l := c.lanes[maphash.String(c.seed, caller.GetServerId())%uint64(len(c.lanes))]
	l.submit(&call{
		deadline: time.Now().Add(c.timeout),
		size:     len(req.GetPayload()) + callOverhead,
		done:     done,
		request: &sessionv1.RelayRequest{
			Identity:    caller,
			Request:     req,
			Traceparent: traceparent,
		},
	})
}

// OpenSession makes a socket its server's session. When many are being opened it waits for its turn, and fails with SERVICE_UNAVAILABLE if that does not come.
// It takes no longer than openingTime, the wait included.
func (c *Client) OpenSession(ctx context.Context, server token.Server, gatewayID string, hello *linkv1.Hello) (*sessionv1.OpenSessionResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, openingTime)
	defer cancel()
	turn := time.NewTimer(openingWait)
	defer turn.Stop()
	select {
	case c.opening <- struct{}{}:
		defer func() { <-c.opening }()
	case <-turn.C:
		return nil, errs.New(errs.ServiceUnavailable, "too many servers connect at once; try again").Retry(time.Second)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancelCall := context.WithTimeout(ctx, timeoutFor(len(hello.GetInstances()))) // or what is left, if that is less
	defer cancelCall()
	resp, err := c.sessions.OpenSession(ctx, &sessionv1.OpenSessionRequest{
		Namespace: server.Namespace, ServerId: server.ID, PairId: server.PairID, GatewayId: gatewayID, Hello: hello,
	})
	return resp, rpc.FromStatus(err)
}

// timeoutFor bounds a call about a session and so many instances.
func timeoutFor(instances int) time.Duration {
	return unaryTimeout + time.Duration(instances)*perInstance
}

// CloseSession says, now or as soon as that is possible, that a session's socket is gone.
func (c *Client) CloseSession(serverID string, epoch int64, instances []string) {
	c.closes.add(&sessionv1.CloseSessionRequest{ServerId: serverID, SessionEpoch: epoch, InstanceIds: instances})
}

// TakenOver says that a session took over those of the server before it, whose ends need not be told any more.
func (c *Client) TakenOver(serverID string, epoch int64) { c.closes.takenOver(serverID, epoch) }

// Lapsed says that all sessions of this gateway's life are over, and that game-instance knows.
func (c *Client) Lapsed() { c.closes.forget() }

// Flush waits until the ends of all sessions have been told, or ctx ends.
func (c *Client) Flush(ctx context.Context) error { return c.closes.flush(ctx) }

// Pull reads an instance's mailbox after an offset.
func (c *Client) Pull(ctx context.Context, instanceID string, linkEpoch, after int64) (*sessionv1.PullNotificationsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, unaryTimeout)
	defer cancel()
	resp, err := c.sessions.PullNotifications(ctx, &sessionv1.PullNotificationsRequest{InstanceId: instanceID, LinkEpoch: linkEpoch, AfterOffset: after})
	return resp, rpc.FromStatus(err)
}

// Ack acknowledges an instance's notifications, soon, together with others.
func (c *Client) Ack(instanceID string, linkEpoch, offset int64) {
	c.acks.add(&sessionv1.MailboxAck{InstanceId: instanceID, LinkEpoch: linkEpoch, Offset: offset})
}

// Renew keeps the lease of a gateway's life.
func (c *Client) Renew(ctx context.Context, gatewayID string, lease time.Duration) (incarnation.Renewal, error) {
	resp, err := c.sessions.RenewGateway(ctx, &sessionv1.RenewGatewayRequest{GatewayId: gatewayID, Lease: durationpb.New(lease)})
	r := incarnation.Renewal{Lapsed: resp.GetLapsed(), Undelivered: resp.GetUndeliveredInstanceIds()}
	if known := resp.GetKnownSince(); known != nil {
		r.Known = known.AsTime()
	}
	return r, rpc.FromStatus(err)
}

// Release gives the lease of a gateway's life back.
func (c *Client) Release(ctx context.Context, gatewayID string, lease time.Duration) error {
	_, err := c.sessions.RenewGateway(ctx, &sessionv1.RenewGatewayRequest{GatewayId: gatewayID, Lease: durationpb.New(lease), Release: true})
	return rpc.FromStatus(err)
}
