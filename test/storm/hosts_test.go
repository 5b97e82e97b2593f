package storm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/test/hosts/agones"
	"github.com/berth-dev/berth/test/hosts/edgegap"
	"github.com/berth-dev/berth/test/hosts/gamelift"
	"github.com/berth-dev/berth/test/hosts/hathora"
	"github.com/berth-dev/berth/test/hosts/kubernetes"
	"github.com/berth-dev/berth/test/hosts/multiplay"
	"github.com/berth-dev/berth/test/hosts/playfab"
	"github.com/berth-dev/berth/test/hosts/standin"
	"github.com/berth-dev/berth/test/stack"
)

// standIn is a host with a provider of Berth.
type standIn struct {
	name string
	// serve makes the host, with its game servers.
	serve func(standin.Run) *standin.Host
	// settings is the provider's block; see hosts for what stands in it for the address and the secret.
	settings string
	// weight is its share.
	weight int
	tls    bool // serves TLS, and HTTP/2 on it

	host *standin.Host
}

// Shares of hosts: most of the matches are to be on those with much.
const (
	much   = 200
	little = 15
)

// secret is what all hosts know Berth by.
const secret = "7e0f1152-e0dd-4b14-8e37-04cab07efeb0"

const (
	buildID  = "21781fa8-096d-4d9c-b699-75433d579285"
	regionID = "ddbf538c-1408-11f1-a08a-42010ab90008"
	awsKey   = "AKIDEXAMPLE"
	awsFleet = "fleet-2222bbbb-33cc-44dd-55ee-6666ffff77aa"
)

// hosts are all that there are, Multiplay in both dialects, GameLift with a queue and without, Agones asked through the API server and through its allocator. In their
// settings URL and SECRET stand for the address of the API and a file with the secret.
func hosts() []*standIn {
	multiplayOf := func(dialect string) func(standin.Run) *standin.Host {
		return func(run standin.Run) *standin.Host {
			return multiplay.New(multiplay.Config{
				Dialect: dialect, APIKey: secret, KeyID: "key", KeySecret: secret, Project: buildID, Environment: buildID,
				Fleets: map[string]map[int64]multiplay.Readiness{buildID: {17: false}}, Regions: []string{regionID}, Run: run,
			}).Host
		}
	}
	gameliftOf := func(run standin.Run) *standin.Host {
		return gamelift.New(gamelift.Config{
			AccessKey: awsKey, Fleets: map[string]gamelift.Fleet{awsFleet: {Region: "eu-central-1", Slots: 1000}},
			Queues: map[string]gamelift.Queue{"game": {Region: "eu-central-1", Destinations: []string{awsFleet}, Timeout: time.Minute}}, Run: run,
		}).Host
	}
	agonesOf := func(run standin.Run) *standin.Host {
		return agones.New(agones.Config{Token: secret, Fleets: []agones.Fleet{{Namespace: "games", Name: "game", Ready: 5}}, Run: run}).Host
	}
	return []*standIn{
		{
			name: "hathora", weight: much, settings: "{url: URL, token_file: SECRET, builds: {game: {app: app-1}}, regions: {eu: Frankfurt}}",
			serve: func(run standin.Run) *standin.Host {
				return hathora.New(hathora.Config{Token: secret, Deployments: map[string][]string{"app-1": nil}, Run: run})
			},
		},
		{
			name: "edgegap", weight: little, settings: "{url: URL, token_file: SECRET, builds: {game: {app: game, version: v1}}, regions: {eu: {latitude: 50.11, longitude: 8.68}}}",
			serve: func(run standin.Run) *standin.Host {
				return edgegap.New(edgegap.Config{Token: secret, Versions: map[string][]string{"game": {"v1"}}, Ports: map[string]edgegap.Port{"game": {Internal: 7777, Protocol: "UDP"}}, Run: run})
			},
		},
		{
			name: "playfab", weight: much, settings: "{url: URL, secret_key_file: SECRET, builds: {game: {build_id: " + buildID + "}}, regions: {eu: WestEurope}}",
			serve: func(run standin.Run) *standin.Host {
				return playfab.New(playfab.Config{SecretKey: secret, Builds: map[string][]string{buildID: {"WestEurope"}}, Servers: 1000, Run: run})
			},
		},
		{
			name: "multiplay", weight: much, serve: multiplayOf("rocketscience"),
			settings: "{url: URL, api_key_file: SECRET, project: " + buildID + ", environment: " + buildID + ", builds: {game: {fleet: " + buildID + ", build_configuration: 17}}, regions: {eu: " + regionID + "}}",
		},
		{
			name: "multiplay-unity", weight: little, serve: multiplayOf("unity"),
			settings: "{dialect: unity, url: URL, auth_url: URL, key_id: key, key_secret_file: SECRET, project: " + buildID + ", environment: " + buildID + ", builds: {game: {fleet: " + buildID + ", build_configuration: 17}}, regions: {eu: " + regionID + "}}",
		},
		{
			name: "gamelift", weight: much, settings: "{url: URL, credentials_file: SECRET.aws, builds: {game: {queue: game}}, regions: {eu: {region: eu-central-1}}}",
			serve: gameliftOf,
		},
		{
			name: "gamelift-fleet", weight: little, settings: "{url: URL, credentials_file: SECRET.aws, builds: {game: {fleet: " + awsFleet + "}}, regions: {eu: {region: eu-central-1}}}",
			serve: gameliftOf,
		},
		{
			name: "agones", weight: little, settings: "{url: URL, token_file: SECRET, builds: {game: {fleet: game}}, regions: {eu: {namespace: games}}}",
			serve: agonesOf,
		},
		{
			name: "agones-grpc", weight: little, tls: true, serve: agonesOf,
			settings: "{url: URL, ca_file: SECRET.pem, token_file: SECRET, builds: {game: {fleet: game}}, regions: {eu: {namespace: games}}, " +
				"allocate: allocator, allocator: {url: URL, ca_file: SECRET.pem, cert_file: SECRET.pem, key_file: SECRET.key}}",
		},
		{
			name:     "kubernetes",
			weight:   little,
			settings: "{url: URL, token_file: SECRET, builds: {game: {pod_spec: {containers: [{name: server, image: game, ports: [{name: game, containerPort: 7777, protocol: UDP}]}]}, host_ports: 7000-7999}}, regions: {eu: {namespace: games}}}",
			serve: func(run standin.Run) *standin.Host {
				return kubernetes.New(kubernetes.Config{
					Token: secret, Namespaces: []string{"games"}, Run: run,
					Nodes: []kubernetes.Node{{Name: "eu-1", Addresses: map[string]string{"ExternalIP": "198.51.100.1"}}},
				})
			},
		},
	}
}

