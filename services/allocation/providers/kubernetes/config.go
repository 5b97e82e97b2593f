// Package kubernetes is the provider for a Kubernetes cluster without anything for games in it: a Pod for each server, whose bootstrap document is in a Secret
// that the Pod owns.
package kubernetes

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	"github.com/berth-dev/berth/services/allocation/providers/internal/kube"
)

// Config configures a Provider.
type Config struct {
	// Config says which cluster it is. Default: the one that this process is a Pod of.
	kube.Config `yaml:",inline"`
	// PendingTimeout is how long a Pod may be without a node, or without its Secret, or wait for what its kubelet tries again, before it is given up: 1s to 1h. Default: 30s.
	PendingTimeout time.Duration `yaml:"pending_timeout"`
	// Builds are Berth's builds, each with the Pod that runs it. Needed.
	Builds map[string]Build `yaml:"builds"`
	// Regions are Berth's regions, each a part of the cluster. Needed.
	Regions map[string]Region `yaml:"regions"`
}

// Build is what runs a build.
type Build struct {
	// PodSpec is the spec of its Pods, as Kubernetes has it. Needed.
	PodSpec map[string]any `yaml:"pod_spec"`
	// Container is the name of the container that is the game server. Default: the first one.
	Container string `yaml:"container"`
	// HostPorts are the ports of a node from which each port of that container without a hostPort gets one, such as 7000-7999. Default: none.
	HostPorts string `yaml:"host_ports"`
	// Labels and Annotations of the Pods, beside Berth's own.
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// Region is a part of a cluster.
type Region struct {
	// Namespace that the Pods are in. Needed.
	Namespace string `yaml:"namespace"`
	// NodeSelector has the labels of the nodes that are the region's. Default: all nodes.
	NodeSelector map[string]string `yaml:"node_selector"`
	// Address is where players reach a port of a server: ExternalIP, ExternalDNS, InternalIP, PodIP, or a name or an address that is the same for all. Default:
	// ExternalIP.
	Address string `yaml:"address"`
}

// What an address may be that is no name: the types of a node's addresses, in Kubernetes' words, and the Pod's own.
const (
	externalIP  = "ExternalIP"
	externalDNS = "ExternalDNS"
	internalIP  = "InternalIP"
	podIP       = "PodIP"
)

const (
	defaultPending = 30 * time.Second
	minPending     = time.Second
	maxPending     = time.Hour
)

// ours begins the keys of labels and annotations that are Berth's.
const ours = "berth.dev/"

var dnsName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

func (c *Config) validate() error {
	c.PendingTimeout = cmp.Or(c.PendingTimeout, defaultPending)
	if c.PendingTimeout < minPending || c.PendingTimeout > maxPending {
		return fmt.Errorf("kubernetes.pending_timeout: %v is not %v to %v", c.PendingTimeout, minPending, maxPending)
	}
	if err := hostapi.CheckMaps("kubernetes", c.Builds, c.Regions); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Regions)) {
		r, err := c.Regions[name].complete()
		if err != nil {
			return fmt.Errorf("kubernetes.regions.%s.%w", name, err)
		}
		c.Regions[name] = r
	}
	return nil
}

func (r Region) complete() (Region, error) {
	r.Address = cmp.Or(r.Address, externalIP)
	if err := kube.CheckNamespace(r.Namespace); err != nil {
		return r, err
	}
	switch r.Address {
	case externalIP, externalDNS, internalIP, podIP:
		return r, nil
	}
	_, notIP := netip.ParseAddr(r.Address)
	if notIP != nil && (!strings.Contains(r.Address, ".") || !dnsName.MatchString(r.Address)) {
		return r, fmt.Errorf("address: %q is none of %s, %s, %s, %s, and no name such as eu.example.com", r.Address, externalIP, externalDNS, internalIP, podIP)
	}
	return r, nil
}

// portRange are ports of a node; the zero value is none.
type portRange struct{ first, count int }

func parsePorts(text string) (portRange, error) {
	if text == "" {
		return portRange{}, nil
	}
	low, high, _ := strings.Cut(text, "-")
	first, err := strconv.Atoi(low)
	last, err2 := strconv.Atoi(high)
	if err != nil || err2 != nil || first < 1 || last > 65535 || last < first {
		return portRange{}, fmt.Errorf("host_ports: %q is no range such as 7000-7999", text)
	}
	return portRange{first: first, count: last - first + 1}, nil
}
