package kubernetes

import (
	"encoding/base64"
	"fmt"
	"slices"
)

// pod is a Pod, with what its kubelet knows.
type pod struct {
	object  object
	stop    func() // ends the containers; nil: they were not started
	started bool   // the containers were
	looks   int    // how often it was looked at since it had a node
	ends    int    // the same, since it was deleted
}

func (p *pod) phase() string { return text(p.object, "status", "phase") }

// status changes members of the status.
func (p *pod) status(members object) {
	if p.object["status"] == nil {
		p.object["status"] = object{}
	}
	s, _ := p.object["status"].(object)
	for k, v := range members {
		s[k] = v
	}
}

// step is what happens between two looks at a Pod: a status follows what its kubelet does after a while only.
func (a *api) step(key string, p *pod) {
	a.version++
	if p.object["metadata"].(object)["deletionTimestamp"] != nil {
		if p.ends++; p.ends > 1 { // the kubelet has ended the containers, and deletes the object for good
			a.remove(key)
		}
		return
	}
	if p.phase() == "Running" { // the first probe succeeds, which is an assumption
		for _, c := range list(p.object, "status", "containerStatuses") {
			c.(object)["ready"] = true
		}
		a.ready(p, "True")
		return
	}
	if p.phase() != "Pending" {
		return
	}
	a.start(p)
	if text(p.object, "spec", "nodeName") == "" || p.phase() == "Failed" {
		return
	}
	p.looks++
	switch {
	case p.looks == 1:
		a.ready(p, "False")
		a.container(p, object{"waiting": object{"reason": "ContainerCreating"}})
	case a.missingImage(p) != "" && p.looks == 2:
		a.container(p, object{"waiting": object{"reason": "ErrImagePull", "message": "failed to pull and unpack image: " + a.missingImage(p) + ": not found"}})
	case a.missingImage(p) != "":
		a.container(p, object{"waiting": object{"reason": "ImagePullBackOff", "message": fmt.Sprintf("Back-off pulling image %q: not found", a.missingImage(p))}})
	case !p.started: // the kubelet tries again and again
		name, _ := a.missingSecret(p)
		a.container(p, object{"waiting": object{"reason": "CreateContainerConfigError", "message": fmt.Sprintf("secret %q not found", name)}})
	default:
		p.status(object{"phase": "Running", "podIP": "10.244.1.7", "startTime": stamp(a.now())})
		a.container(p, object{"running": object{"startedAt": stamp(a.now())}})
		if !probed(p) { // "if a container does not provide a readiness probe, the default state is Success"
			a.ready(p, "True")
		}
	}
}

func probed(p *pod) bool {
	return slices.ContainsFunc(list(p.object, "spec", "containers"), func(c any) bool { return at(c, "readinessProbe") != nil })
}

// ready says whether the Pod is ready: a condition, beside that of its scheduling.
func (a *api) ready(p *pod, status string) {
	conditions := slices.DeleteFunc(list(p.object, "status", "conditions"), func(c any) bool { return text(c, "type") == "Ready" })
	p.status(object{"conditions": append(conditions, object{"type": "Ready", "status": status, "lastTransitionTime": stamp(a.now())})})
}

// container says what the containers do.
func (a *api) container(p *pod, state object) {
	var all []any
	for _, c := range list(p.object, "spec", "containers") {
		all = append(all, object{"name": text(c, "name"), "image": text(c, "image"), "ready": state["running"] != nil && at(c, "readinessProbe") == nil, "restartCount": 0, "state": state})
	}
	p.status(object{"containerStatuses": all})
}

func (a *api) missingImage(p *pod) string {
	for _, c := range list(p.object, "spec", "containers") {
		if slices.Contains(a.cfg.NoImages, text(c, "image")) {
			return text(c, "image")
		}
	}
	return ""
}

