package multiplay_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	"github.com/berth-dev/berth/services/allocation/providers/multiplay"
	multiplayhost "github.com/berth-dev/berth/test/hosts/multiplay"
	"github.com/berth-dev/berth/test/hosts/standin"
)

const (
	key         = "rs-4Yw6Tq0uXb2Vn8Lk1Zc5Rj7Hd3Fg9Pm6Sa0Qe4Wt2Uy8Io1K"
	keyID       = "7e0f1152-e0dd-4b14-8e37-04cab07efeb0"
	secret      = "5d7f1a66-f29d-45c8-a6aa-a84242aa805f"
	project     = "9495bede-abf0-44f1-9238-9b54304bdcce"
	environment = "d0ae987c-75bf-4802-a1f5-ab033a29a7e3"
	fleet       = "019cbe7b-6b16-774b-8fc4-44e2f9e395fb"
	otherFleet  = "6e4e3e11-d548-4b54-b388-5fc881991a13"
	europe      = "ddbf538c-1408-11f1-a08a-42010ab90008"
	america     = "dbd8da32-e8ee-4502-a249-fa0906bfe8b7"
	build       = 2000012
	readyBuild  = 2000013
	otherBuild  = 1275036
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start starts a stand-in, and returns a configuration for it.
func start(t testing.TB, dialect string) (*multiplayhost.Host, multiplay.Config) {
	t.Helper()
	return startBehind(t, dialect, func(host http.Handler) http.Handler { return host })
}

// startBehind starts one with something before it.
func startBehind(t testing.TB, dialect string, behind func(http.Handler) http.Handler) (*multiplayhost.Host, multiplay.Config) {
	t.Helper()
	host := multiplayhost.New(multiplayhost.Config{
		Dialect: dialect, APIKey: key, KeyID: keyID, KeySecret: secret, Project: project, Environment: environment,
		Fleets:  map[string]map[int64]multiplayhost.Readiness{fleet: {build: false, readyBuild: true}, otherFleet: {otherBuild: false}},
		Regions: []string{europe, america}, Idle: time.Hour,
	})
	url := standin.Serve(t, behind(host), host)
	cfg := multiplay.Config{
		Dialect: dialect, URL: url, Project: project, Environment: environment,
		Builds: map[string]multiplay.Build{
			"racer":   {Fleet: otherFleet, BuildConfiguration: otherBuild},
			"shooter": {Fleet: fleet, BuildConfiguration: build},
			"slow":    {Fleet: fleet, BuildConfiguration: readyBuild},
		},
		Regions: map[string]string{"eu": europe, "us": america},
	}
	if dialect == multiplay.Unity {
		cfg.AuthURL, cfg.KeyID, cfg.KeySecretFile = url, keyID, secretFile(t, secret)
	} else {
		cfg.APIKeyFile = secretFile(t, key)
	}
	return host, cfg
}

func secretFile(t testing.TB, content string) hostapi.SecretFile {
	t.Helper()
	return hostapi.SecretFile(standin.SecretFile(t, content))
}

// open returns a provider that is closed at the end.
func open(t testing.TB, cfg multiplay.Config) *multiplay.Provider {
	t.Helper()
	p, err := multiplay.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// quick is a provider that may be asked often: the stand-in goes by calls.
type quick struct{ *multiplay.Provider }

// Describe implements provider.Provider.
func (q quick) Describe(ctx context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	d, err := q.Provider.Describe(ctx, req)
	if err == nil {
		d.PollInterval = durationpb.New(10 * time.Millisecond)
	}
	return d, err
}

// Multiplay says neither that it has no room nor that a quota stands in the way: those two checks are skipped. TestGivesUp is about the first.
func TestConformance(t *testing.T) {
	for _, dialect := range []string{multiplay.RocketScience, multiplay.Unity} {
		t.Run(dialect, func(t *testing.T) {
			host, cfg := start(t, dialect)
			providertest.Run(t, providertest.Config{Provider: quick{open(t, cfg)}, Host: host})
			if c, n := host.Count(), host.Allocated(); n != 0 || c.Doubled != 0 {
				t.Errorf("at the end: %d allocations with servers, %+v", n, c)
			}
		})
	}
}

// A build whose servers have to say that they are ready.
func TestConformanceWithReadiness(t *testing.T) {
	host, cfg := start(t, multiplay.RocketScience)
	providertest.Run(t, providertest.Config{Provider: quick{open(t, cfg)}, Host: host, Build: "slow", Checks: []string{"allocate", "release"}})
}

func BenchmarkAllocate(b *testing.B) {
	for _, dialect := range []string{multiplay.RocketScience, multiplay.Unity} {
		b.Run(dialect, func(b *testing.B) {
			host, cfg := start(b, dialect)
			standin.Bench(b, open(b, cfg), host.Host, "shooter", "eu")
		})
	}
}
