package kubernetes

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider"
)

// What a kubelet tries again until it works is waited for, as the Pod's own Secret is; a Pod that it does not let start in time is given up, and may start elsewhere.
func TestWhatPassesByItself(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	const patience = 30 * time.Second
	for name, c := range map[string]struct{ reason, message, says string }{
		"its Secret, of a kubelet that watches": {"CreateContainerConfigError", `secret "live-1-abc" not found`, "its Secret live-1-abc never came"},
		"its Secret, of a kubelet that asks":    {"CreateContainerConfigError", `secrets "live-1-abc" not found`, "its Secret live-1-abc never came"},
		"Secrets that are not seen yet":         {"CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition", "CreateContainerConfigError, again and again: failed to sync secret cache"},
		"ConfigMaps that are not seen yet":      {"CreateContainerConfigError", "failed to sync configmap cache: timed out waiting for the condition", "failed to sync configmap cache"},
		"a node that is busy":                   {"CreateContainerError", "context deadline exceeded", "CreateContainerError, again and again: context deadline exceeded"},
		"a try that goes on": {
			"CreateContainerError", `failed to reserve container name "server_live-1_games_0": name "server_live-1_games_0" is reserved for "f6d5"`, "failed to reserve container name",
		},
	} {
		words, err := json.Marshal(c.message)
		if err != nil {
			t.Fatal(err)
		}
		var p pod
		raw := `{"metadata":{"name":"live-1","creationTimestamp":"2026-11-28T11:59:50Z","annotations":{"berth.dev/container":"server"}},
			"spec":{"containers":[{"name":"server","env":[{"name":"BERTH_BOOTSTRAP","valueFrom":{"secretKeyRef":{"name":"live-1-abc","key":"bootstrap"}}}]}]},
			"status":{"phase":"Pending","containerStatuses":[{"name":"server","state":{"waiting":{"reason":"` + c.reason + `","message":` + string(words) + `}}}]}}`
		if err := json.Unmarshal([]byte(raw), &p); err != nil {
			t.Fatal(err)
		}
		if s, _ := statusOf(p, patience, now); s.state != stateStarting || s.failure != 0 {
			t.Errorf("%s: %v", name, s)
		}
		if s, _ := statusOf(p, patience, now.Add(patience)); s.state != stateExited || s.failure != provider.Unavailable || !strings.Contains(s.words, c.says) {
			t.Errorf("%s, for too long: %v; want UNAVAILABLE with %q", name, s, c.says)
		}
	}
}
