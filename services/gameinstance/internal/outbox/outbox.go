// Package outbox drives the calls that instances have committed themselves to, until they are answered: to allocation or, for an attempt on a registered
// game server, to the registry.
package outbox

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// Allocation is the service that is called.
type Allocation interface {
	// Allocate asks for a server for an attempt.
	Allocate(ctx context.Context, inst *instance.Instance, attemptID string) error
	// Release gives an attempt's server back.
	Release(ctx context.Context, inst *instance.Instance, attemptID string) error
}

// Registry is called for attempts on registered servers, and to tell those of pools.
type Registry interface {
	// Reserve gives the attempt room on its server, whose addresses it returns.
	Reserve(ctx context.Context, r instance.Room) ([]instance.Endpoint, error)
	// Tell tells the server of the instance, if it is connected. The news may be lost.
	Tell(ctx context.Context, r instance.Room) error
	// Release takes the attempt's room back.
	Release(ctx context.Context, r instance.Room) error
}

// Instances is what the driver needs of instances.
type Instances interface {
	Apply(ctx context.Context, namespace, id string, env instance.Envelope, cmd instance.Command) (*instance.Instance, error)
	Load(ctx context.Context, id string, needs instance.Needs) (instance.Loaded, error)
}

const (
	queueSize    = 1024
	workers      = 16
	callDeadline = 5 * time.Second
	maxRetry     = 10 * time.Second
	// tellEvery is when a registered server is told again of an instance that it has not linked.
	tellEvery = 2 * time.Second
)

// actor names the driver in the history.
const actor = "service:game-instance"

// Driver implements instance.Driver. It is safe for concurrent use.
type Driver struct {
	instances  Instances
	allocation Allocation
	registry   Registry
	log        *slog.Logger
	queue      chan string

	mu   sync.Mutex
	busy map[string]bool // instances being driven here; true if kicked again meanwhile
}

// New returns a Driver. Run must be called for anything to be driven.
func New(instances Instances, allocation Allocation, registry Registry, log *slog.Logger) *Driver {
	// When the queue is full, a kick is dropped: the timer of the instance brings it back.
	return &Driver{instances: instances, allocation: allocation, registry: registry, log: log, queue: make(chan string, queueSize), busy: map[string]bool{}}
}

// Kick implements instance.Driver.
func (d *Driver) Kick(instanceID string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, driven := d.busy[instanceID]; driven {
		d.busy[instanceID] = true
		return
	}
	select {
	case d.queue <- instanceID:
		d.busy[instanceID] = false
	default:
	}
}

// Run drives until ctx is cancelled, and then waits for the calls under way.
func (d *Driver) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case id := <-d.queue:
					for again := true; again && ctx.Err() == nil; again = d.done(id) {
						d.drive(ctx, id)
					}
				}
			}
		})
	}
	running.Wait()
	return nil
}

// done reports whether the instance was kicked while it was driven.
func (d *Driver) done(id string) (again bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy[id] {
		d.busy[id] = false
		return true
	}
	delete(d.busy, id)
	return false
}

// drive makes the calls of an instance that are due. All of them together have one deadline; living is the driver's own context.
func (d *Driver) drive(living context.Context, id string) {
	ctx, cancel := context.WithTimeout(living, callDeadline)
	defer cancel()
	loaded, err := d.instances.Load(ctx, id, instance.Needs{})
	if err != nil {
		d.log.Warn("outbox cannot be read; its timer brings it back", "instance_id", id, "error", err)
		return
	}
	if loaded.Instance == nil {
		return
	}
	for _, call := range loaded.Instance.Outbox {
		if call.Tries > 0 && call.Due.After(loaded.Now) {
			continue // backing off
		}
		if living.Err() != nil {
			return // whoever comes next finds it due
		}
		if err := d.call(living, ctx, loaded.Instance, call); err != nil {
			d.log.Warn("outbox call failed; it is repeated", "instance_id", id, "attempt_id", call.AttemptID, "error", err)
		}
	}
}

func (d *Driver) call(living, ctx context.Context, inst *instance.Instance, call instance.Call) error {
	answered, err := d.make(ctx, inst, call)
	env := instance.Envelope{Actor: actor}
	switch {
	case err == nil && answered != nil:
		_, err = d.instances.Apply(ctx, "", inst.ID, env, answered)
		return err
	case call.Kind == instance.CallAllocate && permanent(err, inst):
		_, err = d.instances.Apply(ctx, "", inst.ID, env, instance.ReportFailed{AttemptID: call.AttemptID, Message: err.Error()})
		return err
	default:
		retry := min(250*time.Millisecond<<min(call.Tries, 10), maxRetry)
		if err == nil {
			retry = min(tellEvery<<min(call.Tries, 10), maxRetry)
		}
		ctx, cancel := context.WithTimeout(living, callDeadline) // the call may have used its time up
		defer cancel()
		if _, applyErr := d.instances.Apply(ctx, "", inst.ID, env, instance.CallFailed{Kind: call.Kind, AttemptID: call.AttemptID, Retry: retry, Message: reasonToWait(err)}); applyErr != nil {
			return applyErr
		}
		return err
	}
}

// make makes a call, and returns what the instance is to know of its answer. No error and nothing to know: it is made again until something else ends it.
func (d *Driver) make(ctx context.Context, inst *instance.Instance, call instance.Call) (instance.Command, error) {
	answered := instance.CallAnswered{Kind: call.Kind, AttemptID: call.AttemptID}
	for _, a := range inst.Attempts {
		if a.ID == call.AttemptID && (a.Registered || a.Pooled() && call.Kind == instance.CallAssign) { // a pool's room is its provider's to give back
			return d.onRegistered(ctx, call, instance.Room{Namespace: inst.Namespace, ServerID: a.ServerID, InstanceID: inst.ID, AttemptID: a.ID})
		}
	}
	switch call.Kind {
	case instance.CallAllocate:
		return answered, d.allocation.Allocate(ctx, inst, call.AttemptID)
	case instance.CallRelease:
		return answered, d.allocation.Release(ctx, inst, call.AttemptID)
	default:
		return answered, nil // of a newer version; nobody here can make it
	}
}

// onRegistered makes a call for an attempt on a registered server.
func (d *Driver) onRegistered(ctx context.Context, call instance.Call, room instance.Room) (instance.Command, error) {
	switch call.Kind {
	case instance.CallAllocate:
		endpoints, err := d.registry.Reserve(ctx, room)
		return instance.ReportAllocated{AttemptID: room.AttemptID, Endpoints: endpoints}, err
	case instance.CallRelease:
		return instance.ReportReleased{AttemptID: room.AttemptID}, d.registry.Release(ctx, room)
	default: // it is over when the server links, or the attempt is given up
		return nil, d.registry.Tell(ctx, room)
	}
}

// reasonToWait says why no server can be asked for now; empty: for no reason that lies with the instance.
func reasonToWait(err error) string {
	if errs.Is(err, errs.PlacementImpossible) {
		return err.Error()
	}
	return ""
}

// permanent reports whether repeating a call for a server cannot help. For another server than its first one an instance is not ended because there is no place
// now: operators may have drained the last one for a while. It waits until its allocation timeout.
func permanent(err error, inst *instance.Instance) bool {
	switch errs.ReasonOf(err) {
	case errs.PlacementImpossible:
		return len(inst.Attempts) == 1
	case errs.BuildUnknown, errs.RegionUnknown, errs.ValidationFailed, errs.RequestIDReused, errs.GameServerUnknown, errs.GameServerFull:
		return true
	default:
		return false
	}
}
