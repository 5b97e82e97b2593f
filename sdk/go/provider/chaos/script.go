package chaos

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// Script says what a provider is and what goes wrong at it. The zero value is a provider at which nothing does.
type Script struct {
	// Seed is what chance begins with. The same seed and the same order of calls is the same run.
	Seed uint64 `yaml:"seed"`
	// Builds that it can run. Default: chaos.
	Builds []string `yaml:"builds"`
	// Regions that it serves. Default: local.
	Regions []string `yaml:"regions"`
	// MaxServers is how many servers may run at once; more fail with NO_CAPACITY. Default: no limit.
	MaxServers int `yaml:"max_servers"`
	// PageSize is how many servers a page of List has. Default: 50.
	PageSize int `yaml:"page_size"`
	// PollInterval is how often it may be asked about a server. Default: 100 ms.
	PollInterval time.Duration `yaml:"poll_interval"`
	// Command is started for each server, with the bootstrap document in BERTH_BOOTSTRAP and the attempt in BERTH_ATTEMPT, beside this process' own environment. It is
	// asked to stop (TERM) when the server is released, and made to 5 s later. Default: servers are in memory only.
	Command []string `yaml:"command"`

	// The steps of each rpc: the first that applies to a call is what happens to it. None: the call does what it should.
	Describe []Step `yaml:"describe"`
	Allocate []Step `yaml:"allocate"`
	Get      []Step `yaml:"get"`
	List     []Step `yaml:"list"`
	Release  []Step `yaml:"release"`
}

// Step is what happens to a call. In this order: it is delayed; it hangs or fails; it takes effect; the reply is delayed; the reply is lost or garbled.
type Step struct {
	// At are the calls that it happens to, counted from 1 for each rpc since the script began. Empty: all.
	At []int `yaml:"at"`
	// Probability that it happens to such a call, above 0 and up to 1. Default: 1.
	Probability Probability `yaml:"probability,omitempty"`

	// Delay is before the effect. If the caller goes meanwhile, there is none.
	Delay time.Duration `yaml:"delay"`
	// ReplyDelay is between effect and reply: a server links before its reply is there.
	ReplyDelay time.Duration `yaml:"reply_delay"`
	// Jitter is added to each delay: a random time up to that.
	Jitter time.Duration `yaml:"jitter"`

	// Hang does nothing until the caller goes.
	Hang bool `yaml:"hang"`
	// Fail is the reason of a failure, such as NO_CAPACITY. Nothing is done then.
	Fail Reason `yaml:"fail"`
	// Message is the failure's. Default: that the script says so.
	Message string `yaml:"message"`
	// RetryAfter is the failure's, too.
	RetryAfter time.Duration `yaml:"retry_after"`

	// Late, of Allocate: the server comes after that time, whether or not somebody waits for it. With fail: AMBIGUOUS the call fails at once, as one whose time is over.
	Late time.Duration `yaml:"late"`
	// DespiteRelease, with Late: it comes even if its attempt was released meanwhile, as from a host that cannot take an order back.
	DespiteRelease bool `yaml:"despite_release"`
	// Duplicate, of Allocate: the host starts two servers for the one attempt. Both are in List; Release gives both back.
	Duplicate bool `yaml:"duplicate"`

	// Refuse, of Allocate: the order is taken, and turned down by the time that it is asked about (Get): the server never runs, for that reason.
	Refuse Reason `yaml:"refuse"`

	// LoseReply does what was asked and fails with AMBIGUOUS.
	LoseReply bool `yaml:"lose_reply"`
	// Garble does what was asked and answers nonsense, as a provider with a bug.
	Garble bool `yaml:"garble"`
}

// Probability is how likely a step is. Its zero value is 1, as that of a step that says nothing of it; a script that says 0 is refused, as it would mean the opposite.
type Probability float64

var errProbability = errors.New("probability: is above 0 and up to 1. Without it the step always happens; for never, leave the step out")

// UnmarshalYAML implements yaml.Unmarshaler.
func (p *Probability) UnmarshalYAML(node *yaml.Node) error {
	if err := node.Decode((*float64)(p)); err != nil {
		return err
	}
	if *p == 0 {
		return fmt.Errorf("line %d: %w", node.Line, errProbability)
	}
	return nil
}

// Reason is a failure's reason, as in the contract without its prefix.
type Reason string

func (r Reason) value() providerv1.FailureReason {
	return providerv1.FailureReason(providerv1.FailureReason_value["FAILURE_REASON_"+string(r)])
}

