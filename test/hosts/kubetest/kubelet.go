package kubetest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// lookEvery is how often a controller looks at its objects.
const lookEvery = 50 * time.Millisecond

// Config configures a Kubelet.
type Config struct {
	// Images are those that there are in registries.
	Images []string
	// Full are the nodes whose kubelet rejects what is scheduled to them.
	Full []string
	// Run starts containers.
	Run Runtime
}

// Kubelet is that of all nodes, and the scheduler and the garbage collector of the cluster, as far as game servers need them: nodeSelector and host ports;
// commands, and variables of values, of Secrets and of fields; no volumes, no init containers, no probes, no restarts. It is safe for concurrent use.
type Kubelet struct {
	c   *Cluster
	cfg Config
	t   testing.TB

	mu    sync.Mutex
	pods  map[string]*sandbox // by UID
	made  int                 // sandboxes
	nodes []node
}

// sandbox is a Pod on its node.
type sandbox struct {
	ip      string
	started bool
	running []Running // as in the Pod's spec
	exits   []*int    // exit statuses, as in the Pod's spec; nil: it runs
	said    string    // the last status that was written
}

// StartKubelet starts one. With the test it kills what still runs, and waits for its end.
func StartKubelet(t testing.TB, c *Cluster, cfg Config) *Kubelet {
	t.Helper()
	k := &Kubelet{c: c, cfg: cfg, t: t, pods: make(map[string]*sandbox)}
	t.Cleanup(func() { // after the loop
		for _, s := range k.pods {
			s.kill()
			s.wait()
		}
	})
	Loop(t, k.Look)
	return k
}

// Loop is that of a controller: it calls look again and again until the end of the test, and waits for the last call.
func Loop(t testing.TB, look func(context.Context)) {
	ctx, stop := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() {
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				look(ctx)
			}
		}
	})
	t.Cleanup(func() { stop(); loop.Wait() })
}

// Seen returns how many Pods there ever were.
func (k *Kubelet) Seen() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.made
}

// Look looks at all Pods once, and does what is to be done.
func (k *Kubelet) Look(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var nodes struct{ Items []node }
	var pods struct{ Items []pod }
	if _, err := k.c.Call(ctx, http.MethodGet, "/api/v1/nodes", nil, &nodes); err != nil {
		k.fault(ctx, err)
		return
	}
	if _, err := k.c.Call(ctx, http.MethodGet, "/api/v1/pods", nil, &pods); err != nil {
		k.fault(ctx, err)
		return
	}
	k.nodes = nodes.Items
	there := make(map[string]bool)
	for n := range pods.Items {
		p := &pods.Items[n]
		there[p.Metadata.UID] = true
		if k.pods[p.Metadata.UID] == nil {
			k.made++
			k.pods[p.Metadata.UID] = &sandbox{ip: fmt.Sprintf("127.77.%d.%d", k.made/250, k.made%250+1)}
		}
		k.look(ctx, p, pods.Items)
	}
	for uid, s := range k.pods {
		if there[uid] {
			continue
		}
		s.kill() // deleted without grace
		if s.collect(); s.ended() {
			delete(k.pods, uid)
		}
	}
	k.collect(ctx)
}

// fault is what must not happen, unless all is at its end.
func (k *Kubelet) fault(ctx context.Context, err error) {
	if ctx.Err() == nil {
		k.t.Errorf("kubelet: %v", err)
	}
}

// look does the next thing with a Pod.
func (k *Kubelet) look(ctx context.Context, p *pod, all []pod) {
	s := k.pods[p.Metadata.UID]
	s.collect()
	switch {
	case p.Metadata.DeletionTimestamp != nil:
		if s.stop(); s.ended() {
			k.remove(ctx, p)
		}
	case p.over():
	case p.Spec.NodeName == "" && !k.schedule(ctx, p, all):
	case slices.Contains(k.cfg.Full, p.Spec.NodeName):
		k.reject(ctx, p)
	case !s.started:
		k.start(ctx, p, s)
	default:
		k.report(ctx, p, s)
	}
}

