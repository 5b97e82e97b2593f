package edgegap

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/http"
	"slices"
	"strings"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

const (
	// host is the host's name in messages.
	host = "Edgegap"
	// maxTag is how long a tag may be.
	maxTag = 40
	// markPrefix is before the deployment of Berth in its tag.
	markPrefix = "berth-"
)

// The server's states, in short.
const (
	starting = providerv1.ServerState_SERVER_STATE_STARTING
	running  = providerv1.ServerState_SERVER_STATE_RUNNING
	stopping = providerv1.ServerState_SERVER_STATE_STOPPING
	exited   = providerv1.ServerState_SERVER_STATE_EXITED
)

// noRoom is the failure that 422 stands for. A deployment in error was made all the same, and counts until it is stopped.
type noRoom struct {
	error
	leftover string // its id
}

func (n *noRoom) Unwrap() error { return n.error }

// explain says what a refusal means.
func (c *client) explain(r hostapi.Refusal) error {
	reason, words := r.Reason(), r.Words()
	switch {
	case r.Operation == c.create && r.Status == http.StatusUnprocessableEntity:
		return full(r)
	case r.Operation == c.list && reason == provider.NotFound: // there is always a list: it says nothing of a deployment
		return r.Failure(provider.Unavailable, words+"; is edgegap.url right?")
	case r.Operation == c.create && (reason == provider.NotFound || reason == provider.Invalid):
		return r.Failure(provider.Invalid, words+"; look at edgegap.builds: is that version of the application active, and its image there?")
	case reason == provider.Unauthenticated:
		return r.Failure(reason, words+"; look at edgegap.token_file")
	}
	return r.Failure(reason, words)
}

// full is the failure of a 422. What is no object of JSON is of something on the way, and says nothing.
func full(r hostapi.Refusal) error {
	var said map[string]any
	if r.Decode(&said) != nil || said == nil {
		return r.Failure(provider.Ambiguous, r.Words())
	}
	leftover, _ := said["request_id"].(string)
	if !validID(leftover) {
		leftover = ""
	}
	return &noRoom{error: r.Failure(provider.NoCapacity, r.Words()), leftover: leftover}
}

// stateOf is the state of a deployment. The booleans are the documented truth; words come as Status.READY or STATUS_READY.
func stateOf(d deployment) providerv1.ServerState {
	word := wordOf(d)
	switch {
	case failed(d), word == "TERMINATED":
		return exited
	case word == "TERMINATING":
		return stopping
	case d.Running, word == "READY":
		return running
	default: // SEEKING, DEPLOYING and whatever else there is before
		return starting
	}
}

func wordOf(d deployment) string {
	word := strings.ToUpper(d.CurrentStatus)
	return word[strings.LastIndexAny(word, "._")+1:]
}

// failed reports whether a deployment did not come up: Edgegap gives one up that has no place, or whose container does not start.
func failed(d deployment) bool { return d.Error || wordOf(d) == "ERROR" }

// server is a deployment as Berth knows it.
func (p *Provider) server(attempt string, d deployment) *providerv1.Server {
	s := &providerv1.Server{AttemptId: attempt, ExternalId: d.RequestID, State: stateOf(d), Message: hostapi.Clean(d.ErrorDetail)}
	if failed(d) {
		s.Failure = provider.Unavailable
	}
	if s.GetState() == running {
		s.Endpoints = endpointsOf(d, p.cfg.Ports)
	}
	return s
}

// endpointsOf are the ports at the deployment's DNS name, for which certificates are.
func endpointsOf(d deployment, names map[string]string) []*typev1.Endpoint {
	at := d.FQDN
	if at == "" {
		at = d.PublicIP
	}
	var ports []hostapi.Port
	for _, port := range slices.Sorted(maps.Keys(d.Ports)) { // in one order, so that they are equal when they are
		one, name := d.Ports[port], names[port]
		if name == "" {
			name = port
		}
		if strings.EqualFold(one.Protocol, "TCP/UDP") {
			ports = append(ports, hostapi.Port{Name: name, Host: at, Port: one.External, Protocol: "udp"}, hostapi.Port{Name: name + "-tcp", Host: at, Port: one.External, Protocol: "tcp"})
			continue
		}
		ports = append(ports, hostapi.Port{Name: name, Host: at, Port: one.External, Protocol: one.Protocol})
	}
	return hostapi.Endpoints(ports...)
}

// mark is the tag of a deployment of Berth: its name, or where that is too long, one that is made of it.
func mark(deployment string) string {
	if tag := markPrefix + deployment; len(tag) <= maxTag {
		return tag
	}
	sum := sha256.Sum256([]byte(deployment))
	return markPrefix + hex.EncodeToString(sum[:])[:maxTag-len(markPrefix)]
}
