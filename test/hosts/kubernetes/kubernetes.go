// Package kubernetes stands in for the API server of a Kubernetes cluster, with a scheduler and a kubelet that are just enough for Pods that are game servers.
// Objects are kept as the JSON that came. Each rule names where it is from: the API concepts and Pod lifecycle pages of kubernetes.io, the reasons of a Status in
// k8s.io/apimachinery, or a run against a real API server 1.36. What is only assumed is said to be an assumption.
package kubernetes

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berth-dev/berth/test/hosts/standin"
)

// User is whom the API server takes the caller for.
const User = "system:serviceaccount:berth:berth-allocation"

// Node is a machine of the cluster.
type Node struct {
	// Name of the node.
	Name string
	// Labels for node selectors.
	Labels map[string]string
	// Addresses by their type, such as ExternalIP. InternalIP is the Pods' hostIP.
	Addresses map[string]string
	// Full has its kubelet reject Pods that are scheduled to it: it knows of more that runs there than the scheduler does.
	Full bool
}

// Config configures a stand-in.
type Config struct {
	// Token is the caller's bearer token. A client certificate is good, too, if there is one.
	Token string
	// Namespaces that there are.
	Namespaces []string
	// Nodes that there are.
	Nodes []Node
	// Pods is how many Pods the quota of a namespace allows; none: there is no quota.
	Pods map[string]int
	// Allow says what the caller's role allows; nil: all.
	Allow func(verb, resource, namespace string) bool
	// NoImages are images that no registry has.
	NoImages []string
	// Page is how many items a page of a list has at most: "the server may return fewer than the limit". 0: as many as the limit says.
	Page int
	// Age is how long ago everything happened, as timestamps say.
	Age time.Duration
	// Run runs the servers; nil: they are only said to run.
	Run standin.Run
}

// New returns the stand-in.
func New(cfg Config) *standin.Host {
	a := &api{cfg: cfg, servers: standin.NewServers(cfg.Run), pods: make(map[string]*pod), secrets: make(map[string]object), orphans: make(map[string]int)}
	mux := http.NewServeMux()
	for _, route := range []struct {
		method, path, verb, resource string
		handle                       func(w http.ResponseWriter, r *http.Request)
	}{
		{"POST", "/api/v1/namespaces/{namespace}/pods", "create", "pods", a.createPod},
		{"GET", "/api/v1/namespaces/{namespace}/pods", "list", "pods", a.listPods},
		{"GET", "/api/v1/namespaces/{namespace}/pods/{name}", "get", "pods", a.getPod},
		{"DELETE", "/api/v1/namespaces/{namespace}/pods/{name}", "delete", "pods", a.deletePod},
		{"POST", "/api/v1/namespaces/{namespace}/secrets", "create", "secrets", a.createSecret},
		{"GET", "/api/v1/namespaces/{namespace}/secrets/{name}", "get", "secrets", a.getSecret},
		{"GET", "/api/v1/nodes/{name}", "get", "nodes", a.getNode},
	} {
		mux.HandleFunc(route.method+" "+route.path, a.allowed(route.verb, route.resource, route.handle))
	}
	return standin.New(standin.Dialect{
		Creates: func(r *http.Request) bool {
			return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/pods")
		},
		Throttled: throttled,
		OverQuota: func(w http.ResponseWriter, _ *http.Request) {
			forbid(w, "pods", "berth-x", "exceeded quota: games, requested: pods=1, used: pods=50, limited: pods=50")
		},
		Refused: unauthorized,
	}, a.servers, mux)
}

// object is an object of the API.
type object = map[string]any

// at returns a member of a member, or nil.
func at(o any, path ...string) any {
	for _, name := range path {
		m, _ := o.(object)
		o = m[name]
	}
	return o
}

func text(o any, path ...string) string {
	s, _ := at(o, path...).(string)
	return s
}

