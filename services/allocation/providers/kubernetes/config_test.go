package kubernetes_test

import (
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/services/allocation/providers/kubernetes"
)

// container is a spec of one container, with members changed.
func container(members map[string]any) map[string]any {
	c := map[string]any{"name": "server", "image": "i"}
	for k, v := range members {
		c[k] = v
	}
	return map[string]any{"containers": []any{c}}
}

func TestConfig(t *testing.T) {
	build := func(change func(*kubernetes.Build)) func(*kubernetes.Config) {
		return func(c *kubernetes.Config) {
			b := kubernetes.Build{PodSpec: spec()}
			change(&b)
			c.Builds = map[string]kubernetes.Build{"shooter": b}
		}
	}
	podSpec := func(spec map[string]any) func(*kubernetes.Config) {
		return build(func(b *kubernetes.Build) { b.PodSpec = spec })
	}
	region := func(r kubernetes.Region) func(*kubernetes.Config) {
		return func(c *kubernetes.Config) { c.Regions = map[string]kubernetes.Region{"eu": r} }
	}
	for want, change := range map[string]func(*kubernetes.Config){
		"kubernetes.url: ":                        func(c *kubernetes.Config) { c.URL = "http://203.0.113.7" },
		"kubernetes.url: is needed":               func(c *kubernetes.Config) { c.URL = "" },
		"kubernetes.ca_file":                      func(c *kubernetes.Config) { c.CAFile += ".not" },
		"kubernetes.token_file":                   func(c *kubernetes.Config) { c.TokenFile += ".not" },
		"kubernetes.pending_timeout: 1ms is not":  func(c *kubernetes.Config) { c.PendingTimeout = time.Millisecond },
		"kubernetes.builds: at least":             func(c *kubernetes.Config) { c.Builds = nil },
		"kubernetes.regions: at least":            func(c *kubernetes.Config) { c.Regions = nil },
		"kubernetes.regions.eu.namespace: \"\"":   region(kubernetes.Region{}),
		"kubernetes.regions.eu.namespace: \"Ga\"": region(kubernetes.Region{Namespace: "Ga"}),
		"kubernetes.regions.eu.namespace: \"games.eu\" is none; it is needed, such as games: a DNS label, of at most 63": region(kubernetes.Region{Namespace: "games.eu"}),
		"kubernetes.regions.eu.namespace: \"" + strings.Repeat("g", 64):                                                  region(kubernetes.Region{Namespace: strings.Repeat("g", 64)}),
		"kubernetes.regions.eu.address: \"extern":                                                                        region(kubernetes.Region{Namespace: "games", Address: "external"}),
		"kubernetes.regions.eu.address: \"http:":                                                                         region(kubernetes.Region{Namespace: "games", Address: "http://eu.example.com"}),
		"kubernetes.builds.shooter.pod_spec: is n":                                                                       podSpec(nil),
		"kubernetes.builds.shooter.pod_spec: is what stands below spec":                                                  podSpec(map[string]any{"metadata": map[string]any{}, "spec": spec()}),
		"kubernetes.builds.shooter.pod_spec: has no JSON form":                                                           podSpec(container(map[string]any{"env": map[any]any{1: 2}})),
		"kubernetes.builds.shooter.pod_spec: is no spec of a Pod":                                                        podSpec(map[string]any{"containers": "one"}),
		"kubernetes.builds.shooter.pod_spec.containers: at least one":                                                    podSpec(map[string]any{"containers": []any{}}),
		"kubernetes.builds.shooter.pod_spec.containers[0]: needs":                                                        podSpec(container(map[string]any{"image": ""})),
		"kubernetes.builds.shooter.pod_spec.containers[0].env: BERTH_BOOTSTRAP is set":                                   podSpec(container(map[string]any{"env": []any{map[string]any{"name": "BERTH_BOOTSTRAP", "value": "{}"}}})),
		"kubernetes.builds.shooter.pod_spec.restartPolicy: Always":                                                       podSpec(map[string]any{"restartPolicy": "Always", "containers": container(nil)["containers"]}),
		"kubernetes.builds.shooter.container: pod_spec has no container":                                                 build(func(b *kubernetes.Build) { b.Container = "game" }),
		"kubernetes.builds.shooter.labels: berth.dev/attempt is set by Berth":                                            build(func(b *kubernetes.Build) { b.Labels = map[string]string{"berth.dev/attempt": "1"} }),
		"kubernetes.builds.shooter.annotations: berth.dev/region is set":                                                 build(func(b *kubernetes.Build) { b.Annotations = map[string]string{"berth.dev/region": "eu"} }),
		"kubernetes.builds.shooter.host_ports: \"7000\" is no range":                                                     build(func(b *kubernetes.Build) { b.HostPorts = "7000" }),
		"kubernetes.builds.shooter.host_ports: \"7999-7000\" is no range":                                                build(func(b *kubernetes.Build) { b.HostPorts = "7999-7000" }),
		"kubernetes.builds.shooter.host_ports: 7000-7000 are fewer than the 2 ports":                                     build(func(b *kubernetes.Build) { b.HostPorts = "7000-7000" }),
		"kubernetes.builds.shooter.host_ports: container \"metrics\" has no port":                                        build(func(b *kubernetes.Build) { b.Container, b.HostPorts = "metrics", "7000-7999" }),
		"kubernetes.builds.shooter.host_ports: a Pod with hostNetwork": build(func(b *kubernetes.Build) {
			b.HostPorts, b.PodSpec["hostNetwork"] = "7000-7999", true
		}),
		"kubernetes.builds.shooter.host_ports: no port of container \"server\" has one of its node, and with kubernetes.regions.eu.address ExternalIP": build(func(*kubernetes.Build) {}),
		"kubernetes.builds.shooter.host_ports: no port of container \"server\" has one of its node, and with kubernetes.regions.us.address ExternalDNS": func(c *kubernetes.Config) {
			build(func(*kubernetes.Build) {})(c)
			c.Regions["eu"] = kubernetes.Region{Namespace: "games", Address: "PodIP"}
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Setenv("KUBERNETES_SERVICE_HOST", "")
			_, cfg := start(t, cluster())
			change(&cfg)
			if _, err := kubernetes.New(cfg); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got %v; want %q", err, want)
			}
		})
	}
}

// Players are told a port of the node where there is one, and the container's own at the address of its Pod.
func TestPortsThatPlayersReach(t *testing.T) {
	ports := func(one map[string]any) map[string]any {
		return container(map[string]any{"ports": []any{one, map[string]any{"name": "metrics", "containerPort": 9100}}})
	}
	hostNetwork := ports(map[string]any{"containerPort": 7777})
	hostNetwork["hostNetwork"] = true
	for name, c := range map[string]struct {
		spec    map[string]any
		address string
	}{
		"a hostPort": {ports(map[string]any{"containerPort": 7777, "hostPort": 7777}), ""}, "hostNetwork": {hostNetwork, ""},
		"PodIP": {ports(map[string]any{"containerPort": 7777}), "PodIP"}, "no ports": {container(nil), ""},
	} {
		_, cfg := start(t, cluster())
		cfg.Builds = map[string]kubernetes.Build{"shooter": {PodSpec: c.spec}}
		cfg.Regions = map[string]kubernetes.Region{"eu": {Namespace: "games", Address: c.address}}
		if _, err := kubernetes.New(cfg); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
