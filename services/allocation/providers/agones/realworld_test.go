package agones_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kubernetesapi "github.com/berth-dev/berth/test/hosts/kubernetes"
	"github.com/berth-dev/berth/test/hosts/kubetest"
	"github.com/berth-dev/berth/test/hosts/standin"
)

// object is an object of the API.
type object = kubetest.Object

// namespaces are those with a fleet "shooter", of which that many GameServers are ready.
var namespaces = map[string]int{"games": 3, "games-us": 2}

// realAgones is what Agones has in a cluster, as far as Berth sees it: the custom resources, a controller that keeps GameServers ready and ends those that are
// deleted, and the extension server that allocates. Objects are in the API server only. It is safe for concurrent use.
type realAgones struct {
	*kubetest.Cluster

	t       *testing.T
	servers *standin.Servers
	breaks  atomic.Bool // the extension server breaks off when it has allocated
	mu      sync.Mutex
	made    int
	stops   map[string]func() // of the servers, by UID of their GameServer
}

// startAgones starts it.
func startAgones(t *testing.T, servers *standin.Servers) *realAgones {
	t.Helper()
	a := &realAgones{Cluster: kubetest.Start(t), t: t, servers: servers, stops: make(map[string]func())}
	a.Namespaces("berth", "games", "games-us", "agones-system")
	for kind, plural := range map[string]string{"GameServer": "gameservers", "Fleet": "fleets"} {
		name := plural + ".agones.dev"
		a.Do(http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition(kind, plural), nil)
		a.Wait(name, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"+name, "Established")
	}
	for _, err := a.list(t.Context()); err != nil; _, err = a.list(t.Context()) { // its storage is "(re)initializing" for a moment
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	for namespace, ready := range namespaces {
		a.Do(http.MethodPost, "/apis/agones.dev/v1/namespaces/"+namespace+"/fleets", object{
			"apiVersion": "agones.dev/v1", "kind": "Fleet", "metadata": object{"name": "shooter"}, "spec": object{"replicas": ready},
		}, nil)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /apis/allocation.agones.dev/v1", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, object{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "allocation.agones.dev/v1", "resources": []object{
			{"name": "gameserverallocations", "singularName": "gameserverallocation", "namespaced": true, "kind": "GameServerAllocation", "verbs": []string{"create"}},
		}})
	})
	mux.HandleFunc("POST /apis/allocation.agones.dev/v1/namespaces/{namespace}/gameserverallocations", a.allocation)
	a.Extend("agones-system", "agones-controller-service", "allocation.agones.dev", "v1", mux)
	a.look(t.Context()) // fills the fleets
	kubetest.Loop(t, a.look)
	return a
}

// definition is a custom resource with the members that Berth reads, as Agones types them. There is no status subresource.
func definition(kind, plural string) object {
	text, number := object{"type": "string"}, object{"type": "integer"}
	list := func(members object) object {
		return object{"type": "array", "items": object{"type": "object", "properties": members, "x-kubernetes-preserve-unknown-fields": true}}
	}
	return object{
		"metadata": object{"name": plural + ".agones.dev"}, "spec": object{
			"group": "agones.dev", "scope": "Namespaced", "names": object{"kind": kind, "plural": plural}, "versions": []object{{
				"name": "v1", "served": true, "storage": true, "schema": object{"openAPIV3Schema": object{"type": "object", "properties": object{
					"spec": object{"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": object{
						"replicas": number, "ports": list(object{"name": text, "portPolicy": text, "containerPort": number, "hostPort": number, "protocol": text}),
					}},
					"status": object{"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": object{
						"state": text, "address": text, "nodeName": text, "ports": list(object{"name": text, "port": number}),
					}},
				}}},
			}},
		},
	}
}

// gameServer is what Agones looks at.
type gameServer struct {
	Metadata struct {
		Name, Namespace, UID, ResourceVersion string
		Labels, Annotations                   map[string]string
		DeletionTimestamp                     *time.Time
	}
	Status struct {
		State, Address, NodeName string
		Ports                    []object
	}
}

func (g gameServer) path() string {
	return "/apis/agones.dev/v1/namespaces/" + g.Metadata.Namespace + "/gameservers/" + g.Metadata.Name
}

func (a *realAgones) list(ctx context.Context) ([]gameServer, error) {
	var found struct{ Items []gameServer }
	_, err := a.Call(ctx, http.MethodGet, "/apis/agones.dev/v1/gameservers", nil, &found)
	return found.Items, err
}

