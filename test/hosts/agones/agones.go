// Package agones stands in for a cluster with Agones: the API server's GameServers and GameServerAllocations, and both sides of agones-allocator, gRPC and REST,
// over the same fleets. The rules are from Agones' API description, from its source (1.57, 1.60), and from runs of its binaries. What is only assumed is said to be an
// assumption.
package agones

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berth-dev/berth/test/hosts/standin"
)

// Fleet is one of GameServers that are all alike. It fills up again at once.
type Fleet struct {
	// Namespace and Name of the fleet.
	Namespace, Name string
	// Ready is how many GameServers wait to be allocated.
	Ready int
	// Labels of its GameServers, beside the fleet's name.
	Labels map[string]string
}

// Config configures a stand-in.
type Config struct {
	// Token is the caller's bearer token at the API server.
	Token string
	// Fleets that there are.
	Fleets []Fleet
	// Rights are what the caller's roles allow; nil: all.
	Rights *Rights
	// Page is how many items a page of a list has at most; 0: as many as the limit says.
	Page int
	// Contention is how many of the next allocations meet too many others.
	Contention int
	// Run runs the servers; nil: they are only said to run.
	Run standin.Run
}

// object is an object of the API.
type object = map[string]any

type gameServer struct {
	namespace, name, uid string
	version              int // of the object: each change makes it another
	labels, annotations  map[string]string
	state                string
	deleted              string // when; empty: nobody did
	looks                int    // since it was deleted
	port                 int
	stop                 func()
}

// Agones is the stand-in. It is safe for concurrent use.
type Agones struct {
	*standin.Host

	cfg     Config
	api     http.Handler // both sides of the allocator, and the API server
	servers *standin.Servers
	mu      sync.Mutex
	all     []*gameServer
	made    int
	changes int
}

