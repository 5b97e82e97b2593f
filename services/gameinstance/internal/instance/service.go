package instance

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
)

// ErrConflict is returned by Store.Commit when another command was committed first.
var ErrConflict = errors.New("instance changed meanwhile")

// Store keeps instances. Its errors are *errs.Error, or ErrConflict.
type Store interface {
	// Load returns what is needed of an instance, the store's time, and which of the commands were committed before.
	Load(ctx context.Context, id string, needs Needs, commands []CommandID) (Loaded, error)
	// Commit stores a change if the instance is still at the revision that was decided upon, and keeps the commands that made it.
	Commit(ctx context.Context, c *Change, commands []Kept) (Committed, error)
	// Confirm returns once what was read of an instance is as safe as a commit's answer promises.
	Confirm(ctx context.Context, id string) error
	// AckMessages drops an instance's messages to its backends up to an offset.
	AckMessages(ctx context.Context, namespace, id string, offset int64) error
	// History returns what happened to an instance, oldest first.
	History(ctx context.Context, id string) ([]HistoryEntry, error)
}

// Loaded is what Store.Load returns.
type Loaded struct {
	// Instance is nil where there is none.
	Instance *Instance
	// Now is the store's time.
	Now time.Time
	// Done has those of the commands that were committed before.
	Done map[CommandID]Done
	// Gone says that the instance was deleted after its retention.
	Gone bool
}

// Done is a command that was committed before.
type Done struct {
	// Digest of its request.
	Digest []byte
	// Revision that it made.
	Revision int64
	// TooOld says that it is below those whose outcome is kept; nothing else is known of it.
	TooOld bool
}

// Kept is a command to be kept with the change that it made.
type Kept struct {
	ID     CommandID
	Digest []byte
}

// Committed is what Store.Commit returns.
type Committed struct {
	// Revision that the change made.
	Revision int64
	// FirstOffset is the mailbox offset of the change's first event; the others follow one by one.
	FirstOffset int64
	// Previous is the offset of what the mailbox has before it.
	Previous int64
	// FirstSaid is the offset of the change's first message to backends, if it has any; the others follow one by one.
	FirstSaid int64
}

// Cursor is a place in a list, newest first. The zero value is its beginning.
type Cursor struct {
	CreateTime time.Time
	ID         string
}

// Delivery is a mailbox entry on its way to a server.
type Delivery struct {
	InstanceID       string
	Offset, Previous int64
	Event            Event
}

// Courier carries mailbox entries to a gateway. It may lose them: the mailbox is the truth. It does not block.
type Courier interface {
	Deliver(gatewayID string, deliveries []Delivery)
}

// Driver is the way to allocation: Kick asks for the instance's outbox to be driven soon. It does not block and may be lost: the sweeper comes
// behind it.
type Driver interface{ Kick(instanceID string) }

// Placements knows what can be placed.
type Placements interface {
	// Check returns BUILD_UNKNOWN for a placement that the configuration cannot serve.
	Check(ctx context.Context, namespace string, p Placement) error
}

// Room is the room of an attempt on a registered game server.
type Room struct{ Namespace, ServerID, InstanceID, AttemptID string }

// Servers knows the registered game servers.
type Servers interface {
	// Check returns an error if a server has no room for an instance now: GAME_SERVER_UNKNOWN or GAME_SERVER_FULL. An instance that has room on it
	// keeps that.
	Check(ctx context.Context, namespace, serverID, instanceID string) error
	// Reserve gives an attempt room on its server, whose addresses it returns. It fails with GAME_SERVER_UNKNOWN and GAME_SERVER_FULL.
	Reserve(ctx context.Context, r Room) ([]Endpoint, error)
	// Settle takes the room back, unless the attempt's instance wants it.
	Settle(ctx context.Context, r Room) error
}

// Tickets mints tickets for players.
type Tickets interface {
	// Ticket mints one for the player's stay: who is removed and added again needs another.
	Ticket(ctx context.Context, namespace, instanceID string, player Player) (ticket string, expires time.Time, err error)
}

// Config names what a Service needs.
type Config struct {
	Store      Store
	Courier    Courier
	Placements Placements
	Servers    Servers
	Tickets    Tickets
	// Timeouts are the defaults for instances that do not say.
	Timeouts Timeouts
}