type api struct {
	cfg     Config
	servers *standin.Servers
	mu      sync.Mutex
	pods    map[string]*pod // by namespace/name
	secrets map[string]object
	version int            // of the last change
	orphans map[string]int // by the UID of the owner that is gone: for how many calls its Secrets are still there
}

// orphaned is for how many calls a Secret outlives its owner: dependents are deleted in the background, later than the owner. How much later is an assumption.
const orphaned = 3

func (a *api) now() time.Time { return time.Now().Add(-a.cfg.Age) }

// stamp is a time as the API has it: whole seconds (metav1.Time).
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// created fills in what the server sets: "UID, resourceVersion, creationTimestamp are read-only and set by the system".
func (a *api) created(o object, namespace string) {
	a.version++
	meta, _ := o["metadata"].(object)
	meta["namespace"], meta["uid"] = namespace, fmt.Sprintf("5c1ad1a6-2e35-4a8e-9c1d-%012d", a.version)
	meta["resourceVersion"], meta["creationTimestamp"] = strconv.Itoa(a.version), stamp(a.now())
}

// allowed wants credentials (401 without), then a role that has the verb (403), under one lock for all: etcd's order of changes.
func (a *api) allowed(verb, resource string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		certificate := r.TLS != nil && len(r.TLS.PeerCertificates) > 0
		if !certificate && r.Header.Get("Authorization") != "Bearer "+a.cfg.Token {
			unauthorized(w, r)
			return
		}
		namespace, name := r.PathValue("namespace"), r.PathValue("name")
		if a.cfg.Allow != nil && !a.cfg.Allow(verb, resource, namespace) {
			scope := "at the cluster scope"
			if namespace != "" {
				scope = fmt.Sprintf("in the namespace %q", namespace)
			}
			forbid(w, resource, name, fmt.Sprintf("User %q cannot %s resource %q in API group \"\" %s", User, verb, resource, scope))
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.collect()
		if verb == "create" && !slices.Contains(a.cfg.Namespaces, namespace) { // the NamespaceLifecycle admission plugin
			missing(w, "namespaces", namespace)
			return
		}
		next(w, r)
	}
}

func (a *api) createPod(w http.ResponseWriter, r *http.Request) {
	o, ok := decode(w, r, "Pod")
	if !ok {
		return
	}
	namespace, name := r.PathValue("namespace"), text(o, "metadata", "name")
	if problems := checkPod(o); len(problems) > 0 {
		invalid(w, "Pod", name, problems)
		return
	}
	if limit, ok := a.cfg.Pods[namespace]; ok && a.count(namespace) >= limit { // admission comes before the name is looked at
		forbid(w, "pods", name, fmt.Sprintf("exceeded quota: %s, requested: pods=1, used: pods=%d, limited: pods=%d", namespace, a.count(namespace), limit))
		return
	}
	if a.pods[namespace+"/"+name] != nil {
		exists(w, "pods", name)
		return
	}
	a.created(o, namespace)
	defaults(o)
	p := &pod{object: o}
	p.status(object{"phase": "Pending", "qosClass": "BestEffort"})
	a.pods[namespace+"/"+name] = p
	answer(w, http.StatusCreated, o)
	a.start(p)
}

// count is how many Pods of a namespace count for its quota: those that have not ended.
func (a *api) count(namespace string) int {
	n := 0
	for key, p := range a.pods {
		if strings.HasPrefix(key, namespace+"/") && p.phase() != "Succeeded" && p.phase() != "Failed" {
			n++
		}
	}
	return n
}

func (a *api) getPod(w http.ResponseWriter, r *http.Request) {
	key := r.PathValue("namespace") + "/" + r.PathValue("name")
	if p := a.pods[key]; p != nil {
		a.step(key, p)
	}
	if p := a.pods[key]; p != nil {
		answer(w, http.StatusOK, p.object)
		return
	}
	missing(w, "pods", r.PathValue("name"))
}

