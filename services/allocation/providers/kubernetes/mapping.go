package kubernetes

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// Phases of a Pod.
const (
	pending   = "Pending"
	running   = "Running"
	succeeded = "Succeeded"
	failed    = "Failed"
	unknown   = "Unknown" // of old clusters: its node does not answer
)

const (
	stateStarting = providerv1.ServerState_SERVER_STATE_STARTING
	stateRunning  = providerv1.ServerState_SERVER_STATE_RUNNING
	stateStopping = providerv1.ServerState_SERVER_STATE_STOPPING
	stateExited   = providerv1.ServerState_SERVER_STATE_EXITED
)

// status is what a server does.
type status struct {
	state providerv1.ServerState
	// words are for people.
	words string
	// failure is why it will never run; 0: it may, or has.
	failure providerv1.FailureReason
}

// statusOf is the status of a server; false: its Pod is in no phase that there is.
func statusOf(p pod, patience time.Duration, now time.Time) (s status, ok bool) {
	switch p.Status.Phase {
	case succeeded, failed:
		s = status{state: stateExited, words: end(p)}
	case pending:
		s.state = stateStarting
		if s.failure, s.words = stuck(p, patience, now); s.failure != 0 {
			s.state = stateExited
		}
	case running, unknown:
		s = status{state: stateRunning, words: end(p)}
		if s.words != "" { // the game server ended, and another container is left
			s.state = stateExited
		} else if why := unready(p); why != "" {
			s = status{state: stateStarting, words: why}
		}
	default:
		return status{}, false
	}
	switch {
	case s.state != stateExited:
	case unstartable(p):
		s.failure = provider.Invalid
	case rejected(p):
		s.failure = provider.NoCapacity
	}
	if p.Meta.Deleted != nil { // until it is gone its name and its ports are taken
		s.state, s.failure = stateStopping, 0
	}
	return s, true
}

// unstartable reports whether the game server's container has ended because its command could not be started at all.
func unstartable(p pod) bool {
	c := statusOfGame(p)
	return c != nil && c.State.Terminated != nil && (c.State.Terminated.Reason == "StartError" || c.State.Terminated.Reason == "ContainerCannotRun")
}

// rejected reports whether a kubelet did not take a Pod that was scheduled to its node: it was full by then, or about to be. What has ever run is lost, and no less
// so for a reason of that kind.
func rejected(p pod) bool {
	if c := statusOfGame(p); p.Status.Phase != failed || c != nil && (c.State.Running != nil || c.State.Terminated != nil) {
		return false
	}
	switch p.Status.Reason { // older kubelets say no more
	case "NodeAffinity", "NodePorts", "TopologyAffinityError", "UnexpectedAdmissionError", "NodeShutdown", "Evicted":
		return true
	}
	return strings.HasPrefix(p.Status.Reason, "OutOf") || strings.Contains(p.Status.Message, "Pod was rejected")
}

// statusOfGame returns the status of the game server's container; nil: it has none yet.
func statusOfGame(p pod) *containerStatus {
	for n, c := range p.Status.Containers {
		if c.Name == p.Meta.Annotations[annotateContainer] {
			return &p.Status.Containers[n]
		}
	}
	return nil
}

// unready says why a Pod that runs is not ready for players yet; "": it is, or was. One that fails its probe later is a server all the same, and a helper that has
// ended is none that it waits for.
func unready(p pod) string {
	if p.Status.Phase == unknown {
		return ""
	}
	server := statusOfGame(p)
	for _, c := range p.Status.Conditions {
		switch {
		case c.Type != "Ready":
		case c.Status == "True", server != nil && server.State.Running != nil && c.Since.After(server.State.Running.Since): // it was ready in between
			return ""
		case server != nil && server.Ready && onlyEnded(p.Status.Containers):
			return ""
		default:
			return "the Pod is not ready yet: " + hostapi.Clean(c.Message)
		}
	}
	return "the Pod is not ready yet"
}

// onlyEnded reports whether some containers are not ready, and all of those because they have ended.
func onlyEnded(all []containerStatus) (some bool) {
	for _, c := range all {
		if !c.Ready && c.State.Terminated == nil {
			return false
		}
		some = some || !c.Ready
	}
	return some
}