// Parse reads a script in YAML.
func Parse(raw []byte) (Script, error) {
	var s Script
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		return Script{}, err
	}
	_, err := s.complete()
	return s, err
}

// The names of the rpcs, as in a script.
const (
	describe = "describe"
	allocate = "allocate"
	get      = "get"
	list     = "list"
	release  = "release"
)

func (s *Script) steps(rpc string) []Step {
	return map[string][]Step{describe: s.Describe, allocate: s.Allocate, get: s.Get, list: s.List, release: s.Release}[rpc]
}

// complete checks the script and fills in defaults.
func (s Script) complete() (Script, error) {
	if len(s.Builds) == 0 {
		s.Builds = []string{"chaos"}
	}
	if len(s.Regions) == 0 {
		s.Regions = []string{"local"}
	}
	s.PageSize, s.PollInterval = cmp.Or(s.PageSize, 50), cmp.Or(s.PollInterval, 100*time.Millisecond)
	switch {
	case s.MaxServers < 0 || s.PageSize < 0 || s.PollInterval < 0:
		return s, errors.New("max_servers, page_size, poll_interval: must not be negative")
	case len(s.Command) > 0 && s.Command[0] == "":
		return s, errors.New("command: the first part is the program, and must not be empty")
	}
	for _, rpc := range []string{describe, allocate, get, list, release} {
		for i, step := range s.steps(rpc) {
			if err := step.check(rpc); err != nil {
				return s, fmt.Errorf("%s[%d].%w", rpc, i, err)
			}
		}
	}
	return s, nil
}

func (s *Step) check(rpc string) error {
	switch {
	case slices.ContainsFunc(s.At, func(n int) bool { return n < 1 }):
		return errors.New("at: calls are counted from 1")
	case !(s.Probability >= 0 && s.Probability <= 1): // nor not a number
		return errProbability
	case s.Delay < 0 || s.ReplyDelay < 0 || s.Jitter < 0 || s.RetryAfter < 0 || s.Late < 0:
		return errors.New("delay, reply_delay, jitter, retry_after, late: must not be negative")
	case s.Fail != "" && s.Fail.value() == 0:
		return fmt.Errorf("fail: %q is none of the reasons: %s", s.Fail, strings.Join(reasons(), ", "))
	case rpc != allocate && (s.Late > 0 || s.Duplicate || s.Refuse != ""):
		return errors.New("late, duplicate, refuse: are for allocate only")
	case s.Refuse != "" && (s.Refuse.value() == 0 || s.Refuse.value() == provider.Ambiguous || s.Refuse.value() == provider.NotFound):
		return fmt.Errorf("refuse: %q is no reason why a host refuses a server after all", s.Refuse)
	case s.Refuse != "" && (s.Late > 0 || s.Duplicate || s.Fail != ""):
		return errors.New("refuse: goes with no late, duplicate or fail, as no server comes of it")
	case s.DespiteRelease && s.Late == 0:
		return errors.New("despite_release: is for late only")
	case s.Late > 0 && s.Fail != "" && s.Fail.value() != provider.Ambiguous:
		return fmt.Errorf("fail: %s says that nothing is started; with late it is AMBIGUOUS", s.Fail)
	}
	return nil
}

func reasons() []string {
	var names []string
	for n := int32(1); int(n) < len(providerv1.FailureReason_name); n++ {
		names = append(names, strings.TrimPrefix(providerv1.FailureReason_name[n], "FAILURE_REASON_"))
	}
	return names
}

// pick returns what happens to the n-th call of an rpc. Chance follows from seed, rpc and n alone, so that it does not matter which of several callers is first.
func (s *Script) pick(rpc string, n int) Step {
	chance := rand.New(rand.NewPCG(s.Seed, uint64(n)*256+uint64(rpc[0])))
	for _, step := range s.steps(rpc) {
		if len(step.At) > 0 && !slices.Contains(step.At, n) {
			continue
		}
		if step.Probability > 0 && chance.Float64() >= float64(step.Probability) {
			continue
		}
		if step.Jitter > 0 {
			step.Delay += time.Duration(chance.Int64N(int64(step.Jitter)))
			step.ReplyDelay += time.Duration(chance.Int64N(int64(step.Jitter)))
		}
		return step
	}
	return Step{}
}

// saysSo is the message of what the script gives none.
const saysSo = "the script says so"

// failure is what the step fails with.
func (s *Step) failure() error {
	err := provider.Failure(s.Fail.value(), "%s", cmp.Or(s.Message, saysSo))
	if s.RetryAfter > 0 {
		err = provider.RetryAfter(err, s.RetryAfter)
	}
	return err
}
