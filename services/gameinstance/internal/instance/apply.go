package instance

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
)

const (
	// maxTries bounds how often commands are decided again because another replica has committed first.
	maxTries = 12
	// applyDeadline bounds a batch, however long those who wait for it would.
	applyDeadline = 10 * time.Second
)

// request is a command on its way.
type request struct {
	ctx       context.Context
	namespace string
	env       Envelope
	cmd       Command
	answer    chan outcome // takes one
}

// outcome is what a command came to.
type outcome struct {
	inst *Instance
	err  error
}

// Apply decides a command upon an instance and commits what comes of it. It returns the instance as it is then: all of it if the envelope asks for
// that, otherwise its head and what the command looked at. A namespace other than "" must be the instance's own.
//
// Commands for one instance that wait at the same time are committed together, in the order in which they came. If ctx ends first, the outcome is unknown;
// if it had ended before, nothing is done.
func (s *Service) Apply(ctx context.Context, namespace, id string, env Envelope, cmd Command) (*Instance, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := &request{ctx: ctx, namespace: namespace, env: env, cmd: cmd, answer: make(chan outcome, 1)}
	out := s.queues.pass(id, r, func(batch []*request) { s.applyAll(id, batch) }) //nolint:contextcheck // a batch is everybody's
	return out.inst, out.err
}

// applyAll answers a batch of commands for one instance.
func (s *Service) applyAll(id string, batch []*request) {
	ctx, cancel := whileWanted(batch)
	defer cancel()
	outcomes, err := s.commitAll(ctx, id, batch)
	for n, r := range batch {
		if err != nil {
			r.answer <- outcome{err: err}
		} else {
			r.answer <- outcomes[n]
		}
	}
}

// whileWanted returns the context of a batch. The end of one request's context does not end it, because the others want their outcomes; but with the last one
// it ends too. A stop of the program depends on it: its workers must not go on at a store that hangs.
func whileWanted(batch []*request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(batch[0].ctx), applyDeadline)
	var wanted atomic.Int64
	wanted.Store(int64(len(batch)))
	forget := make([]func() bool, len(batch))
	for n, r := range batch {
		forget[n] = context.AfterFunc(r.ctx, func() {
			if wanted.Add(-1) == 0 {
				cancel()
			}
		})
	}
	return ctx, func() {
		for _, stop := range forget {
			stop()
		}
		cancel()
	}
}

// commitAll decides commands one upon the other and commits what comes of them, all together. An error is everybody's: even of a command that was refused
// nothing is certain, because it was decided upon what the others before it came to.
func (s *Service) commitAll(ctx context.Context, id string, batch []*request) ([]outcome, error) {
	needs, commands := Needs{}, []CommandID(nil)
	for _, r := range batch {
		needs = needs.with(r.cmd.needs())
		needs.Everything = needs.Everything || r.env.Whole
		if r.env.ID != (CommandID{}) {
			commands = append(commands, r.env.ID)
		}
	}
	for try := range maxTries {
		loaded, err := s.cfg.Store.Load(ctx, id, needs, commands)
		if err != nil {
			return nil, err
		}
		d := decideAll(id, loaded, batch)
		if d.change == nil {
			return d.outcomes, s.confirm(ctx, id, d.outcomes)
		}
		done, err := s.cfg.Store.Commit(ctx, d.change, d.kept)
		if err == nil {
			s.committed(d.change, done)
			d.settle(done)
			return d.outcomes, nil
		}
		if !errors.Is(err, ErrConflict) {
			return nil, err
		}
		if err := pause(ctx, try); err != nil {
			return nil, err
		}
	}
	return nil, errs.New(errs.Contended, "too many writers at once; try again").Retry(50 * time.Millisecond)
}

// confirm makes sure of what a success without a commit rests upon: what is there already may be from a commit that was not confirmed yet.
func (s *Service) confirm(ctx context.Context, id string, outcomes []outcome) error {
	for _, o := range outcomes {
		if o.err == nil {
			return s.cfg.Store.Confirm(ctx, id)
		}
	}
	return nil
}

