package gamelift_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/gamelift"
	gamelifthost "github.com/berth-dev/berth/test/hosts/gamelift"
	"github.com/berth-dev/berth/test/hosts/standin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	accessKey = "AKIDEXAMPLE"
	secretKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

	fleet    = "fleet-2222bbbb-33cc-44dd-55ee-6666ffff77aa"
	anywhere = "fleet-3333bbbb-33cc-44dd-55ee-6666ffff77aa"
	stubborn = "fleet-4444bbbb-33cc-44dd-55ee-6666ffff77aa"
	tiny     = "fleet-5555bbbb-33cc-44dd-55ee-6666ffff77aa"
	down     = "fleet-6666bbbb-33cc-44dd-55ee-6666ffff77aa"
	next     = "fleet-8888bbbb-33cc-44dd-55ee-6666ffff77aa"
	american = "fleet-7777bbbb-33cc-44dd-55ee-6666ffff77aa"
	office   = "fleet-9999bbbb-33cc-44dd-55ee-6666ffff77aa"
	alias    = "alias-1111aaaa-22bb-33cc-44dd-5555eeee66ff"
	retired  = "alias-2222aaaa-22bb-33cc-44dd-5555eeee66ff"
)

// account is what the stand-in has.
func account() gamelifthost.Config {
	return gamelifthost.Config{
		AccessKey: accessKey,
		Fleets: map[string]gamelifthost.Fleet{
			fleet:    {Region: "eu-central-1", Locations: []string{"eu-west-1"}, Slots: 100_000, TLS: true},
			anywhere: {Region: "eu-central-1", Locations: []string{"custom-office"}, Slots: 1000, Anywhere: true, Stubborn: true},
			stubborn: {Region: "eu-central-1", Slots: 1000, Stubborn: true},
			tiny:     {Region: "eu-central-1"},
			down:     {Region: "eu-central-1", Slots: 1000, Status: "ACTIVATING"},
			next:     {Region: "eu-central-1", Slots: 1000},
			office:   {Region: "eu-central-1", Locations: []string{"custom-office"}, Slots: 100_000, Anywhere: true},
			american: {Region: "us-east-1", Locations: []string{"sa-east-1"}, Slots: 1000},
		},
		Aliases: map[string]gamelifthost.Alias{
			alias: {Region: "eu-central-1", Fleet: fleet}, retired: {Region: "eu-central-1", Message: "this version has ended"},
		},
		Queues: map[string]gamelifthost.Queue{
			"shooter":  {Region: "eu-central-1", Destinations: []string{alias, american}, Locations: true, Timeout: time.Minute},
			"plain":    {Region: "eu-central-1", Destinations: []string{fleet}, Timeout: time.Minute},
			"full":     {Region: "eu-central-1", Destinations: []string{tiny}, Timeout: 50 * time.Millisecond},
			"waiting":  {Region: "eu-central-1", Destinations: []string{tiny}, Timeout: time.Hour},
			"american": {Region: "eu-central-1", Destinations: []string{american}, Locations: true, Timeout: time.Minute},
		},
	}
}

// start starts a stand-in, and returns a configuration for it that has no builds yet.
func start(t testing.TB) (*gamelifthost.Host, gamelift.Config) {
	t.Helper()
	return startBehind(t, func(string) http.HandlerFunc { return nil })
}

// startOlder is start with ARNs of sessions as older pages of the documentation have them, or not.
func startOlder(t testing.TB, older bool) (*gamelifthost.Host, gamelift.Config) {
	t.Helper()
	all := account()
	all.OlderARNs = older
	return startWith(t, all, func(string) http.HandlerFunc { return nil })
}

// startBehind is start with answers of a Region that are not the stand-in's; nil: they are.
func startBehind(t testing.TB, answers func(region string) http.HandlerFunc) (*gamelifthost.Host, gamelift.Config) {
	t.Helper()
	return startWith(t, account(), answers)
}

func startWith(t testing.TB, account gamelifthost.Config, answers func(region string) http.HandlerFunc) (*gamelifthost.Host, gamelift.Config) {
	t.Helper()
	host := gamelifthost.New(account)
	url := standin.Serve(t, homes(host, answers), host)
	return host, gamelift.Config{URL: url, CredentialsFile: credentials(t, accessKey, secretKey), Regions: map[string]gamelift.Region{"eu": {Region: "eu-central-1"}}}
}