// look is the controller: it refills the fleets, and ends what was deleted: its finalizer keeps that until the server has stopped.
func (a *realAgones) look(ctx context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all, err := a.list(ctx)
	if err != nil {
		a.fault(ctx, err)
		return
	}
	ready := make(map[string]int)
	for _, g := range all {
		switch {
		case g.Metadata.DeletionTimestamp != nil:
			if stop := a.stops[g.Metadata.UID]; stop != nil {
				stop()
			}
			if code, err := a.Call(ctx, http.MethodPatch, g.path(), object{"metadata": object{"finalizers": nil}}, nil); err != nil && code != http.StatusNotFound {
				a.fault(ctx, err)
			}
		case g.Status.State == "Ready":
			ready[g.Metadata.Namespace]++
		}
	}
	for namespace, want := range namespaces {
		for n := ready[namespace]; n < want; n++ {
			a.refill(ctx, namespace)
		}
	}
}

func (a *realAgones) refill(ctx context.Context, namespace string) {
	a.made++
	_, err := a.Call(ctx, http.MethodPost, "/apis/agones.dev/v1/namespaces/"+namespace+"/gameservers", object{
		"apiVersion": "agones.dev/v1", "kind": "GameServer", "metadata": object{
			"name": fmt.Sprintf("shooter-x7k2p-%05d", a.made), "labels": object{"agones.dev/fleet": "shooter"}, "finalizers": []string{"agones.dev/controller"},
		},
		"spec": object{"ports": []object{{"name": "game", "portPolicy": "Dynamic", "containerPort": 7777, "hostPort": 7000 + a.made, "protocol": "UDP"}}},
		"status": object{
			"state": "Ready", "address": "198.51.100.7", "nodeName": "node-1", "ports": []object{{"name": "game", "port": 7000 + a.made}},
		},
	}, nil)
	if err != nil {
		a.fault(ctx, err)
	}
}

// fault is what must not happen, unless all is at its end.
func (a *realAgones) fault(ctx context.Context, err error) {
	if ctx.Err() == nil {
		a.t.Errorf("Agones: %v", err)
	}
}

// allocation is the extension server: the API server has checked who calls and what that may do. Each request is given a GameServer of its own.
func (a *realAgones) allocation(w http.ResponseWriter, r *http.Request) {
	var in struct {
		APIVersion, Kind string
		Spec             struct {
			Selectors []struct{ MatchLabels map[string]string }
			Metadata  struct{ Labels, Annotations map[string]string }
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Kind != "GameServerAllocation" || len(in.Spec.Selectors) == 0 {
		answer(w, http.StatusBadRequest, object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "BadRequest", "message": "no GameServerAllocation", "code": 400})
		return
	}
	if user := r.Header.Get("X-Remote-User"); user != kubernetesapi.User {
		a.t.Errorf("the extension server is called for %q", user)
	}
	ctx := context.WithoutCancel(r.Context()) // once begun it is done, whether or not somebody waits for the answer
	a.mu.Lock()
	defer a.mu.Unlock()
	all, err := a.list(ctx)
	if err != nil {
		a.fault(ctx, err)
		panic(http.ErrAbortHandler)
	}
	status := object{"state": "UnAllocated", "gameServerName": "", "source": "local"}
	for _, g := range all {
		if g.Metadata.Namespace != r.PathValue("namespace") || g.Status.State != "Ready" || g.Metadata.DeletionTimestamp != nil || !has(g.Metadata.Labels, in.Spec.Selectors[0].MatchLabels) {
			continue
		}
		annotations := object{"agones.dev/last-allocated": time.Now().UTC().Format(time.RFC3339Nano)}
		for k, v := range in.Spec.Metadata.Annotations {
			annotations[k] = v
		}
		code, err := a.Call(ctx, http.MethodPatch, g.path(), object{ // of that version: another one may have taken it
			"metadata": object{"resourceVersion": g.Metadata.ResourceVersion, "labels": in.Spec.Metadata.Labels, "annotations": annotations}, "status": object{"state": "Allocated"},
		}, nil)
		switch {
		case code == http.StatusConflict:
			continue
		case err != nil:
			answer(w, code, object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "message": err.Error(), "code": code})
			return
		}
		a.stops[g.Metadata.UID] = a.servers.Start([]byte(in.Spec.Metadata.Annotations["berth.dev/bootstrap"]), nil)
		status = object{"state": "Allocated", "gameServerName": g.Metadata.Name, "ports": g.Status.Ports, "address": g.Status.Address, "nodeName": g.Status.NodeName, "source": "local"}
		break
	}
	if a.breaks.Load() {
		panic(http.ErrAbortHandler)
	}
	answer(w, http.StatusCreated, object{"kind": in.Kind, "apiVersion": in.APIVersion, "metadata": object{"namespace": r.PathValue("namespace")}, "spec": in.Spec, "status": status})
}

func has(labels, want map[string]string) bool {
	for k, v := range want {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}
