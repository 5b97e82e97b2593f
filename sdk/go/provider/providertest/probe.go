package providertest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// interrupted is why a check is skipped that did not come to its end, or not even to its turn.
const interrupted = "the run was cut off"

var errStuck = fmt.Errorf("did not return within %v of the end of its context", prompt)

// panicked is a call that panicked.
type panicked struct{ value any }

func (p panicked) Error() string { return fmt.Sprintf("panicked: %v", p.value) }

// probe is one check while it runs. Its methods that end the check are called by the check's own goroutine only.
type probe struct {
	*suite
	ctx      context.Context
	status   Status
	why      string
	attempts []string // that this check used
}

// run runs a check, and then gives back what it started.
func (s *suite) run(ctx context.Context, c check) Result {
	start := time.Now()
	p := &probe{suite: s, status: Passed}
	last := c.name == cleanUp
	switch {
	case ctx.Err() != nil && !last:
		p.status, p.why = Skipped, interrupted
	case s.describe == nil && c.name != describeFirst:
		p.status, p.why = Skipped, "Describe failed, and everything else builds on it"
	case c.servers > s.cfg.MaxServers:
		p.status, p.why = Skipped, fmt.Sprintf("needs %d servers at once, and there may be %d", c.servers, s.cfg.MaxServers)
	default:
		if last {
			ctx = context.WithoutCancel(ctx)
		}
		p.perform(ctx, c)
	}
	return Result{Name: c.name, Status: p.status, Why: p.why, Took: time.Since(start)}
}

// perform runs the check itself in a goroutine that it can end, and waits for it.
func (p *probe) perform(ctx context.Context, c check) {
	within(ctx, p.cfg.Limit, func(ctx context.Context) {
		p.ctx = ctx
		p.do(c.run)
	})
	if len(p.attempts) == 0 {
		return
	}
	within(context.WithoutCancel(ctx), p.cfg.Limit, func(ctx context.Context) {
		p.ctx = ctx
		p.do((*probe).heal)
		p.giveBack(p.attempts)
	})
}

func within(ctx context.Context, limit time.Duration, f func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	f(ctx)
}

func (p *probe) do(f func(*probe)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(p)
	}()
	<-done
}

// failf ends the check. What failed first is what is told. Of what fails because the run was cut off, the provider is not to blame.
func (p *probe) failf(format string, args ...any) {
	switch {
	case p.status == Failed:
	case errors.Is(p.ctx.Err(), context.Canceled):
		p.status, p.why = Skipped, interrupted
	default:
		p.status, p.why = Failed, fmt.Sprintf(format, args...)
		if p.ctx.Err() != nil {
			p.why += fmt.Sprintf(" (the check's time of %v is over)", p.cfg.Limit)
		}
	}
	runtime.Goexit()
}

// skipf ends the check without a verdict.
func (p *probe) skipf(format string, args ...any) {
	p.status, p.why = Skipped, fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// need ends the check if the host cannot do what it needs, or fails at it.
func (p *probe) need(what string, err error) {
	var why inapplicable
	switch {
	case errors.As(err, &why):
		p.skipf("does not apply: %s", why)
	case errors.Is(err, ErrUnsupported):
		p.skipf("needs a host that can be controlled (%s)", what)
	case err != nil:
		p.failf("control of the host: %s: %v", what, err)
	}
}

func (p *probe) heal() {
	if err := p.cfg.Host.Heal(p.ctx); err != nil && !errors.Is(err, ErrUnsupported) {
		p.failf("control of the host: heal: %v", err)
	}
}

// call calls a method of a provider, and gives up on one that does not return when its context has ended.
func call[Req, Resp any](ctx context.Context, method func(context.Context, Req) (Resp, error), req Req) (Resp, error) {
	type answer struct {
		resp Resp
		err  error
	}
	answers := make(chan answer, 1) // there is one
	go func() {
		var a answer
		defer func() { answers <- a }()
		defer func() {
			if value := recover(); value != nil {
				a.err = panicked{value}
			}
		}()
		a.resp, a.err = method(ctx, req)
	}()
	select {
	case a := <-answers:
		return a.resp, a.err
	case <-ctx.Done():
	}
	select {
	case a := <-answers:
		return a.resp, a.err
	case <-time.After(prompt):
		var none Resp
		return none, errStuck
	}
}

// seen ends the check for what a call must never do, and notes a failure without a reason. A call whose context has ended may fail with anything.
func (p *probe) seen(ctx context.Context, method string, err error) {
	var value panicked
	switch {
	case err == nil:
	case errors.Is(err, errStuck), errors.As(err, &value):
		p.failf("%s %v", method, err)
	case !ended(ctx, err) && !typed(err):
		p.untyped = append(p.untyped, fmt.Sprintf("%s: %v", method, err))
	}
}

// ended reports whether a call failed because of its context. A deadline travels with the call: the other end may see it pass first.
func ended(ctx context.Context, err error) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && status.Code(err) == codes.DeadlineExceeded && time.Until(deadline) < prompt
}

// typed reports whether a failure names its reason.
func typed(err error) bool {
	st, ok := status.FromError(err)
	if !ok {
		return false
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == provider.Domain {
			return providerv1.FailureReason_value["FAILURE_REASON_"+info.GetReason()] != 0
		}
	}
	return false
}

// reason is a failure's reason as the contract spells it.
func reason(err error) string {
	if err == nil {
		return "no failure"
	}
	return strings.TrimPrefix(provider.ReasonOf(err).String(), "FAILURE_REASON_")
}

// wait waits until what holds, and ends the check if it does not in time.
func (p *probe) wait(what string, holds func() bool) {
	if !p.until(holds) {
		p.failf("waited in vain for %s", what)
	}
}

// until reports whether something holds before the check's time is over, asking as often as the provider wants to be asked.
func (p *probe) until(holds func() bool) bool {
	tick := time.NewTicker(p.poll())
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-p.ctx.Done():
			return false
		}
	}
	return true
}