// homes lets calls to the home Regions of fleets through, as the policy in the docs does, and no others.
func homes(host *gamelifthost.Host, answers func(region string) http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, region := range []string{"eu-central-1", "us-east-1"} {
			if !strings.Contains(r.Header.Get("Authorization"), "/"+region+"/") {
				continue
			}
			if answer := answers(region); answer != nil {
				answer(w, r)
				return
			}
			host.ServeHTTP(w, r)
			return
		}
		gamelifthost.Refuse("AccessDeniedException", "User is not authorized to perform this action in this Region")(w, r)
	})
}

func credentials(t testing.TB, key, secret string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("[default]\naws_access_key_id = "+key+"\naws_secret_access_key = "+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// withEvents has the stand-in's events come.
func withEvents(t testing.TB, host *gamelifthost.Host, cfg gamelift.Config) gamelift.Config {
	t.Helper()
	srv := httptest.NewServer(host.Events())
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	cfg.Events = gamelift.Events{QueueURL: srv.URL + gamelifthost.QueuePath, Region: "eu-central-1"}
	return cfg
}

// open opens a provider that asks often.
func open(t testing.TB, cfg gamelift.Config) *gamelift.Provider {
	t.Helper()
	p, err := gamelift.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	gamelift.Hasten(p, 10*time.Millisecond, 10*time.Millisecond)
	t.Cleanup(func() {
		if err := p.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return p
}

// patient is a host that places sessions by and by: what has no room or is over a quota is not said when it is asked, but later.
type patient struct{ *gamelifthost.Host }

func (patient) Exhaust(context.Context) error { return providertest.ErrUnsupported }

func (patient) Quota(context.Context) error { return providertest.ErrUnsupported }

func TestConformanceDirect(t *testing.T) {
	for name, c := range map[string]struct {
		build    gamelift.Build
		location string
		older    bool
	}{
		"fleet": {gamelift.Build{Fleet: fleet}, "", false}, "alias": {gamelift.Build{Alias: alias}, "", false},
		"remote location": {gamelift.Build{Fleet: fleet}, "eu-west-1", false}, "remote location, older ARNs": {gamelift.Build{Fleet: fleet}, "eu-west-1", true},
		"anywhere": {gamelift.Build{Fleet: office}, "custom-office", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of the time it waits
			host, cfg := startOlder(t, c.older)
			cfg.Builds = map[string]gamelift.Build{"shooter": c.build}
			cfg.Regions = map[string]gamelift.Region{"eu": {Region: "eu-central-1", Location: c.location}}
			conforms(t, open(t, cfg), host, host)
		})
	}
}

func TestConformanceQueue(t *testing.T) {
	host, cfg := start(t)
	cfg.Builds = map[string]gamelift.Build{"shooter": {Queue: "shooter"}}
	cfg.Regions = map[string]gamelift.Region{"eu": {Region: "eu-central-1", Location: "eu-west-1"}}
	conforms(t, open(t, cfg), host, patient{host})
}

// With events nothing is polled for: the sweep is far longer than the suite takes.
func TestConformanceQueueWithEvents(t *testing.T) {
	host, cfg := start(t)
	cfg.Builds = map[string]gamelift.Build{"shooter": {Queue: "plain"}}
	p := open(t, withEvents(t, host, cfg))
	gamelift.Hasten(p, 10*time.Millisecond, time.Hour)
	conforms(t, p, host, patient{host})
}

func conforms(t *testing.T, p *gamelift.Provider, host *gamelifthost.Host, control providertest.Host) {
	t.Helper()
	providertest.Run(t, providertest.Config{Provider: p, Host: control})
	if c := host.Count(); c.Running != 0 || c.Doubled != 0 || c.Started == 0 {
		t.Errorf("at the end: %+v", c)
	}
}

func BenchmarkAllocate(b *testing.B) {
	for name, build := range map[string]gamelift.Build{"queue": {Queue: "plain"}, "fleet": {Fleet: fleet}} {
		b.Run(name, func(b *testing.B) {
			host, cfg := start(b)
			cfg.Builds = map[string]gamelift.Build{"shooter": build}
			p := open(b, cfg)
			gamelift.Unlimit(p)
			standin.Bench(b, p, host.Host, "shooter", "eu")
		})
	}
}
