// Package session is about the sockets of game servers: which one is a server's session now, which gateway it runs through, and what still waits to
// be delivered over it. It knows nothing of gRPC, protobuf or Redis.
package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/sdk/go/token"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// Session is a game server's way to Berth. It is resumed over many sockets.
type Session struct {
	ServerID  string
	Namespace string
	PairID    string
	ID        string
	// Epoch numbers the sockets.
	Epoch         int64
	GatewayID     string
	ResumeKeyHash []byte
	NonceHash     []byte
	Connected     bool
	ChangeTime    time.Time
	// Left says that the server has left its pool, and Known that it is one of a pool or a registered one, or was until somebody deregistered it. They are not
	// saved: the registry says so.
	Left, Known bool
}

// Sessions stores sessions.
type Sessions interface {
	// LoadSession returns a server's session, with Epoch 0 if there is none, and the store's time.
	LoadSession(ctx context.Context, serverID string) (Session, time.Time, error)
	// SaveSession stores a session if the stored one still has the epoch that was looked at.
	SaveSession(ctx context.Context, s Session, lookedAt int64) (bool, error)
}

// Gateways stores the leases of gateways.
type Gateways interface {
	// RenewGateway keeps a lease, and returns since when it is known without a gap; the zero time if the life is over: it was given back, or its links were seen to.
	// A lease of 0 gives it back.
	RenewGateway(ctx context.Context, id string, lease time.Duration) (known time.Time, err error)
	// GatewayAlive reports whether a lease stands.
	GatewayAlive(ctx context.Context, id string) (bool, error)
	// ExpiredGateways returns the lives whose links have to be seen to: those that gave their lease back, and those whose lease ran out.
	ExpiredGateways(ctx context.Context) (released, ranOut []string, err error)
	// CondemnGateway ends a life whose lease has run out; false if it was renewed meanwhile. From then on it is among those that gave their lease back.
	CondemnGateway(ctx context.Context, id string) (bool, error)
	// ForgetGateway says that a life's links were seen to; the life itself stays known as lapsed for a while.
	ForgetGateway(ctx context.Context, id string) error
	// Links returns the instances that are linked through any gateway.
	Links(ctx context.Context) ([]string, error)
	// LinksThrough returns the instances that are linked through a gateway.
	LinksThrough(ctx context.Context, gatewayID string) ([]string, error)
}

// Mailboxes stores what servers have not acknowledged.
type Mailboxes interface {
	// Pull returns at most limit entries after an offset, oldest first, and whether there are more. It fails with STALE_LINK_EPOCH when the instance was
	// linked afresh since the link of that epoch.
	Pull(ctx context.Context, instanceID string, linkEpoch, after int64, limit int) (deliveries []instance.Delivery, more bool, err error)
	// Ack drops entries up to an offset; none where the instance was linked afresh since the link of that epoch.
	Ack(ctx context.Context, instanceID string, linkEpoch, offset int64) error
	// Undelivered returns the instances linked through a gateway whose entries have waited for an acknowledgement for at least age.
	Undelivered(ctx context.Context, gatewayID string, age time.Duration) ([]string, error)
}

// Instances is what sessions need of instances.
type Instances interface {
	Apply(ctx context.Context, namespace, id string, env instance.Envelope, cmd instance.Command) (*instance.Instance, error)
	Load(ctx context.Context, id string, needs instance.Needs) (instance.Loaded, error)
}

// Servers knows the registered game servers.
type Servers interface {
	// Assigned returns the instances that have room on a server, and whether it is registered at all.
	Assigned(ctx context.Context, serverID string) (instanceIDs []string, registered bool, err error)
}

// Herald tells a gateway that a session of its was taken over. It may lose the news, and does not block.
type Herald interface {
	Replaced(gatewayID, serverID string, epoch int64)
}

// Config names what a Service needs.
type Config struct {
	Sessions  Sessions
	Gateways  Gateways
	Mailboxes Mailboxes
	Instances Instances
	Servers   Servers
	Herald    Herald
	Log       *slog.Logger
}

// Service has the use-cases around sessions. It is safe for concurrent use, but for Reap.
type Service struct {
	Config
	reaping reaping
}

// New returns a Service.
func New(cfg Config) *Service { return &Service{Config: cfg} }

// Hello is what a server says when it opens a socket.
type Hello struct {
	Namespace, ServerID, PairID, GatewayID string
	// ResumeKey of an earlier socket; empty on the first.
	ResumeKey string
	// Nonce of the server's process; empty if it has none.
	Nonce string
	// Pool is the warm pool that the server has joined; empty: none.
	Pool string
	// Links that the server has.
	Links []HelloLink
}