// Service has the use-cases around instances. It is safe for concurrent use.
type Service struct {
	cfg    Config
	driver Driver
	queues queues
}

// NewService returns a Service. SetDriver must follow before the first call.
func NewService(cfg Config) *Service { return &Service{cfg: cfg} }

// SetDriver names the outbox's driver, which itself needs the Service.
func (s *Service) SetDriver(d Driver) { s.driver = d }

// Create makes an instance; the same id and digest again return it as it is.
func (s *Service) Create(ctx context.Context, actor string, cmd Create) (*Instance, error) {
	loaded, err := s.cfg.Store.Load(ctx, cmd.ID, Needs{Everything: true}, nil)
	if err != nil {
		return nil, err
	}
	if loaded.Gone {
		return nil, deleted(cmd.ID)
	}
	if existing := loaded.Instance; existing != nil {
		if !bytes.Equal(existing.CreateDigest, cmd.Digest) {
			return nil, errs.New(errs.RequestIDReused, "request_id: it was used to create a different instance already")
		}
		return existing, s.cfg.Store.Confirm(ctx, cmd.ID)
	}
	if err := s.placeable(ctx, cmd); err != nil {
		return nil, err
	}
	cmd.Timeouts = cmd.Timeouts.or(s.cfg.Timeouts)
	inst, err := s.Apply(ctx, cmd.Namespace, cmd.ID, Envelope{Actor: actor, Whole: true}, cmd)
	if errs.Is(err, errs.RequestIDReused) { // somebody created it between the look and the commit
		return s.Create(ctx, actor, cmd)
	}
	return inst, err
}

// CreateAndLink makes an instance on the registered server that cmd names, and links it in the same commit. Room for it is had before, and taken back if
// there is no instance then. The same id and digest again link it to the socket that they come over.
func (s *Service) CreateAndLink(ctx context.Context, actor string, cmd Create, link LinkServer) (*Instance, error) {
	room := Room{Namespace: cmd.Namespace, ServerID: cmd.ServerID, InstanceID: cmd.ID, AttemptID: ids.Attempt(cmd.ID, 1)}
	endpoints, err := s.cfg.Servers.Reserve(ctx, room)
	if err != nil {
		return nil, err
	}
	if len(link.Endpoints) == 0 {
		link.Endpoints = endpoints
	}
	cmd.Link = &link
	inst, err := s.Create(ctx, actor, cmd)
	if err == nil && (inst.Link == nil || inst.Link.SessionEpoch != link.SessionEpoch) { // a repeat, over another socket
		inst, err = s.Apply(ctx, cmd.Namespace, cmd.ID, Envelope{Actor: actor}, link)
	}
	if err != nil {
		return nil, errors.Join(err, s.cfg.Servers.Settle(ctx, room))
	}
	return inst, nil
}

// placeable refuses what nobody could ever serve, so that it is known at once.
func (s *Service) placeable(ctx context.Context, cmd Create) error {
	switch {
	case cmd.Placement.Build == "" && cmd.ServerID == "":
		return errs.New(errs.ValidationFailed, "placement.build: say which build is to run, or name a registered server (server_id)")
	case cmd.Placement.Build == "" && cmd.OnLoss == OnLossReplace:
		return errs.New(errs.ValidationFailed, "placement.build: on_server_loss REPLACE needs a build to replace the registered server with")
	}
	if cmd.Placement.Build != "" {
		// An allocation service that is away does not stop the create: the outbox finds out later.
		switch err := s.cfg.Placements.Check(ctx, cmd.Namespace, cmd.Placement); errs.ReasonOf(err) {
		case errs.BuildUnknown, errs.RegionUnknown, errs.PlacementImpossible, errs.AllocationQueueFull:
			return err
		}
	}
	if cmd.ServerID != "" {
		return s.cfg.Servers.Check(ctx, cmd.Namespace, cmd.ServerID, cmd.ID)
	}
	return nil
}

