package egress

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestAddresses(t *testing.T) {
	for text, refused := range map[string]bool{
		"8.8.8.8": false, "1.1.1.1": false, "100.63.255.255": false, "100.128.0.0": false, "172.15.0.1": false, "172.32.0.1": false, "192.0.1.1": false, "223.255.255.255": false,
		"2606:4700:4700::1111": false, "2a00:1450:4001::1": false, "::ffff:8.8.8.8": false, "64:ff9b::8.8.8.8": false,

		"127.0.0.1": true, "127.255.255.254": true, "::1": true, "0.0.0.0": true, "0.1.2.3": true, "::": true,
		"10.0.0.1": true, "172.16.0.1": true, "172.31.255.255": true, "192.168.1.1": true, "fc00::1": true, "fdff::1": true, "100.64.0.1": true, "100.127.255.255": true,
		"169.254.169.254": true, "fe80::1": true, "fe80::1%eth0": true, "fd00:ec2::254": true, "fec0::1": true,
		"224.0.0.1": true, "239.255.255.255": true, "ff02::1": true, "240.0.0.1": true, "255.255.255.255": true,
		"192.0.0.170": true, "192.0.2.1": true, "198.51.100.1": true, "203.0.113.1": true, "198.18.0.1": true, "198.19.255.255": true, "192.88.99.1": true,
		"2001:db8::1": true, "3fff::1": true, "2001:2::1": true, "100::1": true, "5f00::1": true, "4000::1": true,
		// Other ways to say 10.0.0.1, 127.0.0.1 and 169.254.169.254.
		"::ffff:10.0.0.1": true, "::ffff:7f00:1": true, "::10.0.0.1": true, "64:ff9b::10.0.0.1": true, "64:ff9b::a9fe:a9fe": true, "64:ff9b:1::a00:1": true,
		"2002:a00:1::1": true, "2002:a9fe:a9fe::1": true, "2001:0:a00:1::f5ff:fffe": true,
	} {
		t.Run(text, func(t *testing.T) {
			addr := netip.MustParseAddr(text)
			for _, connect := range []error{guard{}.check(addr), guard{}.control(t.Context(), "tcp", netip.AddrPortFrom(addr, 443).String(), nil)} {
				var is *RefusedError
				if refused != (connect != nil) || connect != nil && (!errors.As(connect, &is) || is.Kind == "" || !strings.Contains(connect.Error(), "egress.allow (BERTH_EGRESS_ALLOW)")) {
					t.Errorf("got %v", connect)
				}
			}
		})
	}
	if err := (guard{}).check(netip.Addr{}); err == nil {
		t.Error("no address at all is connected to")
	}
	if err := (guard{}).control(t.Context(), "udp4", "8.8.8.8:443", nil); err == nil {
		t.Error("udp")
	}
}

func TestExceptionsAllowThemselvesOnly(t *testing.T) {
	allow, err := parseAllow([]string{"10.1.0.0/16", "fd00:1::/32"})
	if err != nil {
		t.Fatal(err)
	}
	for text, refused := range map[string]bool{
		"10.1.2.3": false, "::ffff:10.1.2.3": false, "64:ff9b::10.1.2.3": false, "fd00:1::5": false, "8.8.8.8": false,
		"10.2.0.1": true, "::ffff:10.2.0.1": true, "127.0.0.1": true, "169.254.169.254": true, "fd00:2::5": true,
	} {
		if err := (guard{allow}).check(netip.MustParseAddr(text)); refused != (err != nil) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestExceptionsThatCannotBeMeantAreRefused(t *testing.T) {
	for text, says := range map[string]string{
		"10.0.0.1": "10.0.0.1/32", "::1": "::1/128", "10.0.0.1/8": "10.0.0.0/8", "keycloak": "keycloak", "": "prefix", "10.0.0.0/33": "prefix", "::ffff:10.0.0.0/104": "IPv4",
	} {
		err := Config{Allow: []string{"192.168.0.0/16", text}}.Validate()
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "egress.allow (BERTH_EGRESS_ALLOW)") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := (Config{Allow: []string{"10.0.0.0/8", "fd00::/8", "127.0.0.1/32"}}).Validate(); err != nil {
		t.Error(err)
	}
}

// FuzzControl: whatever an address looks like, and in whatever form it is wrapped, none is connected to that the standard library calls special.
func FuzzControl(f *testing.F) {
	for _, seed := range []string{"127.0.0.1:443", "[::ffff:10.0.0.1]:443", "[64:ff9b::a9fe:a9fe]:443", "[fe80::1%25eth0]:443", "8.8.8.8:443", "[2606:4700::1]:443", "localhost:443", ":"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		if (guard{}).control(t.Context(), "tcp", address, nil) != nil {
			return
		}
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			t.Fatalf("%q is no address and connected to", address)
		}
		addr := to.Addr().Unmap()
		if b := to.Addr().As16(); strings.HasPrefix(addr.StringExpanded(), "0064:ff9b:") {
			addr = netip.AddrFrom4([4]byte(b[12:]))
		}
		if !addr.IsGlobalUnicast() || addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified() {
			t.Errorf("%s is connected to", addr)
		}
	})
}