// HelloLink says how far a server is with an instance.
type HelloLink struct {
	InstanceID                  string
	LastOffset, Epoch, Revision int64
	LastRequest                 int64
}

// Opened is a session with a fresh socket.
type Opened struct {
	Session   Session
	ResumeKey string
	Links     []Link
	// RolledBack names the instances of which the server knows more than the store.
	RolledBack []string
	// Assigned names the instances that have room on the registered server and do not go on over the socket.
	Assigned []string
}

// Link is an instance that goes on over the socket.
type Link struct {
	InstanceID    string
	Epoch, Offset int64
}

// Open makes a socket the server's session.
//
// A second socket with the same pair needs the session's resume key, or the nonce of the process that opened it, unless the first one is known to be
// gone.
func (s *Service) Open(ctx context.Context, h Hello) (*Opened, error) {
	opened, resumed, err := s.take(ctx, h)
	if err != nil {
		return nil, err
	}
	assigned, registered, err := s.Servers.Assigned(ctx, h.ServerID)
	if err != nil {
		return nil, err
	}
	if !resumed {
		h.Links = nil // a server that cannot prove to be the same one has no links to go on with
	}
	superseded := error(nil)
	for _, l := range h.Links {
		link, err := s.attach(ctx, h, opened.Session, l)
		switch errs.ReasonOf(err) {
		case "":
			opened.Links = append(opened.Links, link)
		case errs.StateRolledBack:
			opened.RolledBack = append(opened.RolledBack, l.InstanceID)
		case errs.StaleLinkEpoch, errs.InstanceUnknown, errs.InstanceDeleted, errs.NotAssigned:
			// Left out of the answer: the server links again and learns how things stand.
		case errs.Superseded:
			superseded = err
		default:
			return nil, err
		}
	}
	// A server that was started for one instance has nothing left to do without it; a registered one has, and learns of the loss when it links.
	if superseded != nil && !registered {
		return nil, superseded
	}
	for _, id := range assigned {
		if !slices.ContainsFunc(opened.Links, func(l Link) bool { return l.InstanceID == id }) {
			opened.Assigned = append(opened.Assigned, id)
		}
	}
	return opened, nil
}

// take makes the socket the session's, whoever else tries at the same time.
func (s *Service) take(ctx context.Context, h Hello) (opened *Opened, resumed bool, err error) {
	for range 8 {
		current, now, err := s.Sessions.LoadSession(ctx, h.ServerID)
		if err != nil {
			return nil, false, err
		}
		if current.Left || h.Pool != "" && !current.Known { // it would wait for instances that nobody gives it
			return nil, false, errs.New(errs.CredentialsExpired, "the server is not in its pool: it was away for too long, or the store has lost it; join again")
		}
		resumes, same := proves(h.ResumeKey, current.ResumeKeyHash), proves(h.Nonce, current.NonceHash)
		if !resumes && !same {
			if err := s.free(ctx, current); err != nil {
				return nil, false, err
			}
		}
		next := Session{
			ServerID: h.ServerID, Namespace: h.Namespace, PairID: h.PairID, GatewayID: h.GatewayID, Connected: true, ChangeTime: now,
			Epoch: max(current.Epoch+1, now.UnixMicro()), ID: current.ID, ResumeKeyHash: current.ResumeKeyHash, NonceHash: current.NonceHash,
		}
		key := h.ResumeKey
		if !resumes { // the same server never learned its key, or it is another one
			key = rand.Text()
			next.ResumeKeyHash = hash(key)
		}
		if !resumes && !same {
			next.ID, next.NonceHash = uuid.NewString(), nil
			if h.Nonce != "" {
				next.NonceHash = hash(h.Nonce)
			}
		}
		saved, err := s.Sessions.SaveSession(ctx, next, current.Epoch)
		if err != nil {
			return nil, false, err
		}
		if saved {
			if current.Connected {
				s.Herald.Replaced(current.GatewayID, h.ServerID, next.Epoch)
			}
			return &Opened{Session: next, ResumeKey: key}, resumes, nil
		}
	}
	return nil, false, errs.New(errs.Contended, "several sockets open this session at once; try again").Retry(100 * time.Millisecond)
}

// free checks that nobody holds the session's socket.
func (s *Service) free(ctx context.Context, current Session) error {
	if !current.Connected {
		return nil
	}
	alive, err := s.Gateways.GatewayAlive(ctx, current.GatewayID)
	if err != nil {
		return err
	}
	if alive {
		return errs.New(errs.CredentialsInUse, "another connection uses this token pair; only its holder, with the resume key, can move it")
	}
	return nil
}

