package door

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// prefixes reads networks in CIDR notation; its error begins with the name of the setting.
func prefixes(setting string, list []string) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(list))
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %q is no network; write 10.0.0.0/8, 192.0.2.7/32 or 2001:db8::/32", setting, text)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

func contain(networks []netip.Prefix, a netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// plain returns an address without what makes one look like another: IPv4 in IPv6, and zones.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// client returns where a request comes from: the socket's address or, where that is a trusted proxy's, the last one of X-Forwarded-For that is not.
// Each proxy appends whom it has seen, so what stands to the left of that was written by somebody who is not trusted. Where all are trusted, the first is
// where it began. A header that cannot be read is nobody's word: then it is the proxy itself that calls.
func client(socket netip.Addr, header []string, trusted []netip.Prefix) netip.Addr {
	if !contain(trusted, socket) {
		return socket
	}
	found := socket
	list := strings.Split(strings.Join(header, ","), ",")
	for i := len(list) - 1; i >= 0; i-- {
		a, ok := parse(strings.TrimSpace(list[i]))
		if !ok {
			return socket
		}
		if found = a; !contain(trusted, a) {
			break
		}
	}
	return found
}

// parse reads an address, to which some proxies add the port.
func parse(text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		ap, err := netip.ParseAddrPort(text)
		if err != nil {
			return a, false
		}
		a = ap.Addr()
	}
	return plain(a), true
}

// Handler gives each request the address of who sent it, as RemoteAddr, before next sees it. Behind a proxy the port is not known, and is 0.
func (d *Door) Handler(next http.Handler) http.Handler {
	if d == nil || len(d.trusted) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		socket, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			next.ServeHTTP(w, r)
			return
		}
		peer := plain(socket.Addr())
		if from := client(peer, r.Header.Values("X-Forwarded-For"), d.trusted); from != peer {
			r = r.WithContext(r.Context()) // a shallow copy
			r.RemoteAddr = net.JoinHostPort(from.String(), "0")
		}
		next.ServeHTTP(w, r)
	})
}

// peerOf returns as whom an address counts: of IPv6 it is the /64, within which one machine has all addresses.
func peerOf(remote string) netip.Prefix {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{} // a Unix socket: all of them are one
	}
	a := plain(ap.Addr())
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// name returns a peer as it stands in messages.
func name(peer netip.Prefix) string {
	if peer.IsSingleIP() {
		return peer.Addr().String()
	}
	return peer.String()
}
