package kubernetes

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
)

func TestStates(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	const patience = 30 * time.Second
	for name, c := range map[string]struct {
		status string
		want   providerv1.ServerState
		says   string
	}{
		"new":                  {`{"phase":"Pending"}`, stateStarting, ""},
		"creating":             {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"ContainerCreating"}}}]}`, stateStarting, ""},
		"first pull failed":    {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"ErrImagePull","message":"no"}}}]}`, stateStarting, ""},
		"gated":                {`{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"SchedulingGated","lastTransitionTime":"2026-11-28T11:00:00Z"}]}`, stateStarting, ""},
		"no node yet":          {`{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"0/3","lastTransitionTime":"2026-11-28T11:59:31Z"}]}`, stateStarting, ""},
		"no node":              {`{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"0/3","lastTransitionTime":"2026-11-28T11:59:30Z"}]}`, stateExited, "no node has room for it since 30s: 0/3"},
		"pulls":                {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"ImagePullBackOff","message":"Back-off"}}}]}`, stateExited, "image registry.example.com/a-studio-with-a-name/shooter:1: ImagePullBackOff: Back-off"},
		"image name":           {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"InvalidImageName","message":"bad"}}}]}`, stateExited, "InvalidImageName"},
		"an init container":    {`{"phase":"Pending","initContainerStatuses":[{"name":"init","image":"i:1","state":{"waiting":{"reason":"ImagePullBackOff","message":"Back-off"}}}]}`, stateExited, "container init: image i:1"},
		"another secret":       {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"CreateContainerConfigError","message":"secret \"db\" not found"}}}]}`, stateExited, `secret "db" not found`},
		"its own secret":       {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"CreateContainerConfigError","message":"secret \"live-1\" not found"}}}]}`, stateStarting, ""},
		"no such command":      {`{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"RunContainerError","message":"exec: not found"}}}]}`, stateExited, "exec: not found"},
		"runs":                 {`{"phase":"Running","containerStatuses":[{"name":"server","state":{"running":{}}}]}`, stateRunning, ""},
		"a helper ended":       {`{"phase":"Running","containerStatuses":[{"name":"metrics","state":{"terminated":{"exitCode":1}}},{"name":"server","state":{"running":{}}}]}`, stateRunning, ""},
		"only a helper runs":   {`{"phase":"Running","containerStatuses":[{"name":"metrics","state":{"running":{}}},{"name":"server","state":{"terminated":{"exitCode":3,"reason":"Error"}}}]}`, stateExited, "container server: exit status 3, Error"},
		"killed":               {`{"phase":"Failed","containerStatuses":[{"name":"server","state":{"terminated":{"exitCode":137,"reason":"OOMKilled"}}}]}`, stateExited, "exit status 137, OOMKilled"},
		"evicted":              {`{"phase":"Failed","reason":"Evicted","message":"The node was low on resource: memory."}`, stateExited, "Evicted: The node was low on resource"},
		"failed":               {`{"phase":"Failed"}`, stateExited, "the Pod has failed"},
		"ended":                {`{"phase":"Succeeded","containerStatuses":[{"name":"server","state":{"terminated":{"exitCode":0,"reason":"Completed"}}}]}`, stateExited, "exit status 0, Completed"},
		"its node is not seen": {`{"phase":"Unknown"}`, stateRunning, ""},
		"a secret in a message": {`{"phase":"Failed","containerStatuses":[{"name":"server","state":{"terminated":{"exitCode":1,"reason":"Error","message":"token ` + strings.Repeat("x", 60) + `"}}}]}`,
			stateExited, "exit status 1, Error token …"},
	} {
		var p pod
		raw := `{"metadata":{"name":"live-1","creationTimestamp":"2026-11-28T11:59:50Z","annotations":{"berth.dev/container":"server"}},
			"spec":{"containers":[{"name":"server","image":"registry.example.com/a-studio-with-a-name/shooter:1"}]},"status":` + c.status + `}`
		if err := json.Unmarshal([]byte(raw), &p); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		state, words, ok := stateOf(p, patience, now)
		if !ok || state != c.want || !strings.Contains(words, c.says) || c.says == "" && words != "" {
			t.Errorf("%s: %v %q; want %v %q", name, state, words, c.want, c.says)
		}
		p.Meta.Deleted = &now
		if state, _, _ := stateOf(p, patience, now); state != stateStopping {
			t.Errorf("%s, deleted: %v", name, state)
		}
	}
	var p pod
	if _, _, ok := stateOf(p, patience, now); ok {
		t.Error("no phase at all counts as one")
	}
}
