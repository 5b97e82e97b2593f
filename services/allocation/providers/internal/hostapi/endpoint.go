package hostapi

import (
	"fmt"
	"strings"

	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// Port is a public address as a host names it.
type Port struct {
	// Name of the port, in the host's or the build's spelling.
	Name string
	// Host is a DNS name or an address.
	Host string
	// Port is 1 to 65535; others are no address yet.
	Port int
	// Protocol is that of the host: udp, or one over TCP, such as tls or ws. Empty: UDP, as most games have it.
	Protocol string
}

// maxName is how long the name of an endpoint may be.
const maxName = 63

// Endpoints are the addresses that players can go to, each with a name of its own that Berth allows.
func Endpoints(ports ...Port) []*typev1.Endpoint {
	out := make([]*typev1.Endpoint, 0, len(ports))
	taken := make(map[string]bool, len(ports))
	for _, p := range ports {
		if p.Host == "" || p.Port < 1 || p.Port > 65535 {
			continue
		}
		name := endpointName(p.Name)
		for n := 2; taken[name]; n++ {
			name = fmt.Sprintf("%s-%d", endpointName(p.Name), n)
		}
		taken[name] = true
		out = append(out, &typev1.Endpoint{Name: name, Host: p.Host, Port: uint32(p.Port), Protocol: protocol(p.Protocol)})
	}
	return out
}

func protocol(name string) typev1.Protocol {
	if name == "" || strings.EqualFold(name, "udp") {
		return typev1.Protocol_PROTOCOL_UDP
	}
	return typev1.Protocol_PROTOCOL_TCP
}

// endpointName makes of a host's name for a port one that Berth allows: lower-case letters, digits and '-' between them.
func endpointName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '-'
		}
	}, name)
	name = strings.Trim(name[:min(len(name), maxName-3)], "-") // room for a number
	if name == "" {
		return "game"
	}
	return name
}
