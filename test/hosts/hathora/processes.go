package hathora

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// process is "a runtime instance of your game server" (ProcessV3), which has read the configuration of its first room.
type process struct {
	id, app, deployment, region string
	created                     time.Time
	port                        int
	polls                       int // of its rooms' connection info
	rooms                       []*room
	over                        bool
	end                         func()
	idle                        *time.Timer // while it has no room
}

func (p *process) started() bool { return p.polls > pollsToStart }

func (p *process) status() string {
	switch {
	case p.over:
		return "stopped"
	case p.started():
		return "running"
	default:
		return "starting"
	}
}

// schedule puts a room on a process: "Hathora will either schedule a room in an existing process if it has capacity, or will spin up a new process for the room" (Room
// Lifecycle). A process that is there hears nothing of it: it has to ask for its rooms.
func (a *api) schedule(o *room, deployment, region string) {
	for _, p := range a.processes {
		if !p.over && p.app == o.app && p.deployment == deployment && p.region == region && len(p.rooms) < a.cfg.RoomsPerProcess {
			p.enter(o)
			return
		}
	}
	n := len(a.processes)
	p := &process{
		id: fmt.Sprintf("cbfcddd2-0006-43ae-996c-%012d", n), app: o.app, deployment: deployment, region: region, created: a.now(), port: 20_000 + n%40_000,
	}
	a.processes = append(a.processes, p)
	p.enter(o)
	p.end = a.servers.Start([]byte(o.config), func() { // HATHORA_INITIAL_ROOM_CONFIG
		a.mu.Lock()
		defer a.mu.Unlock()
		a.terminated(p)
	})
}

func (p *process) enter(o *room) {
	o.process = p
	p.rooms = append(p.rooms, o)
	if p.idle != nil {
		p.idle.Stop()
	}
}

// leave destroys a room.
func (a *api) leave(o *room) {
	o.destroyed = true
	p := o.process
	p.rooms = slices.DeleteFunc(p.rooms, func(other *room) bool { return other == o })
	if len(p.rooms) > 0 {
		return
	}
	p.idle = time.AfterFunc(idleTime, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(p.rooms) == 0 && !p.over {
			p.end()
			a.terminated(p)
		}
	})
}

// terminated is a process that has ended: "Hathora automatically destroys all rooms in a process when a container exits cleanly (with exit code 0)" (Room Lifecycle).
func (a *api) terminated(p *process) {
	p.over = true
	for _, o := range p.rooms {
		o.destroyed = true
	}
	p.rooms = nil
	if p.idle != nil {
		p.idle.Stop()
	}
}

// now is the time at which a process is made: two of them have one millisecond, which is all that before tells apart.
func (a *api) now() time.Time {
	n := len(a.processes)
	return time.Unix(int64(1_700_000_000+(n+1)/2), int64(n)*int64(time.Microsecond)%int64(time.Millisecond))
}

func (a *api) findProcess(w http.ResponseWriter, r *http.Request) *process {
	for _, p := range a.processes {
		if p.app == r.PathValue("app") && p.id == r.PathValue("process") {
			return p
		}
	}
	refuse(w, http.StatusNotFound, "Process not found")
	return nil
}

func (a *api) process(w http.ResponseWriter, r *http.Request) {
	if p := a.findProcess(w, r); p != nil {
		answer(w, http.StatusOK, a.processData(p))
	}
}

// stop is StopProcess: "Terminating a process will immediately stop the process and destroy all associated rooms" (Terminate a process).
func (a *api) stop(w http.ResponseWriter, r *http.Request) {
	p := a.findProcess(w, r)
	switch {
	case p == nil:
	case p.over: // an assumption
		refuse(w, http.StatusNotFound, "Process not found")
	default:
		p.end()
		a.terminated(p)
		w.WriteHeader(http.StatusNoContent)
	}
}

func (a *api) active(w http.ResponseWriter, r *http.Request) {
	list := []any{}
	for _, o := range a.rooms {
		if o.app == r.PathValue("app") && o.process.id == r.PathValue("process") && !o.destroyed {
			list = append(list, a.roomData(o))
		}
	}
	answer(w, http.StatusOK, list)
}

// latest are the newest processes; before, in milliseconds since 1970 (an assumption), asks for older ones.
func (a *api) latest(w http.ResponseWriter, r *http.Request) {
	var before float64
	if text := r.URL.Query().Get("before"); text != "" {
		var err error
		if before, err = strconv.ParseFloat(text, 64); err != nil {
			refuse(w, http.StatusUnprocessableEntity, "Validation Failed: before")
			return
		}
	}
	var found []*process
	for _, p := range a.processes {
		if p.app == r.PathValue("app") && (before == 0 || float64(p.created.UnixMilli()) < before) && slices.Contains(r.URL.Query()["status"], p.status()) {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b *process) int { return b.created.Compare(a.created) })
	list := []any{}
	for _, p := range found[:min(len(found), processesPage)] {
		list = append(list, a.processData(p))
	}
	answer(w, http.StatusOK, list)
}

// processData is ProcessV3.
func (a *api) processData(p *process) map[string]any {
	return map[string]any{
		"processId": p.id, "appId": p.app, "deploymentId": p.deployment, "region": p.region, "status": p.status(), "createdAt": p.created,
		"roomsPerProcess": a.cfg.RoomsPerProcess, "roomsAllocated": len(p.rooms),
	}
}
