package kube

import (
	"fmt"
	"regexp"
)

// dnsLabel is what a namespace may be called (RFC 1123): it is a part of names in the cluster's DNS.
var dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// CheckNamespace makes sure that a namespace may be called so, which the API server would say at the first call only.
func CheckNamespace(name string) error {
	if !dnsLabel.MatchString(name) {
		return fmt.Errorf("namespace: %q is none; it is needed, such as games: a DNS label, of at most 63 lower-case letters, digits and hyphens", name)
	}
	return nil
}