// New returns the stand-in. With a bearer token a caller may use the API server; at the allocator counts the client certificate, which the TLS server in front checks.
func New(cfg Config) *Agones {
	a := &Agones{cfg: cfg, servers: standin.NewServers(cfg.Run)}
	a.refill()
	mux := http.NewServeMux()
	const servers = "/apis/agones.dev/v1/namespaces/{namespace}/gameservers"
	mux.HandleFunc("POST /apis/allocation.agones.dev/v1/namespaces/{namespace}/gameserverallocations", a.allowed("create", "allocation.agones.dev", "gameserverallocations", a.allocation))
	mux.HandleFunc("GET "+servers, a.allowed("list", "agones.dev", "gameservers", a.list))
	mux.HandleFunc("GET "+servers+"/{name}", a.allowed("get", "agones.dev", "gameservers", a.get))
	mux.HandleFunc("DELETE "+servers+"/{name}", a.allowed("delete", "agones.dev", "gameservers", a.delete))
	mux.HandleFunc("POST "+allocatorPath, a.allocator)
	a.api = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isGRPC(r) { // both sides are on one port, and told apart by that (src)
			a.call(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
	a.Host = standin.New(standin.Dialect{Creates: creates, Throttled: throttled, Full: full, Refused: refused, Away: away}, a.servers, a.api)
	return a
}

// creates reports whether a request asks for a server.
func creates(r *http.Request) bool { return r.Method == http.MethodPost }

// changed makes another version of an object.
func (a *Agones) changed(g *gameServer) {
	a.changes++
	g.version = a.changes
}

// refill makes GameServers until each fleet has as many as are to be ready: "fleet refills at once" (ran).
func (a *Agones) refill() {
	for _, f := range a.cfg.Fleets {
		ready := 0
		for _, g := range a.all {
			if g.namespace == f.Namespace && g.labels["agones.dev/fleet"] == f.Name && g.state == "Ready" {
				ready++
			}
		}
		for ; ready < f.Ready; ready++ {
			a.made++
			labels := map[string]string{"agones.dev/fleet": f.Name}
			for k, v := range f.Labels {
				labels[k] = v
			}
			g := &gameServer{
				namespace: f.Namespace, name: fmt.Sprintf("%s-x7k2p-%05d", f.Name, a.made), uid: fmt.Sprintf("5c1ad1a6-2e35-4a8e-9c1d-%012d", a.made),
				labels: labels, annotations: map[string]string{}, state: "Ready", port: 7000 + a.made%1000,
			}
			a.changed(g)
			a.all = append(a.all, g)
		}
	}
}

// selector and patch are the parts that both ways of allocating have.
type selector struct {
	MatchLabels map[string]string `json:"matchLabels"`
}

type patch struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// outcome is what became of an allocation.
type outcome struct {
	server *gameServer // nil: none
	state  string
	wrong  string // why the request cannot be
}

// take allocates. Each request is given a GameServer of its own: there is no idempotency (src). A caller that has gone before its turn is given none, which is
// kinder than a real allocator, where it may be in a batch already: a test that counts what was started could not say how many there are.
func (a *Agones) take(ctx context.Context, namespace string, selectors []selector, p patch) outcome {
	if ctx.Err() != nil {
		return outcome{wrong: "context canceled"}
	}
	if wrong := check(p); wrong != "" {
		return outcome{wrong: wrong}
	}
	if a.cfg.Contention > 0 {
		a.cfg.Contention--
		return outcome{state: "Contention"}
	}
	if len(selectors) == 0 { // "an empty selector matches all"
		selectors = []selector{{}}
	}
	for _, s := range selectors {
		for _, g := range a.all {
			if g.namespace != namespace || g.state != "Ready" || g.deleted != "" || !matches(g.labels, s.MatchLabels) {
				continue
			}
			for k, v := range p.Labels {
				g.labels[k] = v
			}
			for k, v := range p.Annotations {
				g.annotations[k] = v
			}
			g.state, g.annotations["agones.dev/last-allocated"] = "Allocated", time.Now().UTC().Format(time.RFC3339Nano)
			a.changed(g)
			g.stop = a.servers.Start([]byte(p.Annotations["berth.dev/bootstrap"]), func() { a.shutdown(g) })
			a.refill()
			return outcome{server: g, state: "Allocated"}
		}
	}
	return outcome{state: "UnAllocated"}
}

func matches(labels, want map[string]string) bool {
	for k, v := range want {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// shutdown is a server that called SDK.Shutdown(): its GameServer is deleted.
func (a *Agones) shutdown(g *gameServer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g.state, g.deleted = "Shutdown", time.Now().UTC().Format(time.RFC3339)
	a.changed(g)
}

// Set puts all GameServers of an attempt into a state, as a plain update does: GameServers have no status subresource (ran).
func (a *Agones) Set(attempt, state string) {
	a.update(attempt, func(g *gameServer) { g.state = state })
}

// Label gives all GameServers of an attempt a label, as their own servers, controllers and a later allocation do.
func (a *Agones) Label(attempt, key, value string) {
	a.update(attempt, func(g *gameServer) { g.labels[key] = value })
}

func (a *Agones) update(attempt string, change func(*gameServer)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, g := range a.all {
		if g.labels["berth.dev/attempt"] == attempt {
			change(g)
			a.changed(g)
		}
	}
}

// Names are those of the GameServers with the attempt's label, which nobody deleted.
func (a *Agones) Names(attempt string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for _, g := range a.all {
		if g.labels["berth.dev/attempt"] == attempt && g.deleted == "" {
			out = append(out, g.name)
		}
	}
	return out
}

// There reports whether there is a GameServer of that namespace/name that nobody deleted.
func (a *Agones) There(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.all, func(g *gameServer) bool { return g.namespace+"/"+g.name == id && g.deleted == "" })
}

func (g *gameServer) object() object {
	meta := object{"name": g.name, "namespace": g.namespace, "uid": g.uid, "labels": g.labels, "annotations": g.annotations, "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": strconv.Itoa(g.version)}
	if g.deleted != "" {
		meta["deletionTimestamp"] = g.deleted
	}
	return object{
		"apiVersion": "agones.dev/v1", "kind": "GameServer", "metadata": meta,
		"spec":   object{"ports": []object{{"name": "game", "portPolicy": "Dynamic", "containerPort": 7777, "protocol": "UDP"}, {"name": "query", "containerPort": 27015, "protocol": "TCP"}}},
		"status": object{"state": g.state, "address": "198.51.100.7", "nodeName": "node-1", "ports": g.ports()},
	}
}

func (g *gameServer) ports() []object {
	return []object{{"name": "game", "port": g.port}, {"name": "query", "port": g.port + 1000}}
}

// gone drops what its controller has finished with: a finalizer (agones.dev/controller) keeps a deleted GameServer until its Pod is gone.
func (a *Agones) gone() {
	a.all = slices.DeleteFunc(a.all, func(g *gameServer) bool {
		if g.deleted != "" {
			g.looks++
		}
		return g.looks > 1
	})
}

func (a *Agones) list(w http.ResponseWriter, r *http.Request) {
	a.gone()
	query := r.URL.Query()
	limit, _ := strconv.Atoi(query.Get("limit"))
	if a.cfg.Page > 0 && (limit == 0 || a.cfg.Page < limit) {
		limit = a.cfg.Page
	}
	slices.SortFunc(a.all, func(x, y *gameServer) int { return strings.Compare(x.name, y.name) }) // the order of a list
	items, next := []object{}, ""
	for _, g := range a.all {
		if g.namespace != r.PathValue("namespace") || g.name < query.Get("continue") || !selected(g.labels, query.Get("labelSelector")) {
			continue
		}
		if limit > 0 && len(items) == limit {
			next = g.name
			break
		}
		items = append(items, g.object())
	}
	answer(w, http.StatusOK, object{"apiVersion": "agones.dev/v1", "kind": "GameServerList", "metadata": object{"resourceVersion": "1", "continue": next}, "items": items})
}

func (a *Agones) named(r *http.Request) *gameServer {
	for _, g := range a.all {
		if g.namespace == r.PathValue("namespace") && g.name == r.PathValue("name") {
			return g
		}
	}
	return nil
}

func (a *Agones) get(w http.ResponseWriter, r *http.Request) {
	a.gone()
	if g := a.named(r); g != nil {
		answer(w, http.StatusOK, g.object())
		return
	}
	missing(w, r.PathValue("name"))
}

func (a *Agones) delete(w http.ResponseWriter, r *http.Request) {
	var options struct {
		Kind          string `json:"kind"`
		Preconditions struct {
			UID     string `json:"uid"`
			Version string `json:"resourceVersion"`
		} `json:"preconditions"`
	}
	raw, _ := io.ReadAll(r.Body)
	if json.Unmarshal(raw, &options) != nil || options.Kind != "DeleteOptions" {
		refuse(w, http.StatusBadRequest, "BadRequest", "converting to v1.DeleteOptions: unknown kind", nil)
		return
	}
	g := a.named(r)
	if g == nil {
		missing(w, r.PathValue("name"))
		return
	}
	version := strconv.Itoa(g.version)
	for _, is := range []struct{ what, want, have string }{{"UID", options.Preconditions.UID, g.uid}, {"ResourceVersion", options.Preconditions.Version, version}} {
		if is.want != "" && is.want != is.have {
			refuse(w, http.StatusConflict, "Conflict", fmt.Sprintf("Operation cannot be fulfilled on gameservers.agones.dev %q: the %s in the precondition (%s) does not match the %[2]s in record (%s)", g.name, is.what, is.want, is.have), object{"kind": "gameservers"})
			return
		}
	}
	if g.deleted == "" {
		g.deleted = time.Now().UTC().Format(time.RFC3339)
		a.changed(g)
		if g.stop != nil {
			g.stop()
		}
	}
	answer(w, http.StatusOK, g.object())
}
