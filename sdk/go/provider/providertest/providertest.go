// Package providertest is the conformance suite of hosting providers: what Berth builds on, every provider has to show, whether it is built in or runs
// in a process of its own. [Run] runs it as a test of Go, [Verify] anywhere else; `berth provider verify` does so with somebody's own plugin.
//
// The suite starts real servers, and gives back all that it started, also when it is cut off. Many checks need the host behind the provider to misbehave.
// Whoever tests with a host that can be made to, says so with [Config.Host]; without one these checks are skipped, and the results say so.
package providertest

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

const (
	// defaultLimit is how long a check may take.
	defaultLimit = 30 * time.Second
	// defaultServers is how many servers the suite has at once.
	defaultServers = 3
	// prompt is how soon after the end of its context a call has to return.
	prompt = 2 * time.Second
)

// Config says what to check. Provider is needed.
type Config struct {
	// Provider is checked. Nobody else calls it meanwhile with the same deployment.
	Provider provider.Provider
	// Build to run. Default: the first that Describe names.
	Build string
	// Region to run in. Default: the first that Describe names, or none.
	Region string
	// Deployment is what the servers are marked with. Default: a fresh one, so that those of others at the same host are not touched. With one of
	// your own, List must be empty before.
	Deployment string
	// Bootstrap makes the document that a server is started with. Default: one of about 2.5 KB that has what servers need, but leads to no gateway.
	Bootstrap func(attempt, instance string) []byte
	// Host hurts the host behind the provider. Default: nothing can be done to it.
	Host Host
	// Checks are the names of those to run. Default: all. The one that gives everything back always runs.
	Checks []string
	// MaxServers is how many servers the suite may have at once. Checks that need more are skipped. Default: 3.
	MaxServers int
	// Limit is how long each check may take, giving back its servers included. A host whose servers take minutes to stop needs more than the default of 30 s.
	Limit time.Duration
}

// Status is how a check ended.
type Status string

// How checks end.
const (
	Passed  Status = "passed"
	Failed  Status = "failed"
	Skipped Status = "skipped"
)

// Result is how one check ended.
type Result struct {
	// Name of the check: lower-case words joined by '-'. Names stay the same from version to version.
	Name string `json:"name"`
	// Status is how it ended.
	Status Status `json:"status"`
	// Why it failed or was skipped.
	Why string `json:"why,omitempty"`
	// Took is how long it took, giving back its servers included.
	Took time.Duration `json:"took"`
}

// Report is how all checks ended, in the order in which they ran.
type Report []Result

// Count returns how many checks ended like that.
func (r Report) Count(s Status) int {
	n := 0
	for _, one := range r {
		if one.Status == s {
			n++
		}
	}
	return n
}

// Verify runs all checks, one after the other, and tells each result at once to each, unless that is nil. When ctx ends, the checks that are left are skipped, but
// for the last one, which gives back what the suite started. An error says that the configuration cannot be used; what a provider does wrong is in the report.
func Verify(ctx context.Context, cfg Config, each func(Result)) (Report, error) {
	s, err := newSuite(ctx, cfg)
	if err != nil {
		return nil, err
	}
	var report Report
	for _, c := range s.checks {
		result := s.run(ctx, c)
		report = append(report, result)
		if each != nil {
			each(result)
		}
	}
	return report, nil
}

// Run runs each check as a subtest of t.
func Run(t *testing.T, cfg Config) {
	t.Helper()
	s, err := newSuite(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s.checks {
		t.Run(c.name, func(t *testing.T) {
			switch result := s.run(t.Context(), c); result.Status {
			case Failed:
				t.Error(result.Why)
			case Skipped:
				t.Skip(result.Why)
			}
		})
	}
}

// check is one promise of a provider.
type check struct {
	name string
	// servers is how many it has at once.
	servers int
	run     func(*probe)
}

// checks lists them all. The first needs to hold for any other to mean something, and the last two look back at all.
func checks() []check {
	var all []check
	all = append(all, describeChecks()...)
	all = append(all, allocateChecks()...)
	all = append(all, releaseChecks()...)
	all = append(all, listChecks()...)
	all = append(all, refusalChecks()...)
	all = append(all, hostChecks()...)
	return append(all, endChecks()...)
}

// Checks returns the names of all checks, in the order in which they run.
func Checks() []string {
	var names []string
	for _, c := range checks() {
		names = append(names, c.name)
	}
	return names
}

// chosen returns the checks of those names.
func chosen(names []string) ([]check, error) {
	all := checks()
	if len(names) == 0 {
		return all, nil
	}
	for _, name := range names {
		if known := Checks(); !slices.Contains(known, name) {
			return nil, fmt.Errorf("checks: %q is none of %s", name, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(all, func(c check) bool { return c.name != cleanUp && !slices.Contains(names, c.name) }), nil
}

// suite is one run of the checks.
type suite struct {
	cfg      Config
	checks   []check
	describe *providerv1.DescribeResponse // nil: failed
	attempts []string                     // all that the suite ever named to the provider with an Allocate
	left     []string                     // of these, whose servers were not seen to end
	told     map[string]string            // the last external id that the provider told of each
	asked    map[string]int               // how often it was asked about each
	untyped  []string                     // failures without a reason
	stranger string                       // a deployment that is not ours
}

func newSuite(ctx context.Context, cfg Config) (*suite, error) {
	if cfg.Provider == nil {
		return nil, errors.New("provider: is needed")
	}
	if cfg.MaxServers < 0 || cfg.Limit < 0 {
		return nil, errors.New("max_servers, limit: must not be negative")
	}
	list, err := chosen(cfg.Checks)
	if err != nil {
		return nil, err
	}
	cfg.Limit = cmp.Or(cfg.Limit, defaultLimit)
	cfg.MaxServers = cmp.Or(cfg.MaxServers, defaultServers)
	cfg.Deployment = cmp.Or(cfg.Deployment, "verify-"+random(4))
	if cfg.Bootstrap == nil {
		cfg.Bootstrap = Bootstrap
	}
	if cfg.Host == nil {
		cfg.Host = Unsupported{}
	}
	s := &suite{cfg: cfg, checks: list, told: make(map[string]string), asked: make(map[string]int), stranger: "stranger-" + random(4)}
	s.ask(ctx)
	return s, nil
}

// ask asks the provider what it is. A failure is told by the first check.
func (s *suite) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Limit)
	defer cancel()
	d, err := call(ctx, s.cfg.Provider.Describe, &providerv1.DescribeRequest{ContractMin: provider.Contract, ContractMax: provider.Contract})
	if err != nil || d == nil {
		return
	}
	s.describe = d
	if s.cfg.Build == "" && len(d.GetBuilds()) > 0 {
		s.cfg.Build = d.GetBuilds()[0]
	}
	if s.cfg.Region == "" && len(d.GetRegions()) > 0 {
		s.cfg.Region = d.GetRegions()[0]
	}
}

// poll is how often the suite may ask about a server.
func (s *suite) poll() time.Duration {
	if s.describe.GetPollInterval() == nil {
		return time.Second
	}
	return min(max(s.describe.GetPollInterval().AsDuration(), 10*time.Millisecond), time.Second)
}

func random(n int) string {
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails
	return fmt.Sprintf("%x", raw)
}

// uuid returns a random UUID (RFC 9562, version 4).
func uuid() string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	raw[6], raw[8] = raw[6]&0x0f|0x40, raw[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:])
}
