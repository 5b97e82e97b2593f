package audit

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxKinds is how many kinds of refusals are told apart within a window, and maxKindsOf how many of one address. The rest is counted together.
	maxKinds   = 256
	maxKindsOf = 16
	// maxPeers is how many addresses are told apart in that rest.
	maxPeers = 256
)

// folder folds equal refusals within a window of time. It is safe for concurrent use.
type folder struct {
	mu    sync.Mutex
	kinds map[kind]*fold
	of    map[string]int // kinds by peer
	rest  map[string]*fold
}

// kind is what makes refusals equal. It has nothing that a caller can choose freely, such as a namespace or an id that was not proven; an actor is known
// only by valid credentials. ForwardedFor can be chosen by whoever reaches a service past the gateways, which maxKindsOf bounds.
type kind struct{ peer, forwardedFor, actor, action, outcome, namespace, resource string }

// fold are refusals after the first.
type fold struct {
	first Entry
	last  time.Time
	more  int64
}

func newFolder() *folder {
	return &folder{kinds: map[kind]*fold{}, of: map[string]int{}, rest: map[string]*fold{}}
}

// add reports whether a refusal is to be recorded now; otherwise it is counted.
func (f *folder) add(e Entry) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := kind{peer: peerOf(e.Address), forwardedFor: e.ForwardedFor, actor: e.Actor, action: e.Action, outcome: e.Outcome}
	if e.Proven {
		k.namespace, k.resource = e.Namespace, e.Resource
	}
	if known := f.kinds[k]; known != nil {
		known.more++
		known.last = e.Time
		return false
	}
	if len(f.kinds) < maxKinds && f.of[k.peer] < maxKindsOf {
		f.kinds[k] = &fold{first: e}
		f.of[k.peer]++
		return true
	}
	rest := f.rest[k.peer]
	if rest == nil && len(f.rest) >= maxPeers {
		k.peer = ""
		rest = f.rest[k.peer]
	}
	if rest == nil {
		rest = &fold{first: Entry{Time: e.Time, Address: k.peer, Action: Refusals, Outcome: e.Outcome, Actor: Unknown}}
		f.rest[k.peer] = rest
	}
	rest.more++
	rest.last = e.Time
	return false
}

// flush begins a new window, and returns what was counted in the one before.
func (f *folder) flush() []Entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Entry
	add := func(one *fold, detail string) {
		if one.more == 0 {
			return
		}
		e := one.first
		e.ID, e.LastTime, e.Count = "", one.last, one.more
		// Of many, these are one's.
		e.RequestID, e.Detail = "", detail
		if !e.Proven {
			e.Resource, e.Namespace = "", ""
		}
		out = append(out, e)
	}
	for _, one := range f.kinds {
		add(one, "the same again, after the first")
	}
	for _, one := range f.rest {
		add(one, "of several kinds; the outcome is the first's")
	}
	clear(f.kinds)
	clear(f.of)
	clear(f.rest)
	return out
}

// peerOf returns the part of an address that a flood cannot vary: without the port, and of an IPv6 address the network.
func peerOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Is4() || ip.Is4In6() {
		return host
	}
	network, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return host
	}
	return network.String()
}