// startHosts starts them all, and returns allocation's configuration.
func startHosts(t *testing.T, all []*standIn, run standin.Run) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	aws := "[default]\naws_access_key_id = " + awsKey + "\naws_secret_access_key = " + secret + "\n"
	if err := errors.Join(os.WriteFile(file, []byte(secret), 0o600), os.WriteFile(file+".aws", []byte(aws), 0o600)); err != nil {
		t.Fatal(err)
	}
	var providers, candidates strings.Builder
	for _, h := range all {
		h.host = h.serve(run)
		srv := httptest.NewUnstartedServer(h.host)
		if h.tls {
			srv.EnableHTTP2 = true
			srv.StartTLS()
			writePair(t, file, srv.TLS.Certificates[0])
		} else {
			srv.Start()
		}
		t.Cleanup(func() {
			_ = h.host.Heal(context.Background())
			srv.CloseClientConnections()
			srv.Close()
			h.host.Close()
		})
		kind, _, _ := strings.Cut(h.name, "-")
		fmt.Fprintf(&providers, "  - {name: %s, kind: %s, timeout: 2s, %s: %s}\n", h.name, kind, kind, strings.NewReplacer("URL", srv.URL, "SECRET", file).Replace(h.settings))
		fmt.Fprintf(&candidates, "        - {provider: %s, rank: 1, weight: %d}\n", h.name, h.weight)
	}
	return "providers:\n" + providers.String() + "placement:\n  rules:\n    - name: by weight\n      candidates:\n" + candidates.String()
}

