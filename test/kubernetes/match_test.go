package kubernetes

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/test/stack"
)

func TestOnARealAPIServer(t *testing.T) {
	w := start(t)
	t.Run("a whole match", w.testMatch)
	t.Run("terminated", w.testTerminated)
	t.Run("the process is killed", w.testKilled)
	t.Run("allocation is killed", w.testAllocationKilled)
	t.Run("no node has room", w.testElsewhere)
}

// A match is made over the public API; its Pod's process links, players come to where Berth sends them, and it ends.
func (w *world) testMatch(t *testing.T) {
	w.play(t, "example")
	list, err := w.api.ListGameInstances(t.Context(), &instancev1.ListGameInstancesRequest{Namespace: "default"})
	if err != nil || len(list.GetInstances()) != 1 {
		t.Fatalf("got %v, %v", list, err)
	}
	inst := w.becomes(t, list.GetInstances()[0].GetId(), instancev1.GameInstance_STATE_ENDED)
	if e := inst.GetEndpoints(); len(e) != 1 || !strings.HasPrefix(e[0].GetHost(), "127.77.") || e[0].GetPort() != 7777 || inst.GetResult() == nil {
		t.Errorf("after the match: %v", inst)
	}
	w.empty(t)
	if seen := w.kubelet.Seen(); seen != 1 {
		t.Errorf("one match took %d Pods", seen)
	}
}

// The only Pod is that of the instance, and the only Secret is the Pod's. A server that is told to end has gone when its Pod has.
func (w *world) testTerminated(t *testing.T) {
	id := w.create(t, "hold")
	w.becomes(t, id, instancev1.GameInstance_STATE_RUNNING)
	pods, secrets := w.find(t, "pods"), w.find(t, "secrets")
	if len(pods) != 1 || len(secrets) != 1 || len(secrets[0].Metadata.OwnerReferences) != 1 || secrets[0].Metadata.OwnerReferences[0].UID != pods[0].Metadata.UID {
		t.Errorf("Pods %+v, Secrets %+v", pods, secrets)
	}
	w.terminate(t, id)
	w.empty(t)
}

func (w *world) terminate(t *testing.T, id string) {
	t.Helper()
	if _, err := w.api.TerminateGameInstance(t.Context(), &instancev1.TerminateGameInstanceRequest{Namespace: "default", InstanceId: id}); err != nil {
		t.Fatal(err)
	}
}

// A process that is killed in the middle of its match is a server that has ended, with the exit status that its kubelet reports.
func (w *world) testKilled(t *testing.T) {
	id := w.create(t, "hold")
	w.becomes(t, id, instancev1.GameInstance_STATE_RUNNING)
	pods := w.find(t, "pods")
	if len(pods) != 1 {
		t.Fatalf("got %+v", pods)
	}
	if err := w.processes.Kill("games/"+pods[0].Metadata.Name, "server"); err != nil {
		t.Fatal(err)
	}
	inst := w.becomes(t, id, instancev1.GameInstance_STATE_TERMINATED)
	if inst.GetReason() != instancev1.GameInstance_REASON_SERVER_EXITED || !strings.Contains(inst.GetMessage(), "exit status 137") {
		t.Errorf("got %s: %s", inst.GetReason(), inst.GetMessage())
	}
	w.empty(t)
}

// Allocation is killed when the API server has made the Pod, and before it hears of it. The Pod is found by its name, and there is no second one.
func (w *world) testAllocationKilled(t *testing.T) {
	before := w.kubelet.Seen()
	made, killed := make(chan struct{}), make(chan struct{})
	hook, goOn := func() { close(made); <-killed }, sync.OnceFunc(func() { close(killed) })
	defer goOn()
	w.way.made.Store(&hook)
	id := w.create(t, "hold")
	<-made
	w.Procs[stack.Allocation].Kill(t)
	goOn()
	w.Procs[stack.Allocation].Start(t)
	w.Procs[stack.Allocation].Ready(t)
	inst := w.becomes(t, id, instancev1.GameInstance_STATE_RUNNING)
	if pods := w.find(t, "pods"); len(pods) != 1 || w.kubelet.Seen() != before+1 || len(inst.GetAttempts()) != 1 {
		t.Errorf("%d Pods for it, of which are left %+v; attempts %v", w.kubelet.Seen()-before, pods, inst.GetAttempts())
	}
	w.terminate(t, id)
	w.empty(t)
}

// A Pod that no node has room for is given up, and the match is played where the next attempt of its instance goes.
func (w *world) testElsewhere(t *testing.T) {
	before := w.kubelet.Seen()
	w.play(t, "elsewhere")
	list, err := w.api.ListGameInstances(t.Context(), &instancev1.ListGameInstancesRequest{Namespace: "default", PageSize: 100})
	if err != nil {
		t.Fatal(err)
	}
	played := 0
	for _, inst := range list.GetInstances() {
		if inst.GetPlacement().GetBuild() != "elsewhere" {
			continue
		}
		played++
		inst = w.becomes(t, inst.GetId(), instancev1.GameInstance_STATE_ENDED)
		if a := inst.GetAttempts(); len(a) != 2 || a[0].GetProvider() != "full" || a[1].GetProvider() != "local" || inst.GetResult() == nil {
			t.Errorf("got %v", inst)
		}
	}
	if played != 1 || w.kubelet.Seen() != before+1 {
		t.Errorf("%d matches with %d Pods", played, w.kubelet.Seen()-before)
	}
	w.empty(t)
}

// play plays a match of three over the public API.
func (w *world) play(t *testing.T, build string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, "matchmaker"), "--build", build, "--players", "3", "--timeout", "2m")
	cmd.Env = []string{"BERTH_API=" + w.API, "BERTH_API_KEY=" + stack.APIKey}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("matchmaker: %v\n%s", err, out)
	}
}
