// Package registry knows the game servers that no provider starts, and which of them has room for an instance. What an instance makes of its servers is
// the instance's own business: here is only who is there, and whose room is whose. It knows nothing of gRPC, protobuf or Redis.
package registry

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// Server is a registered game server.
type Server struct {
	Namespace, ID string
	// Capacity is how many instances it can have at once.
	Capacity  int
	Labels    map[string]string
	Endpoints []instance.Endpoint
	// Actor registered it, with a request of this Digest.
	Actor  string
	Digest []byte
	// Pool is the warm pool that it joined, under this Name; empty: a backend registered it. Builds are what it can run, and Region is where it is; empty:
	// anywhere.
	Pool, Name string
	Builds     []string
	Region     string
	// Draining says that it gets no further instances.
	Draining   bool
	CreateTime time.Time
	// Assignments are the instances that have room on it, oldest first.
	Assignments []Assignment
	// Connected says whether it has a socket; ChangeTime when that last changed.
	Connected  bool
	ChangeTime time.Time
	// GatewayID is the life of the gateway that its socket runs through.
	GatewayID string
	// Epoch numbers its sockets, and JoinTime is when it last joined its pool.
	Epoch    int64
	JoinTime time.Time
}

// Assignment is the room that an instance has on a server, for one of its attempts.
type Assignment struct {
	InstanceID, AttemptID string
	Time                  time.Time
}

// Store keeps registered servers.
type Store interface {
	// RegisterServer keeps a server, unless one with its id is there, and returns the one that is there then.
	RegisterServer(ctx context.Context, s Server) (Server, error)
	// LoadServer returns a registered server; nil if there is none.
	LoadServer(ctx context.Context, id string) (*Server, error)
	// Assign gives an instance room, or keeps the room that it has for a later attempt. It fails with GAME_SERVER_UNKNOWN and GAME_SERVER_FULL, and with
	// STATE_NOT_ALLOWED where an even later attempt has the room.
	Assign(ctx context.Context, namespace, id string, a Assignment) (Server, error)
	// Unassign takes the room of an attempt back. A server that is not there, or has no such assignment, is as good.
	Unassign(ctx context.Context, namespace, id string, a Assignment) error
	// DeregisterServer lets a server go once it has no instances; nil if it is not there.
	DeregisterServer(ctx context.Context, namespace, id string) (*Server, error)
	// ServersPage returns servers of a namespace, newest first, and where the next page begins; the zero Cursor at the end.
	ServersPage(ctx context.Context, namespace string, limit int, after instance.Cursor) ([]Server, instance.Cursor, error)
	// AssignedServers returns all servers that any instance has room on, and the store's time.
	AssignedServers(ctx context.Context) ([]Server, time.Time, error)
	// LoadPlaces returns where attempts have their rooms in pools, in the same order; the zero Place for one that has none.
	LoadPlaces(ctx context.Context, attemptIDs []string) ([]Place, error)
	// SetPlace changes where an attempt has its room, if that is still as it was looked at. It returns the place as it is then.
	SetPlace(ctx context.Context, attemptID string, was, place Place) (now Place, set bool, err error)
}

// Instances is what the registry needs of instances.
type Instances interface {
	Load(ctx context.Context, id string, needs instance.Needs, commands []instance.CommandID) (instance.Loaded, error)
}

// Herald tells a server of an instance, over its gateway. It may lose the news, and does not block.
type Herald interface {
	Assigned(gatewayID, serverID, instanceID string)
}

// Service has the use-cases around registered servers. It is safe for concurrent use.
type Service struct {
	store     Store
	instances Instances
	herald    Herald
	log       *slog.Logger
}

// New returns a Service.
func New(store Store, instances Instances, herald Herald, log *slog.Logger) *Service {
	return &Service{store: store, instances: instances, herald: herald, log: log}
}

// Register makes a server known. The same id and digest again return it as it is.
func (s *Service) Register(ctx context.Context, server Server) (Server, error) {
	kept, err := s.store.RegisterServer(ctx, server)
	if err == nil && !bytes.Equal(kept.Digest, server.Digest) {
		return Server{}, errs.New(errs.RequestIDReused, "request_id: it was used to register a different game server already")
	}
	return kept, err
}

// Get returns a server.
func (s *Service) Get(ctx context.Context, namespace, id string) (Server, error) {
	server, err := s.store.LoadServer(ctx, id)
	switch {
	case err != nil:
		return Server{}, err
	case server == nil || server.Namespace != namespace:
		return Server{}, Unknown(id)
	}
	return *server, nil
}

// Deregister lets a server get no further instances.
func (s *Service) Deregister(ctx context.Context, namespace, id string) (Server, error) {
	if _, err := s.Get(ctx, namespace, id); err != nil {
		return Server{}, err
	}
	server, err := s.store.DeregisterServer(ctx, namespace, id)
	if err == nil && server == nil {
		return Server{}, Unknown(id)
	}
	if err != nil {
		return Server{}, err
	}
	return *server, nil
}

