package watch

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// listener watches the messages of one instance, or of all of a namespace. It reads them itself: the hub tells it where there are some. What it keeps is one
// entry for each instance of which messages that it has sent wait for an acknowledgement, and one for each that has news.
type listener struct {
	hub       *Hub
	namespace string
	only      string // the instance; empty: all
	begun     func() error
	send      func(instanceID string, m instance.Said) error
	news      chan struct{} // a value: there is something in offers

	mu     sync.Mutex
	offers map[string]int64 // id to newest offset, 0: nothing waits; at most Config.MaxPending, a listener that needs more is dropped
	slow   bool
	busy   bool             // it reads what waits already, and takes no offers
	missed bool             // one found no room meanwhile
	sent   map[string]int64 // id to the offset up to which messages were sent
}

// Messages sends the messages of game servers, of one instance or, where id is empty, of all in a namespace: first those that wait, of each instance the
// oldest first, and then what comes, until ctx is cancelled or send fails. begun is called before, once it is known that there is something to watch. Of
// one instance it ends when that is over and no message of it waits.
func (h *Hub) Messages(ctx context.Context, namespace, id string, begun func() error, send func(instanceID string, m instance.Said) error) error {
	l := &listener{hub: h, namespace: namespace, only: id, begun: begun, send: send, news: make(chan struct{}, 1), offers: map[string]int64{}, sent: map[string]int64{}, busy: true}
	// Watching begins before reading, so that no message falls between the two.
	if err := h.enter(ctx, func() { h.talk.add(l) }); err != nil {
		return err
	}
	defer h.leave(func() { h.talk.remove(l) })
	over, err := l.begin(ctx)
	l.begins()
	for !over && err == nil {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.news:
			over, err = l.drain(ctx)
		}
	}
	return err
}

// begin sends what waits already.
func (l *listener) begin(ctx context.Context) (over bool, err error) {
	if l.only != "" {
		if _, err := l.hub.get(ctx, l.namespace, l.only); err != nil {
			return false, err
		}
		if err := l.begun(); err != nil {
			return false, err
		}
		if err := l.sendFrom(ctx, l.only); err != nil {
			return false, err
		}
		return l.over(ctx)
	}
	talking, err := l.hub.cfg.Messages.Talking(ctx, l.namespace, 0)
	if err != nil {
		return false, err
	}
	if err := l.begun(); err != nil {
		return false, err
	}
	for _, id := range slices.SortedFunc(maps.Keys(talking), func(a, b string) int { return cmp.Compare(talking[a], talking[b]) }) {
		if err := l.sendFrom(ctx, id); err != nil {
			return false, err
		}
	}
	return false, nil
}

// begins says that offers are taken from now on. Where one found no room, everything is looked at again: by now most of it was sent.
func (l *listener) begins() {
	l.mu.Lock()
	l.busy = false
	missed := l.missed
	l.mu.Unlock()
	if missed {
		l.hub.talk.unsure()
	}
}

// over reports whether nothing can come any more of the one instance that is watched.
func (l *listener) over(ctx context.Context) (bool, error) {
	loaded, err := l.hub.cfg.Instances.Load(ctx, l.only, instance.Needs{})
	if err != nil {
		return false, l.later(ctx, err)
	}
	i := loaded.Instance
	return i == nil || i.State.Final() && i.SaidCount == 0, nil
}

// drain sends what the offers tell of.
func (l *listener) drain(ctx context.Context) (over bool, err error) {
	for {
		id, newest, err := l.next()
		if err != nil || id == "" {
			return false, err
		}
		if newest > 0 {
			if err := l.later(ctx, l.sendFrom(ctx, id)); err != nil {
				return false, err
			}
			continue
		}
		if l.only != "" {
			if over, err := l.over(ctx); over || err != nil {
				return over, err
			}
		}
	}
}

// later makes of a store that is away a look at everything when it is back.
func (l *listener) later(ctx context.Context, err error) error {
	if passing(err) && ctx.Err() == nil {
		l.hub.talk.unsure()
		return nil
	}
	return err
}

// next takes an offer that is news; an empty id where there is none.
func (l *listener) next() (id string, newest int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.slow {
		return "", 0, tooSlow("messages of more than %d instances wait for this watcher", len(l.offers))
	}
	for id, newest := range l.offers {
		delete(l.offers, id)
		if newest == 0 { // what was sent is acknowledged: the place is needed no more
			delete(l.sent, id)
		} else if newest <= l.sent[id] {
			continue
		}
		return id, newest, nil
	}
	return "", 0, nil
}

// sendFrom sends the messages of an instance that were not sent yet.
func (l *listener) sendFrom(ctx context.Context, id string) error {
	for {
		l.mu.Lock()
		after := l.sent[id]
		l.mu.Unlock()
		messages, err := l.hub.cfg.Messages.Messages(ctx, id, after)
		if err != nil || len(messages) == 0 {
			return err
		}
		for _, m := range messages {
			if err := l.send(id, m); err != nil {
				return err
			}
		}
		l.mu.Lock()
		l.sent[id] = messages[len(messages)-1].Offset
		l.mu.Unlock()
	}
}

