package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

const (
	starting = providerv1.ServerState_SERVER_STATE_STARTING
	running  = providerv1.ServerState_SERVER_STATE_RUNNING
	stopping = providerv1.ServerState_SERVER_STATE_STOPPING
	exited   = providerv1.ServerState_SERVER_STATE_EXITED
)

// stopGrace is how long a command has between being asked to stop and being made to.
const stopGrace = 5 * time.Second

// start starts the attempt's server, or two; or returns the one that it has.
func (p *Provider) start(req *providerv1.AllocateRequest, step Step) (*providerv1.Server, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.attempts[req.GetAttemptId()]
	switch {
	case p.life.Err() != nil:
		return nil, provider.Failure(provider.Unavailable, "the provider was closed")
	case !attemptID.MatchString(req.GetAttemptId()):
		return nil, provider.Failure(provider.Invalid, "attempt_id: must be 1 to 48 letters, digits and '-'")
	case a != nil && a.released && !step.DespiteRelease:
		return nil, provider.Failure(provider.Invalid, "attempt %s was released before", req.GetAttemptId())
	case a != nil && len(a.servers) > 0:
		return a.servers[0].proto(), nil
	case !slices.Contains(p.script.Builds, req.GetBuild()):
		return nil, provider.Failure(provider.Invalid, "build %q is not in the script", req.GetBuild())
	case req.GetRegion() != "" && !slices.Contains(p.script.Regions, req.GetRegion()):
		return nil, provider.Failure(provider.Invalid, "region %q is not in the script", req.GetRegion())
	case p.script.MaxServers > 0 && len(p.servers) >= p.script.MaxServers:
		return nil, provider.Failure(provider.NoCapacity, "max_servers: %d servers run already", p.script.MaxServers)
	}
	if a == nil {
		a = new(attempt)
		p.attempts[req.GetAttemptId()] = a
	}
	if step.Refuse != "" {
		p.takes(a, req, step)
		return a.servers[0].proto(), nil
	}
	p.begins(a, req)
	if step.Duplicate {
		p.begins(a, req)
	}
	return a.servers[0].proto(), nil
}

// enter makes a server of the attempt's.
func (p *Provider) enter(a *attempt, req *providerv1.AllocateRequest, state providerv1.ServerState) (*server, context.Context) {
	p.last++
	ctx, stop := context.WithCancel(p.life)
	s := &server{number: p.last, attempt: req.GetAttemptId(), deployment: req.GetDeployment(), region: req.GetRegion(), state: state, stop: stop}
	a.servers = append(a.servers, s)
	p.servers[s.number] = s
	return s, ctx
}

// takes takes an order that will be turned down.
func (p *Provider) takes(a *attempt, req *providerv1.AllocateRequest, step Step) {
	s, _ := p.enter(a, req, starting)
	s.refused, s.message = step.Refuse.value(), cmp.Or(step.Message, saysSo)
}

// turnsDown turns an order down that was only taken.
func (p *Provider) turnsDown(s *server) {
	if s.refused != 0 && s.state == starting {
		p.ended(s)
	}
}

// begins starts one server.
func (p *Provider) begins(a *attempt, req *providerv1.AllocateRequest) {
	s, ctx := p.enter(a, req, running)
	p.stats.started(len(a.servers))
	p.log.Debug("server started", "attempt", s.attempt, "external_id", s.externalID())
	run := p.run
	if run == nil && len(p.script.Command) > 0 {
		run = command(p.script.Command)
	}
	if run == nil {
		return
	}
	s.runs = true
	p.running.Go(func() {
		err := run(ctx, req)
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			s.message = err.Error()
		}
		p.ended(s)
	})
}

// stops asks a server to end. It has, if nothing runs for it.
func (p *Provider) stops(s *server) {
	if s.state != running && s.state != starting {
		return
	}
	s.state = stopping
	s.stop()
	if !s.runs {
		p.ended(s)
	}
}

// ended takes a server from those that are there.
func (p *Provider) ended(s *server) {
	s.stop()
	s.state = exited
	delete(p.servers, s.number)
	p.log.Debug("server ended", "attempt", s.attempt, "external_id", s.externalID(), "message", s.message)
}

// release gives back what the attempt has, and remembers that nobody wants any more.
func (p *Provider) release(id string) providerv1.ServerState {
	a := p.attempts[id]
	if a == nil {
		a = new(attempt)
		p.attempts[id] = a
	}
	if !a.released {
		a.released = true
		p.stats.Released++
	}
	state := exited
	for _, s := range a.servers {
		p.stops(s)
		if s.state == stopping {
			state = stopping
		}
	}
	return state
}

func (s *server) externalID() string { return fmt.Sprintf("chaos-%d", s.number) }

func (s *server) proto() *providerv1.Server {
	out := &providerv1.Server{AttemptId: s.attempt, ExternalId: s.externalID(), State: s.state, Region: s.region}
	if s.state != starting {
		out.Message = s.message
	}
	if s.state == exited {
		out.Failure = s.refused
	}
	return out
}

// command returns the Run of a script's command.
func command(parts []string) func(context.Context, *providerv1.AllocateRequest) error {
	return func(ctx context.Context, order *providerv1.AllocateRequest) error {
		cmd := exec.CommandContext(ctx, parts[0], parts[1:]...)
		cmd.Env = append(os.Environ(), "BERTH_BOOTSTRAP="+string(order.GetBootstrap()), "BERTH_ATTEMPT="+order.GetAttemptId())
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = stopGrace
		err := cmd.Run()
		if ctx.Err() != nil {
			return ctx.Err() // it was asked to end
		}
		if err == nil {
			return errors.New(cmd.ProcessState.String()) // how it ended, for people
		}
		return err
	}
}