// missingSecret returns the first Secret that a variable is from and that is not there; and else the document that is in one.
func (a *api) missingSecret(p *pod) (name string, document []byte) {
	for _, c := range list(p.object, "spec", "containers") {
		for _, e := range list(c, "env") {
			ref := at(e, "valueFrom", "secretKeyRef")
			if ref == nil {
				continue
			}
			s := a.secrets[text(p.object, "metadata", "namespace")+"/"+text(ref, "name")]
			if s == nil {
				return text(ref, "name"), nil
			}
			if text(e, "name") == "BERTH_BOOTSTRAP" { // what the game server reads
				document, _ = base64.StdEncoding.DecodeString(text(s, "data", text(ref, "key")))
			}
		}
	}
	return "", document
}

// start schedules a Pod, and starts its containers once all that they need is there.
func (a *api) start(p *pod) {
	if p.started || p.object["metadata"].(object)["deletionTimestamp"] != nil || !a.schedule(p) || a.reject(p) || a.missingImage(p) != "" {
		return
	}
	name, document := a.missingSecret(p)
	if name != "" {
		return
	}
	p.started = true
	p.stop = a.servers.Start(document, func() { a.end(p) })
}

// reject fails a Pod that its node has no room for, before anything of it starts: phase, reason and message are all that its status has then (src: rejectPod of the
// kubelet; predicate.go of its lifecycle has the reasons).
func (a *api) reject(p *pod) bool {
	full := slices.ContainsFunc(a.cfg.Nodes, func(n Node) bool { return n.Full && n.Name == text(p.object, "spec", "nodeName") })
	if full {
		p.object["status"] = object{"phase": "Failed", "reason": "OutOfpods", "message": "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 110, capacity: 110"}
	}
	return full
}

// end is a server that ended by itself: with restartPolicy Never the Pod has succeeded.
func (a *api) end(p *pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p.status(object{"phase": "Succeeded"})
	a.container(p, object{"terminated": object{"exitCode": 0, "reason": "Completed", "finishedAt": stamp(a.now())}})
}

// schedule finds a node that has the labels of the selector and the ports, or says why there is none.
func (a *api) schedule(p *pod) bool {
	spec, _ := p.object["spec"].(object)
	if spec["nodeName"] != nil {
		return true
	}
	selector, _ := spec["nodeSelector"].(object)
	wrong, taken := 0, 0
	for _, n := range a.cfg.Nodes {
		fits := true
		for key, value := range selector {
			fits = fits && n.Labels[key] == value
		}
		switch {
		case !fits:
			wrong++
		case a.portTaken(p, n.Name):
			taken++
		default:
			spec["nodeName"] = n.Name
			p.status(object{"hostIP": n.Addresses["InternalIP"], "conditions": []any{object{"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(a.now())}}})
			return true
		}
	}
	if at(p.object, "status", "conditions") != nil { // its lastTransitionTime stays
		return false
	}
	message := fmt.Sprintf("0/%d nodes are available: %d node(s) didn't have free ports for the requested pod ports, %d node(s) didn't match Pod's node affinity/selector.",
		len(a.cfg.Nodes), taken, wrong)
	p.status(object{"conditions": []any{object{
		"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message, "lastTransitionTime": stamp(a.now()),
	}}})
	return false
}

// portTaken reports whether another Pod on the node has one of the Pod's host ports.
func (a *api) portTaken(p *pod, node string) bool {
	mine := hostPorts(p)
	for _, other := range a.pods {
		if other != p && other.phase() != "Succeeded" && other.phase() != "Failed" && text(other.object, "spec", "nodeName") == node && slices.ContainsFunc(hostPorts(other), func(one string) bool { return slices.Contains(mine, one) }) {
			return true
		}
	}
	return false
}

func hostPorts(p *pod) []string {
	var out []string
	for _, c := range list(p.object, "spec", "containers") {
		for _, one := range list(c, "ports") {
			if host, _ := at(one, "hostPort").(float64); host != 0 {
				out = append(out, fmt.Sprintf("%v/%s", host, text(one, "protocol")))
			}
		}
	}
	return out
}
