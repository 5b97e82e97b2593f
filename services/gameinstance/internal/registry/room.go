package registry

import (
	"context"
	"slices"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
)

// Want is what kind of room in a pool is wanted, and for whom.
type Want struct {
	Pool, Namespace       string
	InstanceID, AttemptID string
	Build                 string
	// Region that the server must be in; empty: any.
	Region string
	// Labels that the server must have.
	Labels map[string]string
	// Spread prefers the server with the fewest instances; otherwise the one with the least room left is.
	Spread bool
}

// Room is an attempt's place on a server of a pool.
type Room struct {
	AttemptID, InstanceID string
	Server                Server
}

// Place is where an attempt has its room in a pool. It is the one arbiter of that: an attempt and a server live in different partitions, so room on a server
// counts only where the place says so.
type Place struct {
	State    PlaceState
	ServerID string
}

// PlaceState is what a place says. The numbers are not stored; the names are.
type PlaceState int

// The states.
const (
	// Nowhere: the attempt was never asked for.
	Nowhere PlaceState = iota
	// Asked: it may get room on the server, and may have it already.
	Asked
	// Had: it has room on the server.
	Had
	// Given: its room was given back, or is a later attempt's, and it gets no other.
	Given
)

// at reports whether the attempt has, or may have, its room on a server.
func (p Place) at(serverID string) bool {
	return (p.State == Asked || p.State == Had) && p.ServerID == serverID
}

// tried are the places at which a call found no room. One where another call of the attempt has had it since is another place.
type tried map[Place]bool

// on reports whether no room was found on a server.
func (t tried) on(serverID string) bool { return t[Place{Asked, serverID}] || t[Place{Had, serverID}] }

// maxTurns bounds how often a place is looked at in one call: each server that turns out to be full is a turn.
const maxTurns = 64

// enterDeadline bounds the steps from a server's room to the attempt's place.
const enterDeadline = 5 * time.Second

// Take gives an attempt room on a connected server of a pool, once: a repeat returns the same room. It fails with GAME_SERVER_FULL, and with
// STATE_NOT_ALLOWED once the room was given back or a later attempt has it.
func (p *Pools) Take(ctx context.Context, w Want) (Room, error) {
	place, err := p.place(ctx, w.AttemptID)
	tried := tried{}
	for range maxTurns {
		if err != nil {
			return Room{}, err
		}
		switch {
		case place.State == Given:
			return Room{}, errGone(w.AttemptID)
		case place.State == Nowhere || tried[place]:
			next := Place{}
			if id, found, err := p.pick(ctx, w, tried); err != nil {
				return Room{}, err
			} else if found {
				next = Place{Asked, id}
			}
			var set bool
			if place, set, err = p.store.SetPlace(ctx, w.AttemptID, place, next); err == nil && set && next.State == Nowhere {
				return Room{}, errs.New(errs.GameServerFull, "pool: no game server of %s has room for build %s now", w.Pool, w.Build)
			}
		default:
			var room *Room
			tried[place] = true
			if room, place, err = p.enter(ctx, w, place); err == nil && room != nil {
				return *room, nil
			}
		}
	}
	return Room{}, errs.New(errs.Contended, "attempt_id: several ask for the room of attempt %s at once; try again", w.AttemptID)
}

// enter gets the attempt its room on the server that its place names. No room and no error: the server has none, and place is where it is. Once begun it is not
// cut off with the call: room that the server knows of and the place does not is nobody's, and kept until the next audit.
func (p *Pools) enter(ctx context.Context, w Want, place Place) (*Room, Place, error) {
	if err := ctx.Err(); err != nil {
		return nil, place, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), enterDeadline)
	defer cancel()
	who := Assignment{InstanceID: w.InstanceID, AttemptID: w.AttemptID}
	server, err := p.store.Assign(ctx, w.Namespace, place.ServerID, who)
	if errs.Is(err, errs.GameServerFull) || errs.Is(err, errs.GameServerUnknown) {
		p.forget(w.Pool, place.ServerID)
		return nil, place, nil
	}
	if errs.Is(err, errs.StateNotAllowed) { // nor may it get a second room elsewhere
		place, _, err = p.store.SetPlace(ctx, w.AttemptID, place, Place{Given, place.ServerID})
		return nil, place, err
	}
	if err != nil {
		return nil, place, err
	}
	if place.State == Asked && !server.Connected { // it went since the view was made; one that has the room keeps it
		p.forget(w.Pool, place.ServerID)
		return nil, place, p.store.Unassign(ctx, w.Namespace, place.ServerID, who)
	}
	p.learn(w.Pool, server)
	now, _, err := p.store.SetPlace(ctx, w.AttemptID, place, Place{Had, place.ServerID})
	switch {
	case err != nil:
		return nil, place, err
	case now == Place{Had, place.ServerID}: // also if another call was first
		return &Room{AttemptID: w.AttemptID, InstanceID: w.InstanceID, Server: server}, now, nil
	}
	p.lessOn(w.Pool, place.ServerID)
	return nil, now, p.store.Unassign(ctx, w.Namespace, place.ServerID, who) // the place went elsewhere meanwhile: this room is nobody's
}

