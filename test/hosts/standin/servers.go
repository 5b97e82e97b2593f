package standin

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
)

// Run is a game server: it is given what the host gives its servers of the bootstrap document, and runs until it is done or the context ends.
type Run func(ctx context.Context, bootstrap []byte)

// Servers are the game servers of a host. It is safe for concurrent use.
type Servers struct {
	run     Run
	ctx     context.Context // all servers'
	end     context.CancelFunc
	mu      sync.Mutex
	byName  map[string]*record
	running int
	all     sync.WaitGroup
}

// record is what is known of the servers with one name in their documents.
type record struct {
	started int
	payload []byte
}

// NewServers returns Servers that run, or with nil are only said to.
func NewServers(run Run) *Servers {
	ctx, end := context.WithCancel(context.Background())
	return &Servers{run: run, ctx: ctx, end: end, byName: make(map[string]*record)}
}

// Start starts a server with a bootstrap document, and returns what stops it. ended, if not nil, is called once it has ended by itself.
func (s *Servers) Start(bootstrap []byte, ended func()) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := nameIn(bootstrap)
	r := s.byName[name]
	if r == nil {
		r = new(record)
		s.byName[name] = r
	}
	r.started++
	r.payload = bootstrap
	s.running++
	ctx, cancel := context.WithCancel(s.ctx)
	s.all.Go(func() {
		if s.run != nil {
			s.run(ctx, bootstrap)
		} else {
			<-ctx.Done()
		}
		stopped := ctx.Err() != nil
		cancel()
		s.mu.Lock()
		s.running--
		s.mu.Unlock()
		if !stopped && ended != nil {
			ended()
		}
	})
	return cancel
}

func nameIn(bootstrap []byte) string {
	var d struct {
		Server string `json:"server"`
	}
	_ = json.Unmarshal(bootstrap, &d) // what is no document is counted under no name
	return d.Server
}

// Started returns how many servers were ever started whose document names that server. A test names it as its attempt.
func (s *Servers) Started(_ context.Context, server string) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.byName[server]; r != nil {
		return r.started, nil
	}
	return 0, nil
}

// Bootstrap returns the document that the server got.
func (s *Servers) Bootstrap(_ context.Context, server string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.byName[server]; r != nil {
		return r.payload, nil
	}
	return nil, fmt.Errorf("no server was ever started with a document for %s", server)
}

// Counts are how many servers were ever started, how many run, and how many documents were given to more than one.
type Counts struct{ Started, Running, Doubled int }

// Count counts.
func (s *Servers) Count() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := Counts{Running: s.running}
	for _, r := range s.byName {
		c.Started += r.started
		if r.started > 1 {
			c.Doubled++
		}
	}
	return c
}

// Close ends all servers and waits for them.
func (s *Servers) Close() {
	s.end()
	s.all.Wait()
}