// end says how a server ended; "": it has not.
func end(p pod) string {
	var said []string
	if p.Status.Reason != "" { // such as Evicted
		said = append(said, hostapi.Clean(p.Status.Reason+": "+p.Status.Message))
	}
	if c := statusOfGame(p); c != nil && c.State.Terminated != nil {
		t := c.State.Terminated
		said = append(said, fmt.Sprintf("container %s: exit status %d, %s", c.Name, t.ExitCode, hostapi.Clean(strings.TrimSpace(t.Reason+" "+t.Message))))
	}
	if len(said) == 0 && (p.Status.Phase == failed || p.Status.Phase == succeeded) {
		return "the Pod has " + strings.ToLower(p.Status.Phase)
	}
	return strings.Join(said, "; ")
}

// stuck says why a Pod will not start; 0: it may.
func stuck(p pod, patience time.Duration, now time.Time) (providerv1.FailureReason, string) {
	for _, c := range p.Status.Conditions {
		if c.Type == "PodScheduled" && c.Status == "False" && c.Reason == "Unschedulable" && now.Sub(c.Since) >= patience {
			return provider.NoCapacity, fmt.Sprintf("no node has room for it since %v: %s", patience, hostapi.Clean(c.Message))
		}
	}
	old := p.Meta.Created != nil && now.Sub(*p.Meta.Created) >= patience
	for _, c := range append(p.Status.InitContainers, p.Status.Containers...) {
		w := c.State.Waiting
		if w == nil {
			continue
		}
		if why := passing(p, c); why != "" {
			if old {
				return provider.Unavailable, fmt.Sprintf("container %s: %s", c.Name, why)
			}
			continue
		}
		switch w.Reason {
		case "RegistryUnavailable":
			return provider.Unavailable, fmt.Sprintf("container %s: image %s: %s: %s", c.Name, imageOf(p, c), w.Reason, hostapi.Clean(w.Message))
		case "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError":
			return provider.Invalid, fmt.Sprintf("container %s: image %s: %s: %s", c.Name, imageOf(p, c), w.Reason, hostapi.Clean(w.Message))
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff":
			return provider.Invalid, fmt.Sprintf("container %s: %s: %s", c.Name, w.Reason, hostapi.Clean(w.Message))
		}
	}
	return 0, ""
}

// What a kubelet says of a container that it tries to make again: it has not seen the Secrets or ConfigMaps of the Pod yet; its node is busy, and the try before goes on.
var (
	unseen = regexp.MustCompile(`failed to sync (secret|configmap) cache: timed out waiting for the condition`)
	busy   = regexp.MustCompile(`context deadline exceeded|failed to reserve container name`)
)

// passing says what a container waits for that may yet come without anybody's help; "": nothing of that kind.
func passing(p pod, c containerStatus) string {
	w := c.State.Waiting
	switch {
	case w.Reason == "CreateContainerConfigError" && p.awaitsSecret(w.Message): // it comes after its Pod, or with a repeat
		return fmt.Sprintf("its Secret %s never came: the call that was to make it was cut off, or somebody deleted it", p.secret())
	case w.Reason == "CreateContainerConfigError" && unseen.MatchString(w.Message), w.Reason == "CreateContainerError" && busy.MatchString(w.Message):
		return fmt.Sprintf("%s, again and again: %s", w.Reason, hostapi.Clean(w.Message))
	}
	return ""
}

// awaitsSecret reports whether a kubelet's words are that the Pod's own Secret is not there: one that watches Secrets says so itself, and one that asks for each passes
// on what the API server says.
func (p pod) awaitsSecret(words string) bool {
	return strings.Contains(words, fmt.Sprintf("secret %q not found", p.secret())) || strings.Contains(words, fmt.Sprintf("secrets %q not found", p.secret()))
}

// imageOf is the image that a container was to have, which is no secret however long it is.
func imageOf(p pod, c containerStatus) string {
	for _, one := range p.Spec.Containers {
		if one.Name == c.Name {
			return one.Image
		}
	}
	return hostapi.Clean(c.Image)
}

// endpointsOf are the ports of the game server's container, at that address.
func endpointsOf(p pod, in Region, host string) []*typev1.Endpoint {
	var ports []hostapi.Port
	for _, one := range p.game().Ports {
		number := one.HostPort
		if in.Address == podIP {
			number = one.ContainerPort
		}
		ports = append(ports, hostapi.Port{Name: one.Name, Host: host, Port: number, Protocol: one.Protocol}) // which the API server fills in
	}
	return hostapi.Endpoints(ports...)
}
