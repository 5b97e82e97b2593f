package messages

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

const (
	// routeLife is how long a route is believed: that long messages may go to a gateway that an instance's server has left.
	routeLife = time.Second
	// maxRoutes bounds the table. When it is full it is emptied, and each instance that goes on costs one read.
	maxRoutes = 1 << 16
)

// Instances reads instances.
type Instances interface {
	Load(ctx context.Context, id string, needs instance.Needs) (instance.Loaded, error)
}

// route is the way to an instance's server.
type route struct {
	namespace, gateway string
	until              atomic.Int64 // when it was proven last, and its life: a time.Duration since the routes were made
}

// routes know over which gateway instances are reached: from what their servers said a moment ago, or from their records. They are safe for concurrent use.
type routes struct {
	instances Instances
	made      time.Time

	mu    sync.RWMutex
	known map[string]*route // by instance id; bounded by maxRoutes
}

func newRoutes(i Instances) *routes {
	return &routes{instances: i, made: time.Now(), known: make(map[string]*route)}
}

func (r *routes) now() time.Duration { return time.Since(r.made) }

// prove says that a message of an instance's server came over the gateway of its route.
func (r *routes) prove(at *route, now time.Duration) { at.until.Store(int64(now + routeLife)) }

// learn keeps a route and returns it.
func (r *routes) learn(id, namespace, gateway string) *route {
	at := &route{namespace: namespace, gateway: gateway}
	r.prove(at, r.now())
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.known[id]; !ok && len(r.known) >= maxRoutes {
		clear(r.known)
	}
	r.known[id] = at
	return at
}

// find returns the gateway over which an instance of a namespace is reached now.
func (r *routes) find(ctx context.Context, namespace, id string) (string, error) {
	r.mu.RLock()
	at := r.known[id]
	r.mu.RUnlock()
	if at == nil || int64(r.now()) > at.until.Load() {
		loaded, err := r.instances.Load(ctx, id, instance.Needs{})
		if err != nil {
			return "", err
		}
		i := loaded.Instance
		switch {
		case i == nil:
			return "", unknown(id)
		case i.Link == nil || !i.Link.Connected || i.State.Final():
			at = &route{namespace: i.Namespace}
		default:
			at = r.learn(id, i.Namespace, i.Link.GatewayID)
		}
	}
	switch {
	case at.namespace != namespace:
		return "", unknown(id)
	case at.gateway == "":
		return "", errs.New(errs.NotConnected, "no game server of instance %s is connected now; an ephemeral message would be lost", id)
	}
	return at.gateway, nil
}

func unknown(id string) error {
	return errs.New(errs.InstanceUnknown, "instance_id: there is no instance %q in this namespace", id)
}