// Check returns an error if a server has no room for an instance now: GAME_SERVER_UNKNOWN or GAME_SERVER_FULL. It implements instance.Servers.
func (s *Service) Check(ctx context.Context, namespace, id, instanceID string) error {
	server, err := s.Get(ctx, namespace, id)
	if err != nil || server.has(instanceID) {
		return err
	}
	if server.Draining || len(server.Assignments) >= server.Capacity {
		return Full(id)
	}
	return nil
}

// Assigned returns the instances that have room on a server, and whether it is registered at all.
func (s *Service) Assigned(ctx context.Context, id string) (instanceIDs []string, registered bool, err error) {
	server, err := s.store.LoadServer(ctx, id)
	if err != nil || server == nil {
		return nil, false, err
	}
	for _, a := range server.Assignments {
		instanceIDs = append(instanceIDs, a.InstanceID)
	}
	return instanceIDs, true, nil
}

// Page returns servers of a namespace, newest first, and where the next page begins; the zero Cursor at the end.
func (s *Service) Page(ctx context.Context, namespace string, limit int, after instance.Cursor) ([]Server, instance.Cursor, error) {
	return s.store.ServersPage(ctx, namespace, limit, after)
}

// Reserve gives an attempt room on its server. It implements instance.Servers and outbox.Registry.
func (s *Service) Reserve(ctx context.Context, r instance.Room) ([]instance.Endpoint, error) {
	server, err := s.store.Assign(ctx, r.Namespace, r.ServerID, assignment(r))
	return server.Endpoints, err
}

// Tell tells a connected server that an instance was placed on it. It implements outbox.Registry.
func (s *Service) Tell(ctx context.Context, r instance.Room) error {
	server, err := s.Get(ctx, r.Namespace, r.ServerID)
	if err == nil && server.Connected {
		s.herald.Assigned(server.GatewayID, server.ID, r.InstanceID)
	}
	return err
}

// Release takes an attempt's room back. It implements outbox.Registry.
func (s *Service) Release(ctx context.Context, r instance.Room) error {
	return s.store.Unassign(ctx, r.Namespace, r.ServerID, assignment(r))
}

func assignment(r instance.Room) Assignment {
	return Assignment{InstanceID: r.InstanceID, AttemptID: r.AttemptID}
}

// Settle takes room back if the attempt's instance does not want it: it was never made, or has given the attempt up; or if the attempt has its room in a
// pool on another server. It implements instance.Servers.
func (s *Service) Settle(ctx context.Context, r instance.Room) error {
	loaded, err := s.instances.Load(ctx, r.InstanceID, instance.Needs{}, nil)
	if err != nil {
		return err
	}
	places, err := s.store.LoadPlaces(ctx, []string{r.AttemptID})
	if err != nil {
		return err
	}
	place := places[0]
	if a := wanted(loaded.Instance, r.AttemptID); a != nil && (a.Registered || place.at(r.ServerID)) {
		return nil
	}
	s.log.Warn("room on a game server was kept for nobody; taken back", "server_id", r.ServerID, "instance_id", r.InstanceID, "attempt_id", r.AttemptID)
	if place.at(r.ServerID) { // nobody will ask for it any more
		if _, _, err := s.store.SetPlace(ctx, r.AttemptID, place, Place{}); err != nil {
			return err
		}
	}
	return s.Release(ctx, r)
}

// wanted returns an instance's attempt if the instance still wants its room, or will give it back itself; nil otherwise.
func wanted(inst *instance.Instance, attemptID string) *instance.Attempt {
	if inst == nil {
		return nil
	}
	for n, a := range inst.Attempts {
		if a.ID == attemptID && a.ReleaseTime.IsZero() {
			return &inst.Attempts[n]
		}
	}
	return nil
}

// settleAfter is how old an assignment is before it is looked at: the room is had before the instance is committed.
const settleAfter = time.Minute

// Audit takes back the room that nobody wants: a replica that died between two steps may leave such.
func (s *Service) Audit(ctx context.Context) error {
	servers, now, err := s.store.AssignedServers(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, server := range servers {
		for _, a := range server.Assignments {
			if now.Sub(a.Time) > settleAfter {
				failed = append(failed, s.Settle(ctx, server.room(a)))
			}
		}
	}
	return errors.Join(failed...)
}

// room names an assignment of the server.
func (s Server) room(a Assignment) instance.Room {
	return instance.Room{Namespace: s.Namespace, ServerID: s.ID, InstanceID: a.InstanceID, AttemptID: a.AttemptID}
}

// has reports whether an instance has room on the server.
func (s Server) has(instanceID string) bool {
	return slices.ContainsFunc(s.Assignments, func(a Assignment) bool { return a.InstanceID == instanceID })
}

// Unknown is the error for a server that is not registered.
func Unknown(id string) error {
	return errs.New(errs.GameServerUnknown, "server_id: no game server %s is registered in this namespace", id)
}

// Full is the error for a server without room.
func Full(id string) error {
	return errs.New(errs.GameServerFull, "server_id: game server %s has as many instances as its capacity, or takes no more", id)
}

// Overtaken is the error for an attempt whose instance has its room on the server for a later attempt.
func Overtaken(id string, a Assignment) error {
	return errs.New(errs.StateNotAllowed, "attempt_id: a later attempt than %s has the instance's room on game server %s", a.AttemptID, id)
}
