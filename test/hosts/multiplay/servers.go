package multiplay

import (
	"cmp"
	"time"
)

// idleTime is how long a server without an allocation keeps its process. An assumption: pages say that "if our platform determines that the capacity is no longer
// required, we will shutdown the instance" (What is a deallocation?), and not when.
const idleTime = 5 * time.Second

// kind is what a process was started as: the build configuration of a fleet, in a region.
type kind struct {
	fleet, region string
	build         int64
}

// server is a place for a process, with the one that is in it: that "can end after each allocation or continue for many allocations" (Game server lifecycle).
type server struct {
	kind
	allocation *allocation // nil: it is free
	process    *process    // nil: there is none, or only one that waits for its first allocation
	idle       *time.Timer // while it is free
}

// process is a game server that has read the payload of one allocation, and reads no other.
type process struct{ stop func() }

// place puts allocations that wait, the oldest first, on servers that are free.
func (a *api) place() {
	for len(a.waiting) > 0 {
		one := a.waiting[0]
		if a.allocations[one.id] == one { // or it was deallocated before it got a server
			s := a.free(one.kind)
			if s == nil {
				return
			}
			a.put(one, s)
		}
		a.waiting = a.waiting[1:]
	}
}

// free returns a server without an allocation; nil: there is none. One whose process runs already comes first, as a match would least like it: "Available server
// slots contain a combination of stopped and started build executables" (Allocation lifecycle). One of another kind is taken only where there is room for no more.
func (a *api) free(want kind) *server {
	var started, stopped, other *server
	busy := 0
	for _, s := range a.servers {
		switch {
		case s.allocation != nil:
			busy++
		case s.kind != want:
			other = s
		case s.process != nil:
			started = s
		default:
			stopped = s
		}
	}
	limited := a.cfg.Slots > 0
	switch {
	case limited && busy >= a.cfg.Slots:
		return nil
	case started != nil || stopped != nil:
		return cmp.Or(started, stopped)
	case limited && len(a.servers) >= a.cfg.Slots:
		return other
	}
	s := &server{kind: want}
	a.servers = append(a.servers, s)
	return s
}

// put gives a server to an allocation. The process that is there goes on, and is asked for nothing, unless the allocation wants another one: "An allocate API call with
// the restart flag set to true will cause a server stop", which "Forces allocation to use a fresh server instance" (How and Why Do Servers Stop). So does "the wrong
// build configuration" (Game server lifecycle). That a process which is stopped for that does not count as one that exits cleanly is an assumption.
func (a *api) put(one *allocation, s *server) {
	s.allocation, one.server = one, s
	if s.idle != nil {
		s.idle.Stop()
	}
	if s.process != nil && s.kind == one.kind && !one.restart {
		return
	}
	s.end()
	s.kind = one.kind
	p := new(process)
	s.process = p
	p.stop = a.run.Start([]byte(one.payload), func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.exited(s, p)
	})
}

// end ends the process of a server.
func (s *server) end() {
	if s.process != nil {
		s.process.stop()
		s.process = nil
	}
}

// exited is a process that ended by itself: when "The game server shuts down cleanly", that ends the allocation that its server has (Deallocations).
func (a *api) exited(s *server, p *process) {
	if s.process != p {
		return
	}
	s.process = nil
	if s.allocation != nil {
		a.forget(s.allocation)
	}
}

// forget ends an allocation: "Multiplay Hosting clears the allocation ID from the earlier allocation" and "returns the server to the available server pool"
// (Deallocations). It "doesn't directly shut down a game server instance. Once a game server instance is deallocated, it is ready for a subsequent allocation
// request" (What is a deallocation?).
func (a *api) forget(one *allocation) {
	if a.allocations[one.id] != one {
		return
	}
	delete(a.allocations, one.id)
	s := one.server
	if s == nil {
		return
	}
	s.allocation = nil
	s.idle = time.AfterFunc(a.cfg.Idle, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if s.allocation == nil {
			s.end()
		}
	})
	a.place()
}

// ScaleDown ends the processes of all servers that have no allocation.
func (h *Host) ScaleDown() {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	for _, s := range h.api.servers {
		if s.allocation == nil {
			s.end()
		}
	}
}

// Allocated is how many allocations have a server.
func (h *Host) Allocated() (n int) {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	for _, s := range h.api.servers {
		if s.allocation != nil {
			n++
		}
	}
	return n
}

// Resize sets how many servers there are; 0: no limit.
func (h *Host) Resize(slots int) {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	h.api.cfg.Slots = slots
	h.api.place()
}
