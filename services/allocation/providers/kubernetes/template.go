package kubernetes

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
	"github.com/berth-dev/berth/services/allocation/providers/internal/kube"
)

// Labels and annotations of a Pod.
const (
	labelManager      = "app.kubernetes.io/managed-by"
	labelDeployment   = ours + "deployment"
	labelAttempt      = ours + "attempt"
	labelInstance     = ours + "instance"
	annotateNamespace = ours + "namespace"
	annotateBuild     = ours + "build"
	annotateRegion    = ours + "region"
	annotateContainer = ours + "container"

	manager = "berth"
)

// secretKey is the key of the bootstrap document in its Secret.
const secretKey = "bootstrap"

// maxName is how long the name of a Pod may be so that it is its host name, too.
const maxName = 63

var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// template makes the Pods of a build.
type template struct {
	build     Build
	spec      []byte // JSON
	container int    // the game server's
	ports     portRange
	hidden    bool // its container has ports, and none of them has one of a node
}

// newTemplate checks a build. Only what Berth itself sets is looked at; the rest the API server checks.
func newTemplate(b Build) (template, error) {
	t := template{build: b}
	if len(b.PodSpec) == 0 {
		return t, errors.New("pod_spec: is needed: the spec of a Pod")
	}
	if b.PodSpec["spec"] != nil || b.PodSpec["metadata"] != nil {
		return t, errors.New("pod_spec: is what stands below spec in a Pod, without kind and metadata")
	}
	if policy, set := b.PodSpec["restartPolicy"]; set && policy != "Never" {
		return t, fmt.Errorf("pod_spec.restartPolicy: %v: leave it out; it is Never, as a server is started once", policy)
	}
	for _, one := range []struct {
		setting string
		values  map[string]string
	}{{"labels", b.Labels}, {"annotations", b.Annotations}} {
		for key := range one.values {
			if strings.HasPrefix(key, ours) || key == labelManager {
				return t, fmt.Errorf("%s: %s is set by Berth", one.setting, key)
			}
		}
	}
	var err error
	if t.ports, err = parsePorts(b.HostPorts); err != nil {
		return t, err
	}
	if t.spec, err = json.Marshal(b.PodSpec); err != nil {
		return t, fmt.Errorf("pod_spec: has no JSON form: a key in it is no text")
	}
	return t, t.checkContainer()
}

// checkContainer finds the game server's container.
func (t *template) checkContainer() error {
	var spec struct {
		HostNetwork bool `json:"hostNetwork"`
		Containers  []struct {
			Name  string
			Image string
			Env   []struct{ Name string }
			Ports []port
		}
	}
	if err := json.Unmarshal(t.spec, &spec); err != nil {
		return fmt.Errorf("pod_spec: is no spec of a Pod: %w", err)
	}
	if len(spec.Containers) == 0 {
		return errors.New("pod_spec.containers: at least one is needed")
	}
	for n, c := range spec.Containers {
		if c.Name == "" || c.Image == "" {
			return fmt.Errorf("pod_spec.containers[%d]: needs a name and an image", n)
		}
		if c.Name == t.build.Container {
			t.container = n
		}
	}
	c := spec.Containers[t.container]
	if t.build.Container != "" && c.Name != t.build.Container {
		return fmt.Errorf("container: pod_spec has no container %q", t.build.Container)
	}
	t.build.Container = c.Name
	for _, e := range c.Env {
		switch e.Name {
		case bootstrap.EnvDocument, bootstrap.EnvFile, bootstrap.EnvFD:
			return fmt.Errorf("pod_spec.containers[%d].env: %s is set by Berth", t.container, e.Name)
		}
	}
	return t.checkPorts(spec.HostNetwork, c.Ports)
}

// checkPorts makes sure that the range of ports is of use.
func (t *template) checkPorts(hostNetwork bool, ports []port) error {
	all := len(ports)
	free := len(slices.DeleteFunc(ports, func(p port) bool { return p.HostPort != 0 }))
	t.hidden = all > 0 && free == all && t.ports.count == 0 && !hostNetwork
	switch {
	case t.ports.count == 0:
		return nil
	case hostNetwork:
		return errors.New("host_ports: a Pod with hostNetwork has the ports that its container listens on; leave one of them out")
	case free == 0:
		return fmt.Errorf("host_ports: container %q has no port without a hostPort", t.build.Container)
	case free > t.ports.count:
		return fmt.Errorf("host_ports: %s are fewer than the %d ports of container %q", t.build.HostPorts, free, t.build.Container)
	}
	return nil
}

