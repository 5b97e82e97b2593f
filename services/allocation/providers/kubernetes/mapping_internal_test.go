package kubernetes

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

func TestStates(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	const patience = 30 * time.Second
	for name, c := range map[string]struct {
		status string
		want   providerv1.ServerState
		says   string
		fails  providerv1.FailureReason
	}{
		"new":                 {`{"phase":"Pending"}`, stateStarting, "", 0},
		"creating":            {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"ContainerCreating"}}}]}`, stateStarting, "", 0},
		"first pull failed":   {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"ErrImagePull","message":"no"}}}]}`, stateStarting, "", 0},
		"gated":               {`{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"SchedulingGated","lastTransitionTime":"2026-11-28T11:00:00Z"}]}`, stateStarting, "", 0},
		"no node yet":         {`{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"0/3","lastTransitionTime":"2026-11-28T11:59:31Z"}]}`, stateStarting, "", 0},
		"no node":             {`{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"0/3","lastTransitionTime":"2026-11-28T11:59:30Z"}]}`, stateExited, "no node has room for it since 30s: 0/3", provider.NoCapacity},
		"pulls":               {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"ImagePullBackOff","message":"Back-off"}}}]}`, stateExited, "image registry.example.com/a-studio-with-a-name/shooter:1: ImagePullBackOff: Back-off", provider.Invalid},
		"pulls, at length":    {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"ImagePullBackOff","message":"no image \"registry.example.com/a-studio-with-a-name/shooter:1\""}}}]}`, stateExited, `no image "registry.example.com/a-studio-with-a-name/shooter:1"`, provider.Invalid},
		"image name":          {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"InvalidImageName","message":"bad"}}}]}`, stateExited, "InvalidImageName", provider.Invalid},
		"an init container":   {`{"phase":"Pending","initContainerStatuses":[{"name":"init","image":"i:1","state":{"waiting":{"reason":"ImagePullBackOff","message":"Back-off"}}}]}`, stateExited, "container init: image i:1", provider.Invalid},
		"another secret":      {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"CreateContainerConfigError","message":"secret \"db\" not found"}}}]}`, stateExited, `secret "db" not found`, provider.Invalid},
		"its own secret":      {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"CreateContainerConfigError","message":"secret \"live-1-abc\" not found"}}}]}`, stateStarting, "", 0},
		"never pulled":        {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"ErrImageNeverPull","message":"policy of Never"}}}]}`, stateExited, "shooter:1: ErrImageNeverPull: policy of Never", provider.Invalid},
		"no image to look at": {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"ImageInspectError","message":"broken"}}}]}`, stateExited, "shooter:1: ImageInspectError: broken", provider.Invalid},
		"no container":        {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"CreateContainerError","message":"name is taken"}}}]}`, stateExited, "container server: CreateContainerError: name is taken", provider.Invalid},
		"an init container that fails again and again": {`{"phase":"Pending","initContainerStatuses":[{"name":"proxy","state":{"waiting":{"reason":"CrashLoopBackOff","message":"back-off 5m0s"}}}]}`, stateExited, "container proxy: CrashLoopBackOff: back-off 5m0s", provider.Invalid},
		"no such command":                             {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"RunContainerError","message":"exec: not found"}}}]}`, stateExited, "exec: not found", provider.Invalid},
		"runs":                                        {`{"phase":"Running","conditions":[{"type":"Ready","status":"True","message":"containers with unready status: [server]","lastTransitionTime":"2026-11-28T11:59:53Z"}],"containerStatuses":[{"name":"server","ready":true,"state":{"running":{"startedAt":"2026-11-28T11:59:52Z"}}}]}`, stateRunning, "", 0},
		"its probe has not succeeded yet":             {`{"phase":"Running","conditions":[{"type":"Ready","status":"False","message":"containers with unready status: [server]","lastTransitionTime":"2026-11-28T11:59:51Z"}],"containerStatuses":[{"name":"server","ready":false,"state":{"running":{"startedAt":"2026-11-28T11:59:52Z"}}}]}`, stateStarting, "the Pod is not ready yet: containers with unready status: [server]", 0},
		"no word of its being ready":                  {`{"phase":"Running","conditions":[],"containerStatuses":[{"name":"server","ready":true,"state":{"running":{"startedAt":"2026-11-28T11:59:52Z"}}}]}`, stateStarting, "the Pod is not ready yet", 0},
		"its probe fails later":                       {`{"phase":"Running","conditions":[{"type":"Ready","status":"False","message":"containers with unready status: [server]","lastTransitionTime":"2026-11-28T11:59:55Z"}],"containerStatuses":[{"name":"server","ready":false,"state":{"running":{"startedAt":"2026-11-28T11:59:52Z"}}}]}`, stateRunning, "", 0},
		"its probe is slow to fail, and nobody knows": {`{"phase":"Running","conditions":[{"type":"Ready","status":"Unknown","message":"containers with unready status: [server]","lastTransitionTime":"2026-11-28T11:59:55Z"}],"containerStatuses":[{"name":"server","ready":false,"state":{"running":{"startedAt":"2026-11-28T11:59:52Z"}}}]}`, stateRunning, "", 0},
		"a helper ended":                              {`{"phase":"Running","conditions":[{"type":"Ready","status":"False","message":"containers with unready status: [server]","lastTransitionTime":"2026-11-28T11:59:55Z"}],"containerStatuses":[{"name":"metrics","ready":false,"state":{"terminated":{}}},{"name":"server","ready":true,"state":{"running":{"startedAt":"2026-11-28T11:59:52Z"}}}]}`, stateRunning, "", 0},
		"a helper ended at once":                      {`{"phase":"Running","conditions":[{"type":"Ready","status":"False","message":"containers with unready status: [server]","lastTransitionTime":"2026-11-28T11:59:51Z"}],"containerStatuses":[{"name":"metrics","ready":false,"state":{"terminated":{}}},{"name":"server","ready":true,"state":{"running":{"startedAt":"2026-11-28T11:59:52Z"}}}]}`, stateRunning, "", 0},
		"a gate is not open yet":                      {`{"phase":"Running","conditions":[{"type":"Ready","status":"False","message":"gate","lastTransitionTime":"2026-11-28T11:59:51Z"}],"containerStatuses":[{"name":"server","ready":true,"state":{"running":{"startedAt":"2026-11-28T11:59:52Z"}}}]}`, stateStarting, "the Pod is not ready yet: gate", 0},
		"a helper is not ready yet":                   {`{"phase":"Running","conditions":[{"type":"Ready","status":"False","message":"containers with unready status: [server]","lastTransitionTime":"2026-11-28T11:59:51Z"}],"containerStatuses":[{"name":"metrics","ready":false,"state":{"running":{}}},{"name":"server","ready":true,"state":{"running":{"startedAt":"2026-11-28T11:59:52Z"}}}]}`, stateStarting, "the Pod is not ready yet", 0},
		"only a helper runs":                          {`{"phase":"Running","containerStatuses":[{"name":"metrics","state":{"running":{}}},{"name":"server","state":{"terminated":{"exitCode":3,"reason":"Error"}}}]}`, stateExited, "container server: exit status 3, Error", 0},
		"no such command, not again":                  {`{"phase":"Failed","containerStatuses":[{"name":"server","state":{"terminated":{"exitCode":128,"reason":"StartError","message":"exec: not found"}}}]}`, stateExited, "StartError exec: not found", provider.Invalid},
		"cannot run":                                  {`{"phase":"Failed","containerStatuses":[{"name":"server","state":{"terminated":{"exitCode":127,"reason":"ContainerCannotRun"}}}]}`, stateExited, "ContainerCannotRun", provider.Invalid},
		"killed":                                      {`{"phase":"Failed","containerStatuses":[{"name":"server","state":{"terminated":{"exitCode":137,"reason":"OOMKilled"}}}]}`, stateExited, "exit status 137, OOMKilled", 0},
		"evicted":                                     {`{"phase":"Failed","reason":"Evicted","message":"The node was low on resource: memory.","containerStatuses":[{"name":"server","state":{"terminated":{"exitCode":137,"reason":"ContainerStatusUnknown"}}}]}`, stateExited, "Evicted: The node was low on resource", 0},
		"evicted, and still ends":                     {`{"phase":"Failed","reason":"Evicted","message":"The node was low on resource: memory.","containerStatuses":[{"name":"server","state":{"running":{"startedAt":"2026-11-28T11:59:52Z"}}}]}`, stateExited, "Evicted: The node was low on resource", 0},
		"evicted before it ran":                       {`{"phase":"Failed","reason":"Evicted","message":"The node was low on resource: memory.","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"ContainerCreating"}}}]}`, stateExited, "Evicted: The node was low on resource", provider.NoCapacity},
		"rejected by a node that is short of memory":  {`{"phase":"Failed","reason":"Evicted","message":"Pod was rejected: The node had condition: [MemoryPressure]. "}`, stateExited, "Evicted: Pod was rejected: The node had condition", provider.NoCapacity},
		"rejected for a resource":                     {`{"phase":"Failed","reason":"OutOfcpu","message":"Pod was rejected: Node didn't have enough resource: cpu, requested: 500, used: 3700, capacity: 3920"}`, stateExited, "OutOfcpu: Pod was rejected: Node didn't have enough resource: cpu", provider.NoCapacity},
		"rejected for a device, by an old kubelet":    {`{"phase":"Failed","reason":"OutOfnvidia.com/gpu","message":"Pod Node didn't have enough resource: nvidia.com/gpu"}`, stateExited, "OutOfnvidia.com/gpu", provider.NoCapacity},
		"rejected for its node's labels":              {`{"phase":"Failed","reason":"NodeAffinity","message":"Predicate NodeAffinity failed"}`, stateExited, "NodeAffinity", provider.NoCapacity},
		"rejected for its ports":                      {`{"phase":"Failed","reason":"NodePorts","message":"Pod was rejected: Predicate NodePorts failed"}`, stateExited, "NodePorts", provider.NoCapacity},
		"rejected by a plugin":                        {`{"phase":"Failed","reason":"UnexpectedAdmissionError","message":"Pod Allocate failed due to no healthy devices present"}`, stateExited, "UnexpectedAdmissionError", provider.NoCapacity},
		"rejected for a reason that nobody knows":     {`{"phase":"Failed","reason":"Full","message":"Pod was rejected: no"}`, stateExited, "Full: Pod was rejected: no", provider.NoCapacity},
		"its node went down, and it never ran":        {`{"phase":"Failed","reason":"NodeShutdown","message":"Pod was rejected as the node is shutting down."}`, stateExited, "NodeShutdown", provider.NoCapacity},
		"its node went down while it ran":             {`{"phase":"Failed","reason":"Terminated","message":"Pod was terminated in response to imminent node shutdown.","containerStatuses":[{"name":"server","state":{"terminated":{"exitCode":0,"reason":"Completed"}}}]}`, stateExited, "Terminated: Pod was terminated", 0},
		"it took too long":                            {`{"phase":"Failed","reason":"DeadlineExceeded","message":"Pod was active on the node longer than the specified deadline"}`, stateExited, "DeadlineExceeded", 0},
		"failed":                                      {`{"phase":"Failed"}`, stateExited, "the Pod has failed", 0},
		"ended":                                       {`{"phase":"Succeeded","containerStatuses":[{"name":"server","state":{"terminated":{"exitCode":0,"reason":"Completed"}}}]}`, stateExited, "exit status 0, Completed", 0},
		"registry is away":                            {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"RegistryUnavailable","message":"dial"}}}]}`, stateExited, "RegistryUnavailable: dial", provider.Unavailable},
		"its node is not seen":                        {`{"phase":"Unknown"}`, stateRunning, "", 0},
		"a secret in a message": {`{"phase":"Failed","containerStatuses":[{"name":"server","state":{"terminated":{"exitCode":1,"reason":"Error","message":"token ` + strings.Repeat("x", 60) + `"}}}]}`,
			stateExited, "exit status 1, Error token …", 0},
	} {
		var p pod
		raw := `{"metadata":{"name":"live-1","creationTimestamp":"2026-11-28T11:59:50Z","annotations":{"berth.dev/container":"server"}},
			"spec":{"containers":[{"name":"server","image":"registry.example.com/a-studio-with-a-name/shooter:1",
			"env":[{"name":"BERTH_BOOTSTRAP","valueFrom":{"secretKeyRef":{"name":"live-1-abc","key":"bootstrap"}}}]}]},"status":` + c.status + `}`
		if err := json.Unmarshal([]byte(raw), &p); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s, ok := statusOf(p, patience, now)
		if !ok || s.state != c.want || s.failure != c.fails || !strings.Contains(s.words, c.says) || c.says == "" && s.words != "" {
			t.Errorf("%s: %v; want %v %v %q", name, s, c.want, c.fails, c.says)
		}
		if s, _ := statusOf(p, patience, now.Add(patience)); name == "its own secret" && (s.state != stateExited || s.failure != provider.Unavailable || !strings.Contains(s.words, "its Secret live-1-abc never came")) {
			t.Errorf("%s, for too long: %v", name, s)
		}
		p.Meta.Deleted = &now
		if s, _ := statusOf(p, patience, now); s.state != stateStopping || s.failure != 0 {
			t.Errorf("%s, deleted: %v", name, s)
		}
	}
	var p pod
	if _, ok := statusOf(p, patience, now); ok {
		t.Error("no phase at all counts as one")
	}
}
