//go:build linux

package process

import (
	"io"
	"strings"
	"testing"

	"github.com/berth-dev/berth/sdk/go/provider"
)

// A port that a server was given and has not opened yet is free for the system, and not for another server.
func TestPromisedPortsAreNotGivenAway(t *testing.T) {
	offers := []uint16{7000, 7001, 7001, 7002}
	p := &Provider{
		cfg: Config{AdvertiseHost: "h"},
		servers: map[string]*server{
			"runs":  {record: record{Phase: phaseStarted, Endpoints: []endpoint{{Name: "a", Port: 7000, Protocol: "tcp"}, {Name: "b", Port: 7002, Protocol: "udp"}}}},
			"ended": {record: record{Phase: phaseExited, Endpoints: []endpoint{{Name: "a", Port: 7001, Protocol: "tcp"}}}},
		},
		bind: func(string, uint16) (uint16, io.Closer, error) {
			port := offers[0]
			if len(offers) > 1 {
				offers = offers[1:]
			}
			return port, io.NopCloser(strings.NewReader("")), nil
		},
	}
	got, err := p.freePorts([]Endpoint{{Name: "game", Protocol: "tcp"}})
	if err != nil || len(got) != 1 || got[0] != (endpoint{Name: "game", Host: "h", Port: 7001, Protocol: "tcp"}) {
		t.Errorf("%v, %v", got, err)
	}
	offers = []uint16{7000}
	if _, err := p.freePorts([]Endpoint{{Name: "game", Protocol: "tcp"}}); provider.ReasonOf(err) != provider.NoCapacity {
		t.Errorf("no port is left: %v", err)
	}
}