// Place is Apply for a command that wants a registered server, if it names one: that it has no room is said at once. A repeat is answered all the same.
func (s *Service) Place(ctx context.Context, namespace, id, serverID string, env Envelope, cmd Command) (*Instance, error) {
	if serverID == "" {
		return s.Apply(ctx, namespace, id, env, cmd)
	}
	if refused := s.cfg.Servers.Check(ctx, namespace, serverID, id); refused != nil {
		loaded, err := s.cfg.Store.Load(ctx, id, Needs{}, []CommandID{env.ID})
		if err != nil {
			return nil, err
		}
		if _, repeat := loaded.Done[env.ID]; !repeat {
			return nil, refused
		}
	}
	return s.Apply(ctx, namespace, id, env, cmd)
}

// or fills what is unset from the defaults.
func (t Timeouts) or(def Timeouts) Timeouts {
	pick := func(v, d time.Duration) time.Duration {
		if v != 0 {
			return v
		}
		return d
	}
	return Timeouts{
		Allocation: pick(t.Allocation, def.Allocation), Link: pick(t.Link, def.Link), ConnectPlayers: pick(t.ConnectPlayers, def.ConnectPlayers),
		DisconnectGrace: pick(t.DisconnectGrace, def.DisconnectGrace), Lifetime: pick(t.Lifetime, def.Lifetime), Retention: pick(t.Retention, def.Retention),
	}
}

// Get returns an instance.
func (s *Service) Get(ctx context.Context, namespace, id string) (*Instance, error) {
	return s.get(ctx, namespace, id, Needs{Everything: true})
}

func (s *Service) get(ctx context.Context, namespace, id string, needs Needs) (*Instance, error) {
	loaded, err := s.cfg.Store.Load(ctx, id, needs, nil)
	switch {
	case err != nil:
		return nil, err
	case loaded.Gone:
		return nil, deleted(id)
	case loaded.Instance == nil || loaded.Instance.Namespace != namespace:
		return nil, unknown(id)
	}
	return loaded.Instance, nil
}

func unknown(id string) error {
	return errs.New(errs.InstanceUnknown, "there is no instance %s in this namespace", id)
}

func deleted(id string) error {
	return errs.New(errs.InstanceDeleted, "instance %s was deleted after its retention; its id is not used again", id)
}

// Load returns what is needed of an instance, whatever its namespace, and the store's time.
func (s *Service) Load(ctx context.Context, id string, needs Needs) (Loaded, error) {
	return s.cfg.Store.Load(ctx, id, needs, nil)
}

// History returns what happened to an instance.
func (s *Service) History(ctx context.Context, namespace, id string) ([]HistoryEntry, error) {
	if _, err := s.get(ctx, namespace, id, Needs{}); err != nil {
		return nil, err
	}
	entries, err := s.cfg.Store.History(ctx, id)
	if err == nil && len(entries) > 0 && entries[0].Event != "created" {
		first := entries[0]
		elided := HistoryEntry{Time: first.Time, Revision: first.Revision, Event: "elided", From: first.From, To: first.From, Actor: "service:game-instance", Detail: "what was before is not kept", Count: 1, FirstTime: first.FirstTime}
		entries = append([]HistoryEntry{elided}, entries...)
	}
	return entries, err
}

// Connection is what one player needs to join.
type Connection struct {
	Endpoints []Endpoint
	Player    Player
	GameData  Data
	Ticket    string
	Expires   time.Time
}

// Connect returns what one player needs to join, with a ticket minted now.
func (s *Service) Connect(ctx context.Context, namespace, id, playerID string) (*Connection, error) {
	inst, err := s.get(ctx, namespace, id, Needs{Players: []string{playerID}, GameData: true})
	if err != nil {
		return nil, err
	}
	p, ok := inst.Players[playerID]
	if !ok {
		return nil, unknownPlayer(playerID)
	}
	if inst.State != Running {
		return nil, errs.New(errs.StateNotAllowed, "the instance is %s; players can join while it is RUNNING", inst.State)
	}
	if !p.Connectable {
		return nil, errs.New(errs.StateNotAllowed, "the game server has not opened to player %q yet", playerID)
	}
	ticket, expires, err := s.cfg.Tickets.Ticket(ctx, namespace, id, p)
	if err != nil {
		return nil, err
	}
	return &Connection{Endpoints: inst.Endpoints, Player: p, GameData: inst.GameData, Ticket: ticket, Expires: expires}, nil
}
