package kubetest

import (
	"net/http"
	"strings"
	"time"
)

// meta is what every object has.
type meta struct {
	Name, Namespace, UID string
	DeletionTimestamp    *time.Time
	Labels               map[string]string
	OwnerReferences      []struct{ Kind, Name, UID string }
}

// pod is what a scheduler and a kubelet look at.
type pod struct {
	Metadata meta
	Spec     podSpec
	Status   struct {
		Phase      string
		Conditions []Object
	}
}

type podSpec struct {
	NodeName                      string
	NodeSelector                  map[string]string
	TerminationGracePeriodSeconds int
	Containers                    []containerSpec
}

type containerSpec struct {
	Name, Image   string
	Command, Args []string
	Env           []variable
	Ports         []struct {
		HostPort int
		Protocol string
	}
}

// variable is one of the environment: a value, or what it is from.
type variable struct {
	Name, Value string
	ValueFrom   struct {
		SecretKeyRef *struct{ Name, Key string }
		FieldRef     *struct{ FieldPath string }
	}
}

// node is a machine of the cluster.
type node struct {
	Metadata meta
	Status   struct {
		Addresses []struct{ Type, Address string }
	}
}

func (n node) internalIP() string {
	for _, a := range n.Status.Addresses {
		if a.Type == "InternalIP" {
			return a.Address
		}
	}
	return ""
}

func (p pod) path() string {
	return "/api/v1/namespaces/" + p.Metadata.Namespace + "/pods/" + p.Metadata.Name
}

func (p pod) key() string { return p.Metadata.Namespace + "/" + p.Metadata.Name }

func (p pod) over() bool { return p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" }

// holds reports whether the Pod has one of another one's host ports on its node.
func (p pod) holds(other pod) bool {
	for _, port := range p.hostPorts() {
		for _, its := range other.hostPorts() {
			if port == its {
				return true
			}
		}
	}
	return false
}

type hostPort struct {
	number   int
	protocol string
}

func (p pod) hostPorts() (all []hostPort) {
	for _, c := range p.Spec.Containers {
		for _, one := range c.Ports {
			if one.HostPort != 0 {
				all = append(all, hostPort{one.HostPort, one.Protocol})
			}
		}
	}
	return all
}

// stamp is a time as the API has it.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// state is that of a container.
func (c containerSpec) state(state Object) Object {
	return Object{"name": c.Name, "image": c.Image, "imageID": "", "ready": state["running"] != nil, "started": state["running"] != nil, "restartCount": 0, "state": state}
}

// waiting is the state of a container that cannot start yet, or ever.
func (c containerSpec) waiting(reason, message string) Object {
	return c.state(Object{"waiting": Object{"reason": reason, "message": message}})
}

// terminated is the state of a container that has ended.
func (c containerSpec) terminated(status int) Object {
	reason := "Completed"
	if status != 0 {
		reason = "Error"
	}
	return c.state(Object{"terminated": Object{"exitCode": status, "reason": reason, "finishedAt": stamp(time.Now())}})
}

// notStarted is the state of a container whose command is none.
func (c containerSpec) notStarted(err error) Object {
	return c.state(Object{"terminated": Object{"exitCode": 128, "reason": "StartError", "message": "failed to create containerd task: " + err.Error(), "finishedAt": stamp(time.Now())}})
}

// expand fills in $(VARIABLES).
func expand(words []string, env map[string]string) (out []string) {
	for _, word := range words {
		for name, value := range env {
			word = strings.ReplaceAll(word, "$("+name+")", value)
		}
		out = append(out, word)
	}
	return out
}

// gone reports whether a call failed because the object is there no more, or is another one by now.
func gone(status int) bool { return status == http.StatusNotFound || status == http.StatusConflict }