// pause waits a little, longer with each try, so that writers who collide come apart.
func pause(ctx context.Context, try int) error {
	t := time.NewTimer(rand.N(time.Millisecond << min(try, 5)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// decisions are what a batch of commands comes to.
type decisions struct {
	change   *Change // nil: nothing to commit
	kept     []Kept
	outcomes []outcome
	inst     *Instance // as it is after the decisions so far
	done     map[CommandID]Done
}

// undecided stands in for the revision that a change will make. No caller can have been told of it.
const undecided = -1

// told returns the highest revision that anybody can have been told of: a command that is decided upon another one of its batch must not take who knows what
// was before for somebody who knows more than the store.
func (i *Instance) told() int64 {
	if i.Revision == undecided {
		return i.stored
	}
	return i.Revision
}

func decideAll(id string, loaded Loaded, batch []*request) *decisions {
	d := &decisions{inst: loaded.Instance, done: loaded.Done}
	for _, r := range batch {
		inst, err := d.decide(id, loaded, r)
		d.outcomes = append(d.outcomes, outcome{inst, err})
	}
	return d
}

func (d *decisions) decide(id string, loaded Loaded, r *request) (*Instance, error) {
	_, creating := r.cmd.(Create)
	switch {
	case loaded.Gone || d.change != nil && d.change.Delete:
		return nil, deleted(id)
	case d.inst == nil && !creating, d.inst != nil && r.namespace != "" && d.inst.Namespace != r.namespace:
		return nil, unknown(id)
	}
	if done, ok := d.done[r.env.ID]; ok {
		return d.repeat(done, r.env)
	}
	change, err := Decide(d.inst, r.cmd, r.env.Actor, loaded.Now)
	switch {
	case err != nil:
		return nil, err
	case change.Empty() && (r.env.ID == CommandID{} || d.inst.State.Final()):
		return d.inst, nil // one that can be repeated is kept all the same: it must not do something the next time
	case d.change == nil:
		d.change = change
	default:
		d.change.then(change)
	}
	d.inst = change.After
	if loaded.Instance != nil {
		d.inst.stored = loaded.Instance.Revision
	}
	d.inst.Revision = undecided
	if r.env.ID != (CommandID{}) {
		d.kept = append(d.kept, Kept{ID: r.env.ID, Digest: r.env.Digest})
		d.remember(r.env)
	}
	return d.inst, nil
}

// remember lets a repeat that waits in the same batch be known as one.
func (d *decisions) remember(env Envelope) {
	if d.done == nil {
		d.done = map[CommandID]Done{}
	}
	d.done[env.ID] = Done{Digest: env.Digest, Revision: undecided}
}

// repeat answers a command that was committed before: with the instance as it is now, at the revision that the command made where only that is asked for.
func (d *decisions) repeat(done Done, env Envelope) (*Instance, error) {
	switch {
	case done.TooOld:
		return nil, errs.New(errs.RequestTooOld, "request %d: it was answered long ago, and its outcome is not kept any more", env.ID.Number)
	case !bytes.Equal(done.Digest, env.Digest):
		return nil, errs.New(errs.RequestIDReused, "request_id: it was used for another request already")
	case env.Whole:
		return d.inst, nil
	}
	was := *d.inst
	was.Revision = done.Revision
	was.LastSaid = 0 // where the command's own message is was said once
	return &was, nil
}

// settle fills in the revision that the change has made, and the offsets of its messages to backends.
func (d *decisions) settle(done Committed) {
	for n := range d.outcomes {
		inst := d.outcomes[n].inst
		if inst == nil {
			continue
		}
		if inst.Revision == undecided {
			inst.Revision, inst.stored = done.Revision, 0
		}
		if inst.LastSaid < 0 {
			inst.LastSaid = done.FirstSaid - inst.LastSaid - 1
		}
	}
}

// committed tells everybody else what a commit asks of them. The instance's LastOffset stays what was decided upon: a Link of the batch answers with it, and
// the messages of the batch come behind that.
func (s *Service) committed(c *Change, done Committed) {
	inst := c.After
	inst.Revision = done.Revision
	if len(c.Events) > 0 {
		deliveries := make([]Delivery, len(c.Events))
		previous := done.Previous
		for n, e := range c.Events {
			offset := done.FirstOffset + int64(n)
			deliveries[n] = Delivery{InstanceID: inst.ID, Offset: offset, Previous: previous, Event: e}
			previous = offset
		}
		if gateway := c.audience(); gateway != "" {
			s.cfg.Courier.Deliver(gateway, deliveries)
		}
	}
	if len(inst.Outbox) > 0 && !c.Delete {
		s.driver.Kick(inst.ID)
	}
}

// audience returns the gateway of the server that the events are for: the linked one, or the one that the change has taken the instance from.
func (c *Change) audience() string {
	link := c.After.Link
	if link == nil && c.Before != nil {
		link = c.Before.Link
	}
	if link == nil || !link.Connected {
		return ""
	}
	return link.GatewayID
}
