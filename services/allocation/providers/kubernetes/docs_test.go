package kubernetes_test

import (
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/services/allocation/providers/kubernetes"
)

const page = "../../../../docs/providers/kubernetes"

// granted are the rights of the page's file, as "verb resource".
func granted(t *testing.T) []string {
	t.Helper()
	raw, err := os.Open(page + "-rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	var out []string
	for d := yaml.NewDecoder(raw); ; {
		var object struct {
			Rules []struct {
				APIGroups []string `yaml:"apiGroups"`
				Resources []string `yaml:"resources"`
				Verbs     []string `yaml:"verbs"`
			} `yaml:"rules"`
		}
		err := d.Decode(&object)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range object.Rules {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					out = append(out, verb+" "+resource)
				}
			}
		}
	}
}

// The page's example runs a server with the rights of the page's file, and needs each of them.
func TestTheExampleWithItsRights(t *testing.T) {
	text, err := os.ReadFile(page + ".md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(text), "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	var file struct {
		Providers []struct {
			Kubernetes kubernetes.Config `yaml:"kubernetes"`
		} `yaml:"providers"`
	}
	if err := yaml.Unmarshal([]byte(example), &file); err != nil {
		t.Fatal(err)
	}
	rights, used := granted(t), make(map[string]bool)
	world := cluster()
	world.Allow = func(verb, resource, _ string) bool { // one at a time
		used[verb+" "+resource] = true
		return slices.Contains(rights, verb+" "+resource)
	}
	for n := range world.Nodes {
		world.Nodes[n].Labels["topology.kubernetes.io/region"] = "europe-west1"
	}
	_, at := start(t, world)
	cfg := file.Providers[0].Kubernetes
	cfg.Config = at.Config
	p := open(t, cfg)
	req := order("shooter", "eu")
	allocate(t, p, req)
	if s := settled(t, p, req); s.GetState() != running || len(s.GetEndpoints()) != 1 {
		t.Errorf("got %v", s)
	}
	if _, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment}); err != nil {
		t.Error(err)
	}
	release(t, p, req)
	slices.Sort(rights)
	if got := slices.Sorted(maps.Keys(used)); !slices.Equal(got, rights) {
		t.Errorf("used %q; the file grants %q", got, rights)
	}
}