// offer takes note of the newest offset of an instance, 0 where nothing waits.
func (l *listener) offer(id string, newest int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sent, known := l.sent[id]
	_, waits := l.offers[id]
	switch {
	case l.only != "" && l.only != id, newest > 0 && newest <= sent && !waits, newest == 0 && !known && !waits && l.only == "":
		return
	case !waits && len(l.offers) >= l.hub.cfg.MaxPending:
		if l.slow, l.missed = !l.busy, l.busy; l.busy {
			return
		}
	default:
		l.offers[id] = newest
	}
	signal(l.news)
}

// offerAll takes note of all instances of its namespace that have messages waiting, and so of those that have none any more.
func (l *listener) offerAll(talking map[string]int64) {
	for id, newest := range talking {
		l.offer(id, newest)
	}
	for _, id := range l.places() {
		if talking[id] == 0 {
			l.offer(id, 0)
		}
	}
}

// places returns the instances of which the listener knows, or has to.
func (l *listener) places() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := slices.Collect(maps.Keys(l.sent))
	if l.only != "" {
		ids = append(ids, l.only)
	}
	return ids
}

// talk is what a Hub has to tell listeners where there are messages. Its lock may be taken with the hub's, and a listener's with its own.
type talk struct {
	wake, look chan struct{} // a value: there are hints; look at everything now

	mu        sync.Mutex
	hints     map[string]struct{} // at most maxDirty: those that find no room are dropped, and everything is looked at
	listeners map[string]map[*listener]struct{}
	doubtful  bool // everything is to be looked at, at the next recheck
}

func newTalk() *talk {
	return &talk{wake: make(chan struct{}, 1), look: make(chan struct{}, 1), hints: map[string]struct{}{}, listeners: map[string]map[*listener]struct{}{}}
}

func (t *talk) add(l *listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	add(t.listeners, l.namespace, l)
}

func (t *talk) remove(l *listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	drop(t.listeners, l.namespace, l)
}

func (t *talk) unsure() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.doubtful = true
}

// hint takes note of an instance that changed.
func (t *talk) hint(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.listeners) == 0 {
		return
	}
	if len(t.hints) >= maxDirty {
		signal(t.look)
		return
	}
	t.hints[id] = struct{}{}
	signal(t.wake)
}

// take returns some of the hints.
func (t *talk) take() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ids []string
	for id := range t.hints {
		if len(ids) == batch {
			signal(t.wake)
			break
		}
		delete(t.hints, id)
		ids = append(ids, id)
	}
	return ids
}

// audience returns the listeners by namespace.
func (t *talk) audience() map[string][]*listener {
	t.mu.Lock()
	defer t.mu.Unlock()
	listeners := make(map[string][]*listener, len(t.listeners))
	for namespace, set := range t.listeners {
		listeners[namespace] = slices.Collect(maps.Keys(set))
	}
	return listeners
}

// doubt reports once whether everything is to be looked at.
func (t *talk) doubt() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	doubtful := t.doubtful
	t.doubtful = false
	return doubtful
}

// lookAll is how many rechecks of messages there are to one that looks at everything.
const lookAll = 15

// listen tells listeners where there are messages: at once what hints name, and by a look at the store's index what they did not.
func (h *Hub) listen(ctx context.Context) {
	tick := time.NewTicker(h.cfg.Recheck)
	defer tick.Stop()
	checked, ticks := time.Time{}, 0
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-h.talk.wake:
			err = h.told(ctx)
		case <-h.talk.look:
			h.talk.unsure()
			checked, err = h.relisten(ctx, checked)
		case <-tick.C:
			if ticks = (ticks + 1) % lookAll; ticks == 0 {
				h.talk.unsure()
			}
			checked, err = h.relisten(ctx, checked)
		}
		if err != nil && ctx.Err() == nil {
			h.cfg.Log.WarnContext(ctx, "watches of messages wait for the store", "error", err)
		}
	}
}

// told looks at some of the instances that hints named. What cannot be read now the next recheck finds.
func (h *Hub) told(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	ids := h.talk.take()
	listeners := h.talk.audience()
	for namespace, all := range listeners {
		newest, err := h.cfg.Messages.Newest(ctx, namespace, ids)
		if err != nil {
			h.talk.unsure()
			return err
		}
		for _, l := range all {
			for n, id := range ids {
				l.offer(id, newest[n])
			}
		}
	}
	return nil
}

// relisten finds what no hint has told since a time of the store's clock, or everything. It returns the time up to which all is known.
func (h *Hub) relisten(ctx context.Context, since time.Time) (time.Time, error) {
	listeners, everything := h.talk.audience(), h.talk.doubt()
	if len(listeners) == 0 {
		return time.Time{}, nil
	}
	everything = everything || since.IsZero()
	now, err := h.cfg.Feed.Now(ctx)
	for namespace, all := range listeners {
		if err != nil {
			break
		}
		from := int64(0)
		if !everything {
			from = since.Add(-overlap).UnixMicro()
		}
		var talking map[string]int64
		if talking, err = h.cfg.Messages.Talking(ctx, namespace, from); err != nil {
			break
		}
		for _, l := range all {
			if everything {
				l.offerAll(talking)
				continue
			}
			for id, newest := range talking {
				l.offer(id, newest)
			}
		}
	}
	if err != nil {
		if everything {
			h.talk.unsure()
		}
		return since, err
	}
	return now, nil
}
