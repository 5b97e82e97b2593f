package door

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/berth-dev/berth/pkg/errs"
)

const localhost = "localhost"

// hosts are the names by which requests may call the gateway; nil: by any.
type hosts map[string]bool

// parseHosts reads a list of names and addresses without ports.
func parseHosts(list []string) (hosts, error) {
	if len(list) == 0 {
		return nil, nil //nolint:nilnil // no list is no check
	}
	out := make(hosts, len(list))
	for _, host := range list {
		bare := bareHost(host)
		_, notAddress := netip.ParseAddr(bare)
		if bare == "" || strings.ContainsAny(bare, "*/@ ") || (notAddress != nil && strings.Contains(bare, ":")) || bare != strings.ToLower(host) {
			return nil, fmt.Errorf("allowed_hosts (BERTH_ALLOWED_HOSTS): %q is no host; write its name or address alone, without scheme, port and wildcard: game.example.com", host)
		}
		out[bare] = true
	}
	return out, nil
}

// check returns an error unless a request may have this Host. A web page cannot choose it: a browser sends the name of the page's own site, which
// somebody may have had resolved to this machine's address.
func (h hosts) check(host string) error {
	bare := bareHost(host)
	if h == nil || h[bare] {
		return nil
	}
	if a, err := netip.ParseAddr(bare); err == nil && h[localhost] && a.Unmap().IsLoopback() {
		return nil
	}
	return errs.New(errs.RoleRequired, "Host: %.100q is not a name that this gateway answers to; use one that it does, "+
		"or add this one to its setting allowed_hosts (berth dev: --allowed-hosts)", strings.ToValidUTF8(bare, "\uFFFD"))
}

// bareHost returns a host in lower case, without port, brackets and the dot of the root.
func bareHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// ValidateHosts returns an error that says which host of the setting allowed_hosts is none.
func ValidateHosts(list []string) error {
	_, err := parseHosts(list)
	return err
}

// ValidateProxies returns an error that says which network of the setting trusted_proxies cannot be trusted.
func ValidateProxies(list []string) error {
	networks, err := prefixes(settingProxies, list)
	for _, n := range networks {
		if n.Bits() == 0 {
			err = errors.Join(err, fmt.Errorf(settingProxies+": %s is everybody, who could then say to be anybody; name the networks of your proxies", n))
		}
	}
	return err
}
