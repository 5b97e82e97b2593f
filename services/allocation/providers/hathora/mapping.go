package hathora

import (
	"crypto/sha256"
	"encoding/hex"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// States of rooms, in info and in connection info.
const (
	scheduling = "scheduling"
	starting   = "starting"
	active     = "active"
	destroyed  = "destroyed"
)

// maxMark is what is left of the 100 characters of a room's id beside an attempt, which has up to 48.
const maxMark = 51

// mark is what the ids of a deployment's rooms begin with: its name, or where that is too long, one that is made of it.
func mark(deployment string) string {
	if len(deployment) <= maxMark {
		return deployment
	}
	sum := sha256.Sum256([]byte(deployment))
	return hex.EncodeToString(sum[:])[:maxMark]
}

// roomID is the id of an attempt's room.
func roomID(deployment, attempt string) string { return attempts.Marked(mark(deployment), attempt) }

// explain says what a refusal means where its status alone does not.
func (c *client) explain(r hostapi.Refusal) error {
	if r.Operation == c.create && r.Reason() == provider.NotFound { // the application or its deployment
		return r.Failure(provider.Invalid, r.Words())
	}
	return nil
}

// stateOf is the state of a room; false: it is none that the API has.
func stateOf(status string) (providerv1.ServerState, bool) {
	switch status {
	case scheduling, starting:
		return providerv1.ServerState_SERVER_STATE_STARTING, true
	case active:
		return providerv1.ServerState_SERVER_STATE_RUNNING, true
	case destroyed:
		return providerv1.ServerState_SERVER_STATE_EXITED, true
	default:
		return 0, false
	}
}

func endpointsOf(conn connection) []*typev1.Endpoint {
	var ports []hostapi.Port
	if conn.ExposedPort != nil {
		ports = append(ports, hostPort(*conn.ExposedPort))
	}
	for _, p := range conn.AdditionalExposedPorts {
		ports = append(ports, hostPort(p))
	}
	return hostapi.Endpoints(ports...)
}

func hostPort(p port) hostapi.Port {
	name := p.Name
	if name == "default" {
		name = "game"
	}
	return hostapi.Port{Name: name, Host: p.Host, Port: p.Port, Protocol: p.TransportType}
}