// remove deletes a Pod for good, and no other one of that name.
func (k *Kubelet) remove(ctx context.Context, p *pod) {
	status, err := k.c.Call(ctx, http.MethodDelete, p.path(), Object{
		"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": Object{"uid": p.Metadata.UID},
	}, nil)
	if err != nil && !gone(status) {
		k.fault(ctx, err)
	}
}

// schedule finds a node for a Pod, or says why there is none.
func (k *Kubelet) schedule(ctx context.Context, p *pod, all []pod) bool {
	wrong, taken := 0, 0
	for _, n := range k.nodes {
		switch {
		case !matches(p.Spec.NodeSelector, n.Metadata.Labels):
			wrong++
		case slices.ContainsFunc(all, func(other pod) bool {
			return other.Metadata.UID != p.Metadata.UID && other.Spec.NodeName == n.Metadata.Name && !other.over() && other.holds(*p)
		}):
			taken++
		default:
			status, err := k.c.Call(ctx, http.MethodPost, p.path()+"/binding", Object{
				"metadata": Object{"name": p.Metadata.Name, "uid": p.Metadata.UID}, "target": Object{"kind": "Node", "name": n.Metadata.Name},
			}, nil)
			if err != nil {
				if !gone(status) {
					k.fault(ctx, err)
				}
				return false
			}
			p.Spec.NodeName = n.Metadata.Name
			return true
		}
	}
	for _, c := range p.Status.Conditions {
		if c["type"] == "PodScheduled" { // its lastTransitionTime stays
			return false
		}
	}
	k.write(ctx, p, Object{"conditions": []Object{{
		"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": stamp(time.Now()),
		"message": fmt.Sprintf("0/%d nodes are available: %d node(s) didn't have free ports for the requested pod ports, %d node(s) didn't match Pod's node affinity/selector.",
			len(k.nodes), taken, wrong),
	}}})
	return false
}

