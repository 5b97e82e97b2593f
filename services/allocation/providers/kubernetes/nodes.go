package kubernetes

import (
	"context"
	"sync"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider"
)

const (
	// nodeAge is how long a node's addresses are believed.
	nodeAge = time.Minute
	// maxNodes is how many nodes are remembered.
	maxNodes = 10_000
)

// nodes remembers the addresses of nodes: each is asked for by every server on it. It is safe for concurrent use.
type nodes struct {
	mu    sync.Mutex
	known map[string]addresses // overflow: all are forgotten
}

// addresses are those of a node, by their type.
type addresses struct {
	first map[string]string
	read  time.Time
}

// address returns a node's first address of a type; "": it has none, or is gone. Where it cannot be looked up again, it is the one that it had.
func (n *nodes) address(ctx context.Context, c *client, name, kind string) (string, error) {
	n.mu.Lock()
	known, ok := n.known[name]
	n.mu.Unlock()
	if ok && time.Since(known.read) < nodeAge {
		return known.first[kind], nil
	}
	found, err := c.node(ctx, name)
	if provider.ReasonOf(err) == provider.NotFound {
		return "", nil
	}
	switch {
	case err == nil:
	case known.first[kind] != "":
		return known.first[kind], nil
	default:
		return "", err
	}
	known = addresses{first: make(map[string]string), read: time.Now()}
	for _, a := range found.Status.Addresses {
		if known.first[a.Type] == "" {
			known.first[a.Type] = a.Address
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil || len(n.known) >= maxNodes {
		n.known = make(map[string]addresses)
	}
	n.known[name] = known
	return known.first[kind], nil
}