func (s *Service) attach(ctx context.Context, h Hello, current Session, l HelloLink) (Link, error) {
	inst, err := s.Instances.Apply(ctx, h.Namespace, l.InstanceID, instance.Envelope{Actor: "server:" + h.ServerID}, instance.AttachSession{
		ServerID: h.ServerID, SessionEpoch: current.Epoch, GatewayID: h.GatewayID, LinkEpoch: l.Epoch, LastOffset: l.LastOffset, Revision: l.Revision,
		Session: current.ID, LastRequest: l.LastRequest,
	})
	if err != nil {
		return Link{}, err
	}
	if inst.Link == nil || inst.Link.SessionEpoch != current.Epoch {
		return Link{}, errs.New(errs.StateRolledBack, "the store has lost writes of instance %s; link again", l.InstanceID)
	}
	if err := s.Mailboxes.Ack(ctx, l.InstanceID, l.Epoch, l.LastOffset); err != nil {
		return Link{}, err
	}
	return Link{InstanceID: l.InstanceID, Epoch: inst.Link.Epoch, Offset: min(l.LastOffset, inst.LastOffset)}, nil
}

// proves reports whether a secret is the one whose hash was kept.
func proves(secret string, kept []byte) bool {
	return secret != "" && subtle.ConstantTimeCompare(hash(secret), kept) == 1
}

func hash(key string) []byte {
	h := sha256.Sum256([]byte(key))
	return h[:]
}

// MayRefresh reports whether a server whose pair has expired may have it renewed: it holds the resume key of its session, and an instance that is not over
// waits for it. An instance is named by a server that a provider has started; the registry knows those of the others.
func (s *Service) MayRefresh(ctx context.Context, server token.Server, resumeKey, instanceID string) error {
	current, _, err := s.Sessions.LoadSession(ctx, server.ID)
	if err != nil {
		return err
	}
	expired := errs.New(errs.CredentialsExpired, "the tokens have expired; only the server with the resume key of its session, and with an instance that is not over, can have them renewed")
	if current.PairID != server.PairID || !proves(resumeKey, current.ResumeKeyHash) {
		return expired
	}
	candidates, _, err := s.Servers.Assigned(ctx, server.ID)
	if err != nil {
		return err
	}
	if instanceID != "" {
		candidates = append(candidates, instanceID)
	}
	for _, id := range candidates {
		loaded, err := s.Instances.Load(ctx, id, instance.Needs{})
		if err != nil {
			return err
		}
		if i := loaded.Instance; i != nil && !i.State.Final() && i.Namespace == server.Namespace && i.Waits(server.ID) {
			return nil
		}
	}
	return expired
}

// Close says that a socket is gone. A session that has another socket by now is left alone.
func (s *Service) Close(ctx context.Context, serverID string, epoch int64, instanceIDs []string) error {
	current, now, err := s.Sessions.LoadSession(ctx, serverID)
	if err != nil {
		return err
	}
	if current.Epoch == epoch && current.Connected {
		current.Connected, current.ChangeTime = false, now
		if _, err := s.Sessions.SaveSession(ctx, current, epoch); err != nil {
			return err
		}
	}
	var failed []error
	for _, id := range instanceIDs {
		failed = append(failed, s.lose(ctx, id, instance.LoseSession{ServerID: serverID, SessionEpoch: epoch}))
	}
	return errors.Join(failed...)
}

func (s *Service) lose(ctx context.Context, instanceID string, cmd instance.Command) error {
	_, err := s.Instances.Apply(ctx, "", instanceID, instance.Envelope{Actor: "service:gateway"}, cmd)
	if errs.Is(err, errs.InstanceUnknown) || errs.Is(err, errs.InstanceDeleted) {
		return nil
	}
	return err
}

// Yield takes a server's socket from whoever has it, because somebody else has shown that they may be this server. Who has the session's resume key can
// still go on with it, as long as nobody else has connected.
func (s *Service) Yield(ctx context.Context, serverID string) error {
	for range 8 {
		current, now, err := s.Sessions.LoadSession(ctx, serverID)
		if err != nil || !current.Connected {
			return err
		}
		next := current
		next.Connected, next.ChangeTime, next.Epoch = false, now, max(current.Epoch+1, now.UnixMicro())
		saved, err := s.Sessions.SaveSession(ctx, next, current.Epoch)
		if err != nil {
			return err
		}
		if saved {
			s.Herald.Replaced(current.GatewayID, serverID, next.Epoch)
			return nil
		}
	}
	return errs.New(errs.Contended, "several sockets open this session at once; try again").Retry(100 * time.Millisecond)
}

