package allocation_test

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/pkg/rpc"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/services/allocation"
	"github.com/berth-dev/berth/services/allocation/providers"
	"github.com/berth-dev/berth/services/allocation/providers/attach"
)

var block = regexp.MustCompile("(?s)```(yaml|json)\n(.*?)```")

// examples are the blocks of a kind in what the page says about placement.
func examples(t *testing.T, kind string) []string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/allocation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(raw), "\n## Where a server is looked for\n")
	if !found {
		t.Fatal("docs/allocation.md has no such section")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var out []string
	for _, m := range block.FindAllStringSubmatch(section, -1) {
		if m[1] == kind {
			out = append(out, m[2])
		}
	}
	return out
}

// written is a policy as it stands in a file.
func written(t *testing.T, text string) allocation.Placement {
	t.Helper()
	var file struct {
		Placement allocation.Placement `yaml:"placement"`
	}
	d := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return file.Placement
}

// two is the configuration of a service with a host in one region and one in three.
func two(t *testing.T, p *peer) allocation.Config {
	t.Helper()
	cfg := attaching(t, redistest.Server(t), p, "")
	at := func(name string, regions ...string) providers.Config {
		return providers.Config{Name: name, Kind: "attach", Attach: attach.Config{File: filepath.Join(t.TempDir(), name), Regions: regions, Builds: []string{"arena"}}}
	}
	cfg.Providers = []providers.Config{at("metal", "eu-west"), at("cloud", "eu-west", "us-east", "asia-east")}
	cfg.Auth.APIKeys = []auth.APIKey{{Name: "viewer", SHA256: apikey.Hash(viewerKey), Role: auth.RoleViewer}}
	return cfg
}

func TestThePolicysExamplesAreGood(t *testing.T) {
	cfg := two(t, newPeer(t))
	defer closeAll(t, cfg.GRPCListener)
	for _, name := range []string{"rack-a", "rack-b"} {
		more := cfg.Providers[0]
		more.Name = name
		cfg.Providers = append(cfg.Providers, more)
	}
	list := examples(t, "yaml")
	for _, text := range list {
		if cfg.Placement = written(t, text); len(cfg.Placement.Rules) == 0 {
			t.Errorf("no rules in %s", text)
		}
		if err := cfg.Validate(); err != nil {
			t.Errorf("%v in %s", err, text)
		}
	}
	if len(list) != 4 {
		t.Errorf("%d examples", len(list))
	}
}

func closeAll(t *testing.T, ln net.Listener) {
	t.Helper()
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
}

// The service goes by the policy in all that it is asked, and explains it as the page says.
func TestTheServiceGoesByItsPolicy(t *testing.T) {
	cfg := two(t, newPeer(t))
	cfg.Placement = written(t, "placement:\n  rules:\n  - {name: only metal, namespaces: [small], candidates: [{provider: metal}]}\n"+
		"  - {name: metal first, prefer: provider, max_latency: 120ms, candidates: [{provider: metal}, {provider: cloud}]}\n")
	t.Cleanup(run(t, allocation.Module(cfg)))
	conn, err := rpc.Dial(cfg.GRPCListener.Addr().String(), internalKey)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := rpc.Dial(cfg.GRPCListener.Addr().String(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = conn.Close(), bare.Close() })
	c := allocationv1.NewAllocationServiceClient(conn)

	pages := examples(t, "json")
	if len(pages) != 1 {
		t.Fatalf("%d answers on the page", len(pages))
	}
	var want allocationv1.ExplainPlacementResponse
	if err := protojson.Unmarshal([]byte(pages[0]), &want); err != nil {
		t.Fatal(err)
	}
	away := make(map[string]*durationpb.Duration)
	for region, ms := range map[string]time.Duration{"eu-west": 28, "us-east": 95, "asia-east": 190} {
		away[region] = durationpb.New(ms * time.Millisecond)
	}
	got, err := allocationv1.NewAllocationServiceClient(bare).ExplainPlacement(as(t, viewerKey), &allocationv1.ExplainPlacementRequest{Placement: &instancev1.Placement{Build: "arena", Latencies: away}})
	if err != nil || !proto.Equal(got, &want) {
		t.Errorf("%v, %v\nthe page says %v", got, err, &want)
	}

	order := create(1, "arena")
	order.Namespace, order.Placement.Regions = "small", []string{"us-east"}
	_, refused := c.CreateAllocation(t.Context(), order)
	_, unchecked := c.CheckPlacement(t.Context(), &allocationv1.CheckPlacementRequest{Namespace: "small", Placement: order.GetPlacement()})
	for _, err := range []error{refused, unchecked} {
		if err := rpc.FromStatus(err); !errs.Is(err, errs.PlacementImpossible) || !strings.Contains(err.Error(), `cloud/us-east: rule "only metal" does not name it`) {
			t.Errorf("a region that the namespace's rule has not: %v", err)
		}
	}
	if _, err := c.CheckPlacement(t.Context(), &allocationv1.CheckPlacementRequest{Namespace: "default", Placement: order.GetPlacement()}); err != nil {
		t.Errorf("another namespace: %v", err)
	}
}

// What providers serve is known when they are open, and a rule that asks for more stops the start.
func TestAPolicyThatCannotBeServedIsSaidAtTheStart(t *testing.T) {
	for rule, says := range map[string]string{
		"candidates: [{provider: metal, regions: [us-east]}]":                `candidates[0].regions: provider "metal" does not serve "us-east"; it serves eu-west`,
		"builds: [arena, lobby], candidates: [{provider: metal}]":            `builds: none of the rule's providers runs "lobby"; they run arena`,
		"candidates: [{provider: metal, weight: 0}]":                         `every weight is 0`,
		"candidates: [{provider: metals}]":                                   `no provider is named "metals"; there are cloud, metal`,
		"namespaces: [a], candidates: [{provider: cloud}], prefer: whatever": `prefer: "whatever" is neither`,
	} {
		cfg := two(t, newPeer(t))
		cfg.Placement = written(t, "placement: {rules: [{name: r, "+rule+"}]}")
		a, err := app.New(t.Context(), app.Config{Log: slog.New(slog.DiscardHandler)}, allocation.Module(cfg))
		if err == nil || !strings.Contains(err.Error(), `placement.rules[0] "r": `) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v (%v)", rule, err, a)
		}
	}
}