func matches(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// reject fails a Pod before anything of it starts: its phase, a reason and a message are all that it says (src: rejectPod).
func (k *Kubelet) reject(ctx context.Context, p *pod) {
	k.write(ctx, p, Object{"phase": "Failed", "reason": "OutOfpods", "message": "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 110, capacity: 110"})
}

// start starts the containers of a Pod, once all that they need is there: with restartPolicy Never there is one try.
func (k *Kubelet) start(ctx context.Context, p *pod, s *sandbox) {
	var waiting []Object
	envs := make([]map[string]string, len(p.Spec.Containers))
	for n, c := range p.Spec.Containers {
		if !slices.Contains(k.cfg.Images, c.Image) {
			reason, message := "ErrImagePull", fmt.Sprintf("failed to pull and unpack image %q: not found", c.Image)
			if s.said != "" { // it has been tried
				reason, message = "ImagePullBackOff", fmt.Sprintf("Back-off pulling image %q: not found", c.Image)
			}
			waiting = append(waiting, c.waiting(reason, message))
			continue
		}
		env, missing := k.environment(ctx, p, s, c)
		if missing != "" {
			waiting = append(waiting, c.waiting("CreateContainerConfigError", missing))
			continue
		}
		envs[n] = env
	}
	if len(waiting) > 0 {
		k.say(ctx, p, s, "Pending", waiting)
		return
	}
	s.started, s.running, s.exits = true, make([]Running, len(envs)), make([]*int, len(envs))
	for n, c := range p.Spec.Containers {
		var err error
		s.running[n], err = k.cfg.Run(Container{
			Pod: p.key(), Name: c.Name, Command: expand(append(slices.Clone(c.Command), c.Args...), envs[n]), Env: envs[n], Grace: time.Duration(p.Spec.TerminationGracePeriodSeconds) * time.Second,
		})
		if err != nil {
			s.started, s.running = true, s.running[:n]
			s.kill()
			k.say(ctx, p, s, "Failed", []Object{c.notStarted(err)})
			return
		}
	}
	k.report(ctx, p, s)
}

// environment is that of a container; missing says what is not there yet.
func (k *Kubelet) environment(ctx context.Context, p *pod, s *sandbox, c containerSpec) (env map[string]string, missing string) {
	env = map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME": p.Metadata.Name}
	fields := map[string]string{
		"metadata.name": p.Metadata.Name, "metadata.namespace": p.Metadata.Namespace, "metadata.uid": p.Metadata.UID, "spec.nodeName": p.Spec.NodeName,
		"status.hostIP": k.hostIP(p), "status.podIP": s.ip,
	}
	for _, v := range c.Env {
		switch from := v.ValueFrom; {
		case from.FieldRef != nil:
			env[v.Name] = fields[from.FieldRef.FieldPath]
		case from.SecretKeyRef != nil:
			var secret struct{ Data map[string][]byte }
			status, err := k.c.Call(ctx, http.MethodGet, "/api/v1/namespaces/"+p.Metadata.Namespace+"/secrets/"+from.SecretKeyRef.Name, nil, &secret)
			if err != nil {
				if status != http.StatusNotFound {
					k.fault(ctx, err)
				}
				return nil, fmt.Sprintf("secret %q not found", from.SecretKeyRef.Name)
			}
			value, ok := secret.Data[from.SecretKeyRef.Key]
			if !ok {
				return nil, fmt.Sprintf("couldn't find key %s in Secret %s/%s", from.SecretKeyRef.Key, p.Metadata.Namespace, from.SecretKeyRef.Name)
			}
			env[v.Name] = string(value)
		default:
			env[v.Name] = v.Value
		}
	}
	return env, ""
}

func (k *Kubelet) hostIP(p *pod) string {
	for _, n := range k.nodes {
		if n.Metadata.Name == p.Spec.NodeName {
			return n.internalIP()
		}
	}
	return ""
}

// report says how the containers are.
func (k *Kubelet) report(ctx context.Context, p *pod, s *sandbox) {
	phase, all := "Succeeded", []Object(nil)
	for n, exit := range s.exits {
		c := p.Spec.Containers[n]
		if exit == nil {
			phase = "Running"
			all = append(all, c.state(Object{"running": Object{"startedAt": stamp(time.Now())}}))
			continue
		}
		if *exit != 0 && phase != "Running" {
			phase = "Failed"
		}
		all = append(all, c.terminated(*exit))
	}
	k.say(ctx, p, s, phase, all)
}

// say writes a status, unless nothing has changed but the time.
func (k *Kubelet) say(ctx context.Context, p *pod, s *sandbox, phase string, containers []Object) {
	short := []any{phase}
	for _, c := range containers {
		state := maps.Clone(c["state"].(Object))
		delete(state, "finishedAt")
		short = append(short, slices.Collect(maps.Keys(state)))
		if w, ok := state["waiting"].(Object); ok {
			short = append(short, w)
		}
	}
	raw, _ := json.Marshal(short)
	if string(raw) == s.said {
		return
	}
	s.said = string(raw)
	ready := "False"
	if phase == "Running" {
		ready = "True"
	}
	k.write(ctx, p, Object{
		"phase": phase, "hostIP": k.hostIP(p), "podIP": s.ip, "podIPs": []Object{{"ip": s.ip}}, "startTime": stamp(time.Now()), "containerStatuses": containers,
		"conditions": []Object{{"type": "PodScheduled", "status": "True"}, {"type": "Initialized", "status": "True"}, {"type": "Ready", "status": ready}},
	})
}

func (k *Kubelet) write(ctx context.Context, p *pod, status Object) {
	code, err := k.c.Call(ctx, http.MethodPatch, p.path()+"/status", Object{"metadata": Object{"uid": p.Metadata.UID}, "status": status}, nil)
	if err != nil && !gone(code) { // deleted meanwhile
		k.fault(ctx, err)
	}
}

// collect notes what has ended.
func (s *sandbox) collect() {
	for n := range s.running {
		select {
		case status := <-s.running[n].Ended:
			s.exits[n] = &status
		default:
		}
	}
}

func (s *sandbox) stop() {
	for n := range s.running {
		s.running[n].Stop()
	}
}

func (s *sandbox) kill() {
	for n := range s.running {
		s.running[n].Kill()
	}
}

func (s *sandbox) ended() bool {
	for n := range s.running {
		if s.exits[n] == nil {
			return false
		}
	}
	return true
}

// wait waits until all has ended.
func (s *sandbox) wait() {
	for n := range s.running {
		if s.exits[n] == nil {
			status := <-s.running[n].Ended
			s.exits[n] = &status
		}
	}
}