func (p *Pools) place(ctx context.Context, attemptID string) (Place, error) {
	places, err := p.store.LoadPlaces(ctx, []string{attemptID})
	if err != nil {
		return Place{}, err
	}
	return places[0], nil
}

// Get returns the room that an attempt has. It fails with GAME_SERVER_UNKNOWN.
func (p *Pools) Get(ctx context.Context, attemptID string) (Room, error) {
	none := errs.New(errs.GameServerUnknown, "attempt_id: attempt %s has no room in a pool", attemptID)
	place, err := p.place(ctx, attemptID)
	if err != nil {
		return Room{}, err
	}
	if place.State != Had {
		return Room{}, none
	}
	servers, err := p.connected(ctx, []Member{{ServerID: place.ServerID}})
	if err != nil {
		return Room{}, err
	}
	for _, s := range servers {
		for _, a := range s.Assignments {
			if a.AttemptID == attemptID {
				return Room{AttemptID: attemptID, InstanceID: a.InstanceID, Server: s}, nil
			}
		}
	}
	return Room{}, none
}

// Has reports whether an attempt has room on a server.
func (p *Pools) Has(ctx context.Context, attemptID, serverID string) (bool, error) {
	room, err := p.Get(ctx, attemptID)
	if errs.Is(err, errs.GameServerUnknown) {
		return false, nil
	}
	return room.Server.ID == serverID, err
}

// List returns all rooms that attempts have in a pool. Instances that a backend placed on its servers by name have none.
func (p *Pools) List(ctx context.Context, pool string) ([]Room, error) {
	members, _, err := p.store.PoolMembers(ctx, pool)
	if err != nil {
		return nil, err
	}
	servers, err := p.connected(ctx, members)
	if err != nil {
		return nil, err
	}
	var rooms []Room
	var attempts []string
	for _, s := range servers {
		for _, a := range s.Assignments {
			rooms = append(rooms, Room{AttemptID: a.AttemptID, InstanceID: a.InstanceID, Server: s})
			attempts = append(attempts, a.AttemptID)
		}
	}
	places, err := p.store.LoadPlaces(ctx, attempts)
	if err != nil {
		return nil, err
	}
	var out []Room
	for n, place := range places {
		if (place == Place{Had, rooms[n].Server.ID}) {
			out = append(out, rooms[n])
		}
	}
	return out, nil
}

// GiveBack takes an attempt's room back, and lets it have no other. An attempt that has none is as good.
func (p *Pools) GiveBack(ctx context.Context, attemptID string) error {
	place, err := p.place(ctx, attemptID)
	for err == nil && place.State != Given {
		place, _, err = p.store.SetPlace(ctx, attemptID, place, Place{Given, place.ServerID})
	}
	if err != nil || place.ServerID == "" {
		return err
	}
	server, err := p.store.LoadServer(ctx, place.ServerID)
	if err != nil || server == nil {
		return err
	}
	for _, a := range server.Assignments {
		if a.AttemptID == attemptID {
			err = p.store.Unassign(ctx, server.Namespace, server.ID, a)
			p.lessOn(server.Pool, server.ID)
		}
	}
	return err
}

// suits reports whether a server can run what is wanted, room or not.
func (s Server) suits(w Want) bool {
	if s.Namespace != w.Namespace || !s.Connected || s.Draining || !slices.Contains(s.Builds, w.Build) || w.Region != "" && s.Region != "" && s.Region != w.Region {
		return false
	}
	for name, value := range w.Labels {
		if s.Labels[name] != value {
			return false
		}
	}
	return true
}
