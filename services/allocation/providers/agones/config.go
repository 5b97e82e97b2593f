// Package agones is the provider for fleets of Agones: an allocated GameServer for each server, which was ready before.
package agones

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	"github.com/berth-dev/berth/services/allocation/providers/internal/kube"
)

// Config configures a Provider.
type Config struct {
	// Config says which cluster it is. Default: the one that this process is a Pod of. It is needed whoever allocates: servers are found and deleted there.
	kube.Config `yaml:",inline"`
	// Allocate says who is asked for a server: cluster, the API server, or allocator, the service agones-allocator. Default: cluster.
	Allocate string `yaml:"allocate"`
	// Allocator is where agones-allocator is. Needed with allocate: allocator.
	Allocator Allocator `yaml:"allocator"`
	// Builds are Berth's builds, each with the fleet that runs it. Needed.
	Builds map[string]Build `yaml:"builds"`
	// Regions are Berth's regions, each a namespace. Needed.
	Regions map[string]Region `yaml:"regions"`
}

// Allocator is where agones-allocator is, and how it is spoken to.
type Allocator struct {
	// URL is its base URL; with gRPC, one without a path. Needed.
	URL string `yaml:"url"`
	// Protocol that it is spoken to in: grpc or rest. An allocator has both, by default on one port. Default: grpc.
	Protocol string `yaml:"protocol"`
	// CAFile has the certificates of the authorities that sign its own. Default: the system's.
	CAFile string `yaml:"ca_file"`
	// CertFile and KeyFile have the client certificate, and are read for each connection. Needed.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// Build is what runs a build.
type Build struct {
	// Fleet that its servers are of. Needed.
	Fleet string `yaml:"fleet"`
	// Labels that its servers have, beside the fleet's name. Default: none.
	Labels map[string]string `yaml:"labels"`
}

// Region is a part of a cluster.
type Region struct {
	// Namespace of the fleets. Needed.
	Namespace string `yaml:"namespace"`
}

// Who may be asked for a server.
const (
	byCluster   = "cluster"
	byAllocator = "allocator"
)

// How the allocator may be spoken to.
const (
	overGRPC = "grpc"
	overREST = "rest"
)

var dnsName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

func (c *Config) validate() error {
	c.Allocate = cmp.Or(c.Allocate, byCluster)
	if c.Allocate != byCluster && c.Allocate != byAllocator {
		return fmt.Errorf("agones.allocate: %q is none of %s, %s", c.Allocate, byCluster, byAllocator)
	}
	if c.Allocate == byCluster && c.Allocator != (Allocator{}) {
		return fmt.Errorf("agones.allocator: is for allocate: %s; set that, or take it out", byAllocator)
	}
	if err := hostapi.CheckMaps("agones", c.Builds, c.Regions); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Builds)) {
		if err := c.Builds[name].validate(); err != nil {
			return fmt.Errorf("agones.builds.%s.%w", name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Regions)) {
		if err := kube.CheckNamespace(c.Regions[name].Namespace); err != nil {
			return fmt.Errorf("agones.regions.%s.%w", name, err)
		}
	}
	return nil
}

func (b Build) validate() error {
	if !dnsName.MatchString(b.Fleet) {
		return fmt.Errorf("fleet: %q is none; it is needed, such as shooter", b.Fleet)
	}
	for _, key := range slices.Sorted(maps.Keys(b.Labels)) {
		if key == labelFleet || strings.HasPrefix(key, ours) {
			return fmt.Errorf("labels: %s is set by Berth: take it out", key)
		}
	}
	return nil
}

// tls returns how connections to the allocator are made.
func (a Allocator) tls() (*tls.Config, error) {
	if a.CertFile == "" || a.KeyFile == "" {
		return nil, errors.New("cert_file, key_file: are needed: the allocator knows its callers by a client certificate")
	}
	if _, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile); err != nil {
		return nil, fmt.Errorf("cert_file, key_file: %w", err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cert_file, key_file: %w", err)
		}
		return &cert, nil
	}}
	if a.CAFile != "" {
		pem, err := os.ReadFile(a.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s has no certificate (PEM)", a.CAFile)
		}
	}
	return conf, nil
}