// Connected returns the session of a server that has a socket now.
func (s *Service) Connected(ctx context.Context, serverID string) (Session, error) {
	current, _, err := s.Sessions.LoadSession(ctx, serverID)
	if err != nil {
		return Session{}, err
	}
	if !current.Connected {
		return Session{}, errs.New(errs.NotConnected, "this game server has no open link; open the WebSocket first")
	}
	return current, nil
}

// Verify looks whether the socket that an instance was just linked through is still its server's. If it is not, its end may have been told before the
// link was there to hear it, so the link is told now.
func (s *Service) Verify(ctx context.Context, inst *instance.Instance) error {
	l := inst.Link
	if l == nil || !l.Connected {
		return nil
	}
	current, _, err := s.Sessions.LoadSession(ctx, l.ServerID)
	if err != nil || current.Connected && current.Epoch == l.SessionEpoch {
		return err
	}
	return s.lose(ctx, inst.ID, instance.LoseSession{ServerID: l.ServerID, SessionEpoch: l.SessionEpoch})
}

// Audit looks at every link for one whose socket is gone and whose end was told to nobody: a gateway that died between two steps may leave such.
func (s *Service) Audit(ctx context.Context) error {
	links, err := s.Gateways.Links(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, id := range links {
		loaded, err := s.Instances.Load(ctx, id, instance.Needs{})
		if err == nil && loaded.Instance != nil {
			err = s.Verify(ctx, loaded.Instance)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// pullLimit bounds one read of a mailbox.
const pullLimit = 256

// Pull returns an instance's mailbox entries after an offset, and whether there are more.
func (s *Service) Pull(ctx context.Context, instanceID string, linkEpoch, after int64) (deliveries []instance.Delivery, more bool, err error) {
	return s.Mailboxes.Pull(ctx, instanceID, linkEpoch, after, pullLimit)
}

// Ack drops what a server has dealt with.
func (s *Service) Ack(ctx context.Context, instanceID string, linkEpoch, offset int64) error {
	return s.Mailboxes.Ack(ctx, instanceID, linkEpoch, offset)
}

// redeliverAfter is how long an entry may wait for its acknowledgement before the gateway is reminded of it.
const redeliverAfter = 2 * time.Second

// Renewal is what came of a gateway's renewal of its lease.
type Renewal struct {
	// Known is since when the lease is known without a gap; zero: it ran out.
	Known time.Time
	// Undelivered are the instances whose entries the gateway should deliver again.
	Undelivered []string
}

// Renew keeps a gateway's lease. A lease that was renewed is renewed, also if the store does not say in time which entries wait: the next renewal asks again.
func (s *Service) Renew(ctx context.Context, gatewayID string, lease time.Duration) (r Renewal, err error) {
	r.Known, err = s.Gateways.RenewGateway(ctx, gatewayID, lease)
	if err != nil || r.Known.IsZero() || lease == 0 {
		return r, err
	}
	looking, cancel := context.WithTimeout(ctx, within(ctx))
	defer cancel()
	if r.Undelivered, err = s.Mailboxes.Undelivered(looking, gatewayID, redeliverAfter); err != nil {
		s.Log.WarnContext(ctx, "undelivered entries could not be looked for; the next renewal of the gateway asks again", "gateway_id", gatewayID, "error", err)
	}
	return r, nil
}

// lookDeadline bounds the look for undelivered entries.
const lookDeadline = 5 * time.Second

// within leaves a part of the context's time for the answer to arrive.
func within(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return lookDeadline
	}
	return min(lookDeadline, time.Until(deadline)*3/4)
}

func (s *Service) reap(ctx context.Context, gateway string) error {
	links, err := s.Gateways.LinksThrough(ctx, gateway)
	if err != nil {
		return err
	}
	var failed []error
	for _, id := range links {
		failed = append(failed, s.lose(ctx, id, instance.LoseGateway{GatewayID: gateway}))
	}
	if err := errors.Join(failed...); err != nil {
		return err // the life is over all the same, and the next round goes on
	}
	level := slog.LevelInfo // it said goodbye, or nobody was on it
	if len(links) > 0 {
		level = slog.LevelWarn
	}
	s.Log.Log(ctx, level, "gateway lease ran out", "gateway_id", gateway, "links", len(links))
	return s.Gateways.ForgetGateway(ctx, gateway)
}
