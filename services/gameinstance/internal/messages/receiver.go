package messages

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx"
)

// Watch says which messages of game servers are wanted.
type Watch struct {
	// Namespace is the one whose messages are wanted.
	Namespace string
	// Instances are those that are wanted; empty: all of the namespace.
	Instances []string
	// Topics are those that are wanted; empty: all.
	Topics []string
	// Take takes a message. It must not block: all others wait meanwhile. The message is valid during the call only.
	Take func(Message)
}

// watcher is a Watch that is being served.
type watcher struct {
	Watch
	instances map[string]bool // nil: all
}

func (w *watcher) wants(m Message) bool {
	if string(m.Namespace) != w.Namespace || w.instances != nil && !w.instances[string(m.Instance)] {
		return false
	}
	return len(w.Topics) == 0 || slices.Contains(w.Topics, string(m.Topic))
}

// Receiver hands the messages of game servers to those who want them. It subscribes to a channel only while somebody does. It is safe for concurrent use. Run
// must run.
type Receiver struct {
	store    *redisx.Store
	channels map[string]*channel
}

func newReceiver(store *redisx.Store, r *routes, log *slog.Logger, m *Metrics) *Receiver {
	out := &Receiver{store: store, channels: make(map[string]*channel)}
	for _, name := range redisx.MessageChannels() {
		out.channels[name] = newChannel(name, store, r, log, m)
	}
	return out
}

// Run serves until ctx ends.
func (r *Receiver) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, c := range r.channels {
		running.Go(func() { c.run(ctx) })
	}
	running.Wait()
	return nil
}

// patience is how long a new watch waits for its subscriptions.
const patience = 5 * time.Second

// Watch begins to hand over messages, and returns when what is said from now on arrives. stop ends it; Take is not called after stop has returned. It fails
// with STORE_UNAVAILABLE when the subscriptions are not made in time, and with the context's error.
func (r *Receiver) Watch(ctx context.Context, w Watch) (stop func(), err error) {
	watching := &watcher{Watch: w}
	wanted := r.wanted(watching)
	stop = func() {
		for _, c := range wanted {
			c.remove(watching)
		}
	}
	for _, c := range wanted {
		c.add(watching)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errs.New(errs.StoreUnavailable, "messages cannot be received now").Retry(time.Second))
	defer cancel()
	for _, c := range wanted {
		if err := c.subscribed(ctx); err != nil {
			stop()
			return nil, err
		}
	}
	return stop, nil
}

// wanted returns the channels that a watcher's messages come over.
func (r *Receiver) wanted(w *watcher) (wanted []*channel) {
	if len(w.Instances) > 0 {
		w.instances = make(map[string]bool, len(w.Instances))
	}
	for _, id := range w.Instances {
		w.instances[id] = true
		if c := r.channels[redisx.MessageChannel(r.store.Partition(id))]; !slices.Contains(wanted, c) {
			wanted = append(wanted, c)
		}
	}
	if w.instances == nil {
		for _, c := range r.channels {
			wanted = append(wanted, c)
		}
	}
	return wanted
}

// maxLast bounds how many instances' last messages a channel remembers. When there are more, it begins anew.
const maxLast = 1 << 15

// last is what is known of the newest message of an instance's server.
type last struct {
	server, gateway string
	sequence        int64
	route           *route
}

// order drops messages that come late, as they can when a server has moved to another gateway, and learns ways back. One goroutine uses it.
type order struct {
	routes *routes
	last   map[string]*last // by instance id; bounded by maxLast
}

// fresh reports whether a message is newer than all of its server about its instance before.
func (o *order) fresh(m Message, gateway []byte, now time.Duration) bool {
	l := o.last[string(m.Instance)]
	if l == nil {
		if len(o.last) >= maxLast {
			clear(o.last)
		}
		l = new(last)
		o.last[string(m.Instance)] = l
	}
	if string(m.Server) != l.server {
		l.server, l.sequence = string(m.Server), 0
	}
	if m.Sequence <= l.sequence {
		return false
	}
	l.sequence = m.Sequence
	if l.route == nil || string(gateway) != l.gateway {
		l.gateway = string(gateway)
		l.route = o.routes.learn(string(m.Instance), string(m.Namespace), l.gateway)
	}
	o.routes.prove(l.route, now)
	return true
}

// dispatch hands the messages of an envelope to the watchers that want them, in order, and returns how many somebody wanted.
func (o *order) dispatch(raw []byte, watchers []*watcher) (wanted int, err error) {
	gateway, err := gatewayOf(raw)
	if err != nil {
		return 0, err
	}
	now := o.routes.now()
	err = each(raw, func(number protowire.Number, value []byte, _ uint64) error {
		if number != envelopeMessages {
			return nil
		}
		m, err := readMessage(value)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(watchers, func(w *watcher) bool { return w.wants(m) }) || !o.fresh(m, gateway, now) {
			return nil
		}
		wanted++
		for _, w := range watchers {
			if w.wants(m) {
				w.Take(m)
			}
		}
		return nil
	})
	return wanted, err
}
