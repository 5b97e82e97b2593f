package providertest_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A plugin without a mistake, at a host that can be made to do everything: all checks pass, and none is skipped.
func TestACorrectPluginPassesAll(t *testing.T) {
	p := newPlugin()
	t.Cleanup(p.Close)
	report, err := providertest.Verify(t.Context(), providertest.Config{Provider: p, Host: p.host}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, mistake := range mistakes() {
		found = append(found, mistake.checks...)
	}
	for _, r := range report {
		if r.Status != providertest.Passed {
			t.Errorf("%s %s: %s", r.Name, r.Status, r.Why)
		}
		if !slices.Contains(found, r.Name) {
			t.Errorf("no mistake shows that %s can fail", r.Name)
		}
	}
	if len(report) < 30 || p.Stats().Alive != 0 {
		t.Errorf("%d checks, %+v", len(report), p.Stats())
	}
}

// Without its check nobody would notice that a plugin is too sure of what became of a cancelled call.
func TestNoOtherCheckCancels(t *testing.T) {
	p := newPlugin()
	t.Cleanup(p.Close)
	mistakes()["is sure that a cancelled call did nothing"].make(p)
	report, err := providertest.Verify(t.Context(), providertest.Config{Provider: p, Host: p.host}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report {
		if failed := r.Status == providertest.Failed; failed != (r.Name == "cancel-in-flight") {
			t.Errorf("%s %s: %s", r.Name, r.Status, r.Why)
		}
	}
}

// A host that says why a check does not apply to it has that in the result.
func TestAHostSaysWhatDoesNotApply(t *testing.T) {
	p := newPlugin()
	t.Cleanup(p.Close)
	report, err := providertest.Verify(t.Context(), providertest.Config{Provider: p, Host: free{p.host}, Checks: []string{"quota", "no-capacity"}}, nil)
	if err != nil || len(report) != 3 || report[0].Status != providertest.Passed || report[1].Status != providertest.Skipped || report[1].Why != "does not apply: it costs nothing" {
		t.Errorf("%v, %v", report, err)
	}
}

// free is a host without quotas.
type free struct{ *host }

func (free) Quota(context.Context) error { return providertest.NotApplicable("it costs nothing") }

// A run that is cut off gives back what it started, and says what it left out.
func TestARunThatIsCutOffCleansUp(t *testing.T) {
	p := newPlugin()
	t.Cleanup(p.Close)
	ctx, cancel := context.WithCancel(t.Context())
	next := p.allocate
	p.allocate = func(c context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
		defer cancel()
		return next(c, req)
	}
	var told providertest.Report
	report, err := providertest.Verify(ctx, providertest.Config{Provider: p, Host: p.host}, func(r providertest.Result) { told = append(told, r) })
	if err != nil || !slices.Equal(report, told) {
		t.Fatalf("%v, told %v, returned %v", err, told, report)
	}
	last := report[len(report)-1]
	if p.Stats().Started != 1 || p.Stats().Alive != 0 || last.Name != "clean-up" || last.Status != providertest.Passed || report.Count(providertest.Skipped) < 20 {
		t.Errorf("%+v, %v", p.Stats(), report)
	}
}

// Three servers run, and each Release takes effect and then hangs, so that the time of a check is over with the first.
func TestAReleaseThatHangsKeepsNoOtherServerFromItsOwn(t *testing.T) {
	p := newPlugin()
	t.Cleanup(p.Close)
	next := p.release
	p.release = func(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
		if _, err := next(ctx, req); err != nil {
			return nil, err
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	report, err := providertest.Verify(t.Context(), providertest.Config{Provider: p, Checks: []string{"list-several"}, Limit: time.Second}, nil)
	if err != nil || report.Count(providertest.Failed) != 2 || !strings.Contains(report[0].Why, "end of servers after their release") {
		t.Errorf("%v, %v", report, err)
	}
	if s := p.Stats(); s.Started != 3 || s.Alive != 0 {
		t.Errorf("at the end: %+v", s)
	}
}

// What the suite cannot give back it names, so that somebody can. Another's server, which has the mark, it does not tell anybody to end.
func TestServersThatAreLeftAreNamed(t *testing.T) {
	p := newPlugin()
	t.Cleanup(p.Close)
	if _, err := p.Allocate(t.Context(), &providerv1.AllocateRequest{AttemptId: "theirs", Build: "chaos", Deployment: "blue"}); err != nil {
		t.Fatal(err)
	}
	p.release = func(context.Context, *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
		return nil, provider.Failure(provider.Invalid, "no")
	}
	report, err := providertest.Verify(t.Context(), providertest.Config{Provider: p, Checks: []string{"allocate"}, Deployment: "blue", Limit: time.Second}, nil)
	if err != nil || len(report) != 2 {
		t.Fatalf("%v, %v", report, err)
	}
	for _, want := range []string{"INVALID", `ended at the host: "chaos-2" of attempt "`, `did not name: "chaos-1" of attempt "theirs"`} {
		if !strings.Contains(report[1].Why, want) {
			t.Errorf("it does not say %q but %q", want, report[1].Why)
		}
	}
}

// The provider is not to blame for what fails because the run was cut off.
func TestACheckThatIsCutOffHasNoVerdict(t *testing.T) {
	p := newPlugin()
	t.Cleanup(p.Close)
	ctx, cancel := context.WithCancel(t.Context())
	next := p.get
	p.get = func(c context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
		if ctx.Err() == nil {
			cancel()
			<-c.Done()
			return nil, c.Err()
		}
		return next(c, req)
	}
	report, err := providertest.Verify(ctx, providertest.Config{Provider: p, Checks: []string{"allocate"}}, nil)
	if err != nil || len(report) != 2 || report[0].Status != providertest.Skipped || report[0].Why != "the run was cut off" {
		t.Errorf("%v, %v", report, err)
	}
}

func TestChecksCanBeChosen(t *testing.T) {
	p := newPlugin()
	t.Cleanup(p.Close)
	report, err := providertest.Verify(t.Context(), providertest.Config{Provider: p, Checks: []string{"get-unknown"}}, nil)
	if err != nil || len(report) != 2 || report[0].Name != "get-unknown" || report[1].Name != "clean-up" {
		t.Errorf("%v, %v", report, err)
	}
	if _, err := providertest.Verify(t.Context(), providertest.Config{Provider: p, Checks: []string{"speed"}}, nil); err == nil || !strings.Contains(err.Error(), "get-unknown") {
		t.Errorf("a check that is none: %v", err)
	}
}

func TestWithoutControlsChecksAreSkippedAndSaySo(t *testing.T) {
	p := newPlugin()
	t.Cleanup(p.Close)
	report, err := providertest.Verify(t.Context(), providertest.Config{Provider: p, MaxServers: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var skipped []string
	for _, r := range report {
		if r.Status == providertest.Failed || r.Status == providertest.Skipped && r.Why == "" {
			t.Errorf("%+v", r)
		}
		if r.Status == providertest.Skipped {
			skipped = append(skipped, r.Name)
		}
	}
	for _, name := range []string{"allocate-two", "list-several", "hanging-host", "bootstrap"} {
		if !slices.Contains(skipped, name) {
			t.Errorf("%s is not skipped", name)
		}
	}
}