// deletePod is a graceful deletion: the object stays, with a deletionTimestamp, until its kubelet has ended the containers; one without a node, or a grace period
// of 0, is gone at once.
func (a *api) deletePod(w http.ResponseWriter, r *http.Request) {
	options, ok := decode(w, r, "DeleteOptions")
	if !ok {
		return
	}
	key := r.PathValue("namespace") + "/" + r.PathValue("name")
	p := a.pods[key]
	if p == nil {
		missing(w, "pods", r.PathValue("name"))
		return
	}
	if want, is := text(options, "preconditions", "uid"), text(p.object, "metadata", "uid"); want != "" && want != is {
		refuse(w, http.StatusConflict, "Conflict", fmt.Sprintf("Operation cannot be fulfilled on pods %q: Precondition failed: UID in precondition: %s, UID in object meta: %s",
			r.PathValue("name"), want, is), object{"name": r.PathValue("name"), "kind": "pods"})
		return
	}
	grace, given := options["gracePeriodSeconds"].(float64)
	if !given {
		grace, _ = at(p.object, "spec", "terminationGracePeriodSeconds").(float64)
	}
	if p.stop != nil {
		p.stop()
	}
	meta, _ := p.object["metadata"].(object)
	meta["deletionTimestamp"], meta["deletionGracePeriodSeconds"] = stamp(a.now().Add(time.Duration(grace)*time.Second)), grace
	answer(w, http.StatusOK, p.object)
	if grace == 0 || text(p.object, "spec", "nodeName") == "" {
		a.remove(key)
	}
}

// remove removes a Pod; what it owns is collected later.
func (a *api) remove(key string) {
	a.orphans[text(a.pods[key].object, "metadata", "uid")] = orphaned
	delete(a.pods, key)
}

// collect is garbage collection of dependents whose owners are gone.
func (a *api) collect() {
	for uid := range a.orphans {
		if a.orphans[uid]--; a.orphans[uid] > 0 {
			continue
		}
		delete(a.orphans, uid)
		maps.DeleteFunc(a.secrets, func(_ string, s object) bool {
			return slices.ContainsFunc(list(s, "metadata", "ownerReferences"), func(o any) bool { return text(o, "uid") == uid })
		})
	}
}

func (a *api) createSecret(w http.ResponseWriter, r *http.Request) {
	o, ok := decode(w, r, "Secret")
	if !ok {
		return
	}
	namespace, name := r.PathValue("namespace"), text(o, "metadata", "name")
	if problems := checkSecret(o); len(problems) > 0 {
		invalid(w, "Secret", name, problems)
		return
	}
	if a.secrets[namespace+"/"+name] != nil {
		exists(w, "secrets", name)
		return
	}
	if r.URL.Query().Get("dryRun") == "All" { // "all stages run as normal except for the final persisting"
		answer(w, http.StatusCreated, o)
		return
	}
	a.created(o, namespace)
	a.secrets[namespace+"/"+name] = o
	answer(w, http.StatusCreated, o)
	for _, p := range a.pods {
		a.start(p)
	}
}

func (a *api) getSecret(w http.ResponseWriter, r *http.Request) {
	if s := a.secrets[r.PathValue("namespace")+"/"+r.PathValue("name")]; s != nil {
		answer(w, http.StatusOK, s)
		return
	}
	missing(w, "secrets", r.PathValue("name"))
}

func (a *api) getNode(w http.ResponseWriter, r *http.Request) {
	for _, n := range a.cfg.Nodes {
		if n.Name == r.PathValue("name") {
			list := []any{object{"type": "Hostname", "address": n.Name}}
			for _, kind := range slices.Sorted(maps.Keys(n.Addresses)) {
				list = append(list, object{"type": kind, "address": n.Addresses[kind]})
			}
			answer(w, http.StatusOK, object{"kind": "Node", "apiVersion": "v1", "metadata": object{"name": n.Name, "labels": n.Labels}, "status": object{"addresses": list}})
			return
		}
	}
	missing(w, "nodes", r.PathValue("name"))
}