// checkReach makes sure that players can be told a port of a server, wherever it runs.
func (t *template) checkReach(regions map[string]Region) error {
	for _, name := range slices.Sorted(maps.Keys(regions)) {
		if at := regions[name].Address; t.hidden && at != podIP {
			return fmt.Errorf("host_ports: no port of container %q has one of its node, and with kubernetes.regions.%s.address %s players are told that: set host_ports, such as 7000-7999, "+
				"or a hostPort, or hostNetwork, or that address to %s", t.build.Container, name, at, podIP)
		}
	}
	return nil
}

// podName names the Pod of an attempt.
func podName(deployment, attempt string) string {
	name := attempts.Marked(deployment, attempt)
	if len(name) <= maxName && label.MatchString(name) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return manager + "-" + hex.EncodeToString(sum[:20])
}

// secretName is a new name for a Pod's Secret. It is not that of the Secret of an earlier Pod of that name, which is there for a while after it, and nobody can
// have made one before.
func secretName(pod string) string {
	return pod + "-" + strings.ToLower(rand.Text()[:12])
}

// order asks for the Pod of an attempt.
func (t *template) order(req *providerv1.AllocateRequest, in Region) (order, error) {
	name := podName(req.GetDeployment(), req.GetAttemptId())
	meta := kube.Meta{Name: name, Namespace: in.Namespace, Labels: maps.Clone(t.build.Labels), Annotations: maps.Clone(t.build.Annotations)}
	if meta.Labels == nil {
		meta.Labels = make(map[string]string)
	}
	if meta.Annotations == nil {
		meta.Annotations = make(map[string]string)
	}
	maps.Copy(meta.Labels, map[string]string{
		labelManager: manager, labelDeployment: req.GetDeployment(), labelAttempt: req.GetAttemptId(), labelInstance: req.GetInstanceId(),
	})
	maps.Copy(meta.Annotations, map[string]string{
		annotateNamespace: req.GetNamespace(), annotateBuild: req.GetBuild(), annotateRegion: req.GetRegion(), annotateContainer: t.build.Container,
	})
	var spec map[string]any // of its own for each Pod
	if err := json.Unmarshal(t.spec, &spec); err != nil {
		return order{}, err
	}
	spec["restartPolicy"] = "Never"
	if spec["automountServiceAccountToken"] == nil {
		spec["automountServiceAccountToken"] = false // a game server is reached by strangers
	}
	if len(in.NodeSelector) > 0 {
		selector, _ := spec["nodeSelector"].(map[string]any)
		if selector == nil {
			selector = make(map[string]any)
		}
		for key, value := range in.NodeSelector {
			selector[key] = value
		}
		spec["nodeSelector"] = selector
	}
	container, _ := spec["containers"].([]any)[t.container].(map[string]any) // as checked
	env, _ := container["env"].([]any)
	container["env"] = append(env, map[string]any{
		"name": bootstrap.EnvDocument, "valueFrom": map[string]any{"secretKeyRef": map[string]any{"name": secretName(name), "key": secretKey}},
	})
	t.assignPorts(container, name)
	return order{APIVersion: "v1", Kind: "Pod", Meta: meta, Spec: spec}, nil
}

// assignPorts gives each port without a hostPort one that follows from the Pod's name, so that a repeat asks for the same Pod. One that is taken on a node is
// free on another, or for the next attempt.
func (t *template) assignPorts(container map[string]any, name string) {
	if t.ports.count == 0 {
		return
	}
	sum := sha256.Sum256([]byte(name))
	next := int(binary.BigEndian.Uint32(sum[:4]) % uint32(t.ports.count))
	list, _ := container["ports"].([]any)
	for _, one := range list {
		if p, ok := one.(map[string]any); ok && p["hostPort"] == nil {
			p["hostPort"] = t.ports.first + next%t.ports.count
			next++
		}
	}
}
