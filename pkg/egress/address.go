package egress

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
)

// RefusedError says that an address is not one that Berth connects to.
type RefusedError struct {
	// Addr is the address, as it came out of the name's resolution.
	Addr netip.Addr
	// Kind is what kind of address it is, such as "private".
	Kind string
}

// Error implements error.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("the address %s is refused (%s): Berth connects to it only if egress.allow (BERTH_EGRESS_ALLOW) has it, such as %s", e.Addr, e.Kind, whole(e.Addr))
}

// whole is the prefix that has one address only.
func whole(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// special is a range of addresses that are not ordinary hosts of the internet.
type special struct {
	prefix netip.Prefix
	kind   string
}

// specials are the ranges of the IANA registries of special-purpose addresses that are refused. Of IPv6, all outside of global unicast is refused anyway.
var specials = [...]special{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared by a provider's customers"},
	{netip.MustParsePrefix("127.0.0.0/8"), "this machine"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local, where clouds serve metadata and credentials"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.0.0.0/24"), "reserved for protocols"},
	{netip.MustParsePrefix("192.0.2.0/24"), "for documentation"},
	{netip.MustParsePrefix("192.88.99.0/24"), "6to4 relay"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarks"},
	{netip.MustParsePrefix("198.51.100.0/24"), "for documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "for documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("::1/128"), "this machine"},
	{netip.MustParsePrefix("fc00::/7"), "private"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("2001::/23"), "reserved for protocols, Teredo among them"},
	{netip.MustParsePrefix("2001:db8::/32"), "for documentation"},
	{netip.MustParsePrefix("2002::/16"), "6to4"},
	{netip.MustParsePrefix("3fff::/20"), "for documentation"},
}

var (
	global = netip.MustParsePrefix("2000::/3")
	// nat64 has an IPv4 address in its last four bytes, to which a translator on the way connects.
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
)

// kindOf says why an address is refused; "" if it is an ordinary one.
func kindOf(addr netip.Addr) string {
	for _, s := range specials {
		if s.prefix.Contains(addr) {
			return s.kind
		}
	}
	if addr.Is6() && !global.Contains(addr) {
		return "not global unicast"
	}
	return ""
}

// guard decides to which addresses connections are made.
type guard struct{ allow []netip.Prefix }

// check returns a *RefusedError unless an address is an ordinary host of the internet, or one of the exceptions.
func (g guard) check(addr netip.Addr) error {
	addr = addr.WithZone("").Unmap() // ::ffff:10.0.0.1 is 10.0.0.1
	for _, p := range g.allow {
		if p.Contains(addr) {
			return nil
		}
	}
	if nat64.Contains(addr) {
		b := addr.As16()
		return g.check(netip.AddrFrom4([4]byte(b[12:])))
	}
	if kind := kindOf(addr); kind != "" || !addr.IsValid() {
		return &RefusedError{Addr: addr, Kind: kind}
	}
	return nil
}

// control is called by the dialer with each address that it is about to connect to, when all names are resolved: what a name resolves to the next time
// makes no difference.
func (g guard) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return fmt.Errorf("%s is no network that Berth connects over", network)
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address to connect to: %w", err)
	}
	return g.check(to.Addr())
}

// parseAllow reads the exceptions.
func parseAllow(prefixes []string) ([]netip.Prefix, error) {
	var bad []error
	parsed := make([]netip.Prefix, 0, len(prefixes))
	for _, text := range prefixes {
		p, err := netip.ParsePrefix(text)
		switch addr, notPrefix := netip.ParseAddr(text); {
		case err != nil && notPrefix == nil:
			bad = append(bad, fmt.Errorf("%q is an address; write the prefix %s", text, whole(addr.WithZone(""))))
		case err != nil:
			bad = append(bad, fmt.Errorf("%q is no prefix such as 10.20.0.0/16", text))
		case p.Addr().Is4In6():
			bad = append(bad, fmt.Errorf("%q has the form of IPv6; write it as IPv4", text))
		case p != p.Masked():
			bad = append(bad, fmt.Errorf("%q has bits after its length; write %s", text, p.Masked()))
		default:
			parsed = append(parsed, p)
		}
	}
	if err := errors.Join(bad...); err != nil {
		return nil, fmt.Errorf("egress.allow (BERTH_EGRESS_ALLOW): %w", err)
	}
	return parsed, nil
}