// writePair writes a server's certificate, which is its own authority, and its key. Berth shows them as its own, too.
func writePair(t *testing.T, file string, pair tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	if err := errors.Join(os.WriteFile(file+".pem", certificate, 0o600), os.WriteFile(file+".key", key, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// Matches are spread over all hosts by weight. In the middle of it one refuses Berth's credentials, one does not answer any more, and one is drained; each
// match gets one server all the same, and nothing is left anywhere.
func TestMatchesAreSpreadOverAllHosts(t *testing.T) {
	instances, apart := 60, 20*time.Millisecond
	if long() {
		instances = 500
	}
	crew, all := newPlayers(), hosts()
	s := stack.Start(t, stack.Config{
		Binaries: binaries, Redis: durable(t).Addr,
		File: startHosts(t, all, func(ctx context.Context, document []byte) { _ = crew.play(ctx, document) }),
		Env:  func(string) []string { return []string{"BERTH_LOG_LEVEL=warn"} },
	})
	api := apiOf(t, s)
	crowd := make(chan *outcome, 1) // there is one
	var playing sync.WaitGroup
	playing.Go(func() { crowd <- play(t.Context(), api, "match", instances, apart) })
	t.Cleanup(playing.Wait)
	stack.EventuallyIn(t, 3*time.Minute, "half of the matches have servers", func() error {
		if started := startedAt(all); started < instances/2 {
			return fmt.Errorf("%d of %d", started, instances)
		}
		return nil
	})
	if with, of := startedAt(slices.DeleteFunc(slices.Clone(all), func(h *standIn) bool { return h.weight != much })), startedAt(all); with*3 < of*2 {
		t.Errorf("%d of %d servers are at hosts with nine tenths of the weight", with, of)
	}
	refuses, hangs, drained := all[0], all[3], all[2]
	if err := errors.Join(refuses.host.Refuse(t.Context()), hangs.host.Hang(t.Context())); err != nil {
		t.Fatal(err)
	}
	drain(t, s, drained.name)
	since := time.Now()
	out := <-crowd
	if n := startedAfter(t, api, out.made, since, drained.name); n > 0 {
		t.Errorf("%s got %d attempts that were made while it was drained", drained.name, n)
	}
	_ = errors.Join(refuses.host.Heal(t.Context()), hangs.host.Heal(t.Context()))
	for _, err := range out.faults {
		t.Error(err)
	}
	crew.settle(t, out)
	if how := count(out.how); how["ended"] != instances {
		t.Errorf("of %d matches: %v", instances, how)
	}
	for _, h := range all {
		stack.EventuallyIn(t, time.Minute, h.name+" has no server left", func() error {
			if c := h.host.Count(); c.Running > 0 {
				return fmt.Errorf("%+v", c)
			}
			return nil
		})
		c := h.host.Count()
		t.Logf("%s: %+v", h.name, c)
		if c.Doubled > 0 || long() && c.Started == 0 {
			t.Errorf("%s: %+v", h.name, c)
		}
	}
}

func startedAt(all []*standIn) (n int) {
	for _, h := range all {
		n += h.host.Count().Started
	}
	return n
}

// drain drains a provider, and returns when allocation goes by it.
func drain(t *testing.T, s *stack.Stack, name string) {
	t.Helper()
	conn, err := grpc.NewClient(s.AllocationAPI, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(withKey))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	allocation := allocationv1.NewAllocationServiceClient(conn)
	if _, err := allocation.DrainProvider(t.Context(), &allocationv1.DrainProviderRequest{Provider: name}); err != nil {
		t.Fatal(err)
	}
	stack.Eventually(t, name+" is left out of explanations", func() error {
		resp, err := allocation.ExplainPlacement(t.Context(), &allocationv1.ExplainPlacementRequest{Placement: &instancev1.Placement{Build: "game"}})
		if err != nil {
			return err
		}
		for _, c := range resp.GetExplanation().GetCandidates() {
			if c.GetProvider() == name && c.GetExclusion() != allocationv1.PlacementCandidate_EXCLUSION_DRAINED {
				return fmt.Errorf("it is %v", c)
			}
		}
		return nil
	})
}

// startedAfter returns how many attempts of the instances that were made after a time are at a provider.
func startedAfter(t *testing.T, api instancev1.GameInstanceServiceClient, made []string, since time.Time, provider string) (n int) {
	t.Helper()
	for _, id := range made {
		resp, err := api.GetGameInstance(t.Context(), &instancev1.GetGameInstanceRequest{InstanceId: id})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range resp.GetInstance().GetAttempts() {
			if a.GetProvider() == provider && a.GetCreateTime().AsTime().After(since) {
				n++
			}
		}
	}
	return n
}
