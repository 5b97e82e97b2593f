package agones

import (
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/status"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

const (
	stateStarting = providerv1.ServerState_SERVER_STATE_STARTING
	stateRunning  = providerv1.ServerState_SERVER_STATE_RUNNING
	stateStopping = providerv1.ServerState_SERVER_STATE_STOPPING
	stateExited   = providerv1.ServerState_SERVER_STATE_EXITED
)

// Labels and annotations of a GameServer. ours begins those that are Berth's.
const (
	ours             = "berth.dev/"
	labelDeployment  = ours + "deployment"
	labelAttempt     = ours + "attempt"
	labelInstance    = ours + "instance"
	annotateDocument = ours + "bootstrap"
	annotateRegion   = ours + "region"
	labelFleet       = "agones.dev/fleet"
	annotateSince    = "agones.dev/last-allocated"
)

// allocated is the state of a GameServer, and of an allocation, that somebody has.
const allocated = "Allocated"

// contentionPause is how long to leave an allocator alone that has too many requests at once: its batches take half a second.
const contentionPause = 300 * time.Millisecond

func noneReady(who string) error {
	return provider.Failure(provider.NoCapacity, "%s: no GameServer is Ready that has the build's labels", who)
}

// notIn says of a failure where no GameServer is Ready: that there is no such fleet or namespace, Agones says in the same words.
func (o order) notIn(err error) error {
	if provider.ReasonOf(err) != provider.NoCapacity {
		return err
	}
	var labels []string
	for _, name := range slices.Sorted(maps.Keys(o.selector.MatchLabels)) {
		labels = append(labels, name+"="+o.selector.MatchLabels[name])
	}
	return provider.Failure(provider.NoCapacity, "%s; namespace %s, labels %s: are there such?", status.Convert(err).Message(), o.namespace, strings.Join(labels, ","))
}

func contention() error {
	return provider.RetryAfter(provider.Failure(provider.RateLimited, "Agones: too many allocations at once (Contention)"), contentionPause)
}

// stateOf is the state of a server, with words for people; false: its GameServer is in no state that there is.
func stateOf(g gameServer) (state providerv1.ServerState, words string, ok bool) {
	switch g.Status.State {
	case allocated:
		state = stateRunning
	case "PortAllocation", "Creating", "Starting", "Scheduled":
		state = stateStarting
	case "Ready", "Reserved", "RequestReady":
		return stateExited, "the GameServer went back to " + g.Status.State + ": it is free for others", true
	case "Unhealthy", "Error":
		state, words = stateExited, "the GameServer is in state "+g.Status.State
	case "Shutdown":
		state = stateStopping
	default:
		return 0, "", false
	}
	if g.Meta.Deleted != nil {
		state = stateStopping
	}
	return state, words, true
}

// returned reports whether a GameServer is there for others again: it is not ours to delete.
func returned(g gameServer) bool {
	return g.Status.State == "Ready" || g.Status.State == "Reserved" || g.Status.State == "RequestReady"
}

// same reports whether two looks saw one GameServer, with one attempt's labels.
func same(a, b gameServer) bool {
	return a.Meta.UID == b.Meta.UID && a.Meta.Labels[labelDeployment] == b.Meta.Labels[labelDeployment] && a.Meta.Labels[labelAttempt] == b.Meta.Labels[labelAttempt]
}

// live reports whether a GameServer is one that players can be on, or will be.
func live(g gameServer) bool {
	state, _, ok := stateOf(g)
	return ok && (state == stateRunning || state == stateStarting)
}

// earlier orders GameServers of one attempt: the one that was allocated first is kept, in whichever process this runs.
func earlier(a, b gameServer) int {
	since := func(g gameServer) time.Time {
		at, _ := time.Parse(time.RFC3339Nano, g.Meta.Annotations[annotateSince]) // without one it is the first
		return at
	}
	if order := since(a).Compare(since(b)); order != 0 {
		return order
	}
	return strings.Compare(a.Meta.Name, b.Meta.Name)
}

// endpointsOf are the ports of a GameServer. Agones names a protocol in the spec only; one for both is told as UDP.
func endpointsOf(g gameServer) []*typev1.Endpoint {
	protocols := make(map[string]string)
	for _, p := range g.Spec.Ports {
		protocols[p.Name] = p.Protocol
		if p.Protocol == "TCPUDP" {
			protocols[p.Name] = "UDP"
		}
	}
	ports := make([]hostapi.Port, 0, len(g.Status.Ports))
	for _, p := range g.Status.Ports {
		ports = append(ports, hostapi.Port{Name: p.Name, Host: g.Status.Address, Port: p.Port, Protocol: protocols[p.Name]})
	}
	return hostapi.Endpoints(ports...)
}
