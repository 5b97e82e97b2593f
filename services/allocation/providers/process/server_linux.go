package process

import (
	"os/exec"
	"syscall"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// server is one server and what its state file says. Provider.mu guards it.
type server struct {
	record
	cmd    *exec.Cmd     // nil when it was started in another life of the service
	killed bool          // was made to stop
	ours   map[stat]bool // of a group from another life of the service: the processes that were seen with the server's mark
	done   chan struct{} // closed when it has ended
}

func (s *server) ended() bool { return s.Phase == phaseExited }

// message returns what the contract says of the server.
func (s *server) message() *providerv1.Server {
	out := &providerv1.Server{AttemptId: s.Attempt, Region: s.Region, Message: s.Message}
	if s.PID != 0 {
		out.ExternalId = externalID(s.PID, s.Start)
	}
	switch {
	case s.ended():
		out.State = providerv1.ServerState_SERVER_STATE_EXITED
	case !s.StopTime.IsZero():
		out.State = providerv1.ServerState_SERVER_STATE_STOPPING
	default:
		out.State = providerv1.ServerState_SERVER_STATE_RUNNING
	}
	for _, e := range s.Endpoints {
		out.Endpoints = append(out.Endpoints, &typev1.Endpoint{Name: e.Name, Host: e.Host, Port: uint32(e.Port), Protocol: protocolOf(e.Protocol)})
	}
	return out
}

// advance notices the end of a server's first process, and then sees that nothing of its group is left.
func (p *Provider) advance(s *server, now time.Time) {
	if s.ended() {
		return
	}
	if p.firstRuns(s) {
		p.killLate(s, now)
		return
	}
	if len(p.rest(s)) > 0 {
		p.ask(s, now)
		p.killLate(s, now)
		return
	}
	s.Phase, s.EndTime, s.Message = phaseExited, now, "exit status unknown: it ended while the allocation service was away"
	if s.cmd != nil {
		_ = s.cmd.Wait() // returns at once; the state says it all
		s.Message = s.cmd.ProcessState.String()
	}
	p.keep(s.record)
	close(s.done)
	p.log.Info("server ended", "attempt", s.Attempt, "instance", s.Instance, "pid", s.PID, "message", s.Message)
}

// firstRuns reports whether the server's first process runs.
func (p *Provider) firstRuns(s *server) bool {
	if s.cmd != nil {
		return !hasExited(s.PID)
	}
	now, ok := statOf(s.PID)
	return ok && s.Boot == p.boot && now.start == s.Start && !now.zombie
}

// rest returns the processes of the group whose first process has ended. As long as that is a child of ours and not reaped, the group's number is nobody
// else's; of a group from another life of the service only the processes count that carry the server's mark, or did: one that is ending shows its
// environment no more, while it may still hold a port.
func (p *Provider) rest(s *server) []stat {
	if s.cmd == nil && s.Boot != p.boot {
		return nil
	}
	return processes(func(q stat) bool {
		if q.group != s.PID || q.pid == s.PID {
			return false
		}
		if s.cmd != nil || s.ours[q] {
			return true
		}
		if !carries(q.pid, mark(s.Attempt)) {
			return false
		}
		if s.ours == nil {
			s.ours = make(map[stat]bool)
		}
		s.ours[q] = true
		return true
	})
}

// ask asks the server to stop, once.
func (p *Provider) ask(s *server, now time.Time) {
	if s.StopTime.IsZero() {
		s.StopTime = now
		p.keep(s.record)
		p.signal(s, syscall.SIGTERM)
	}
}

// killLate makes a server stop that was asked to and had its time.
func (p *Provider) killLate(s *server, now time.Time) {
	if s.StopTime.IsZero() || now.Sub(s.StopTime) < p.cfg.StopGrace {
		return
	}
	if !s.killed {
		s.killed = true
		p.log.Warn("server did not stop when asked; killed", "attempt", s.Attempt, "instance", s.Instance, "pid", s.PID)
	}
	p.signal(s, syscall.SIGKILL)
}

// signal signals all that belongs to the server, and never anybody who got one of its numbers later.
func (p *Provider) signal(s *server, sig syscall.Signal) {
	if s.cmd != nil || p.firstRuns(s) {
		signalGroup(s.PID, sig)
		return
	}
	for _, q := range p.rest(s) {
		signalOne(q, sig)
	}
}
