package kubernetes

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	"github.com/berth-dev/berth/services/allocation/providers/internal/kube"
)

// pageSize is how many Pods a page of a list has. They come whole, some with 100 KiB and more of annotations and status, and an answer may have 8 MiB.
const pageSize = 50

// client calls the API server.
type client struct {
	api                                                          *kube.Client
	start, look, list, remove, keepSecret, trySecret, lookupNode *hostapi.Operation
}

func newClient(cfg kube.Config) (*client, error) {
	c := &client{
		start: hostapi.Write("make a Pod", 0), remove: hostapi.Write("delete a Pod", 0), keepSecret: hostapi.Write("make a Secret", 0),
		look: hostapi.Read("look up a Pod", 0), list: hostapi.Read("list Pods", 0), lookupNode: hostapi.Read("look up a Node", 0),
		trySecret: hostapi.Read("look whether a Pod has its Secret", 0),
	}
	var err error
	c.api, err = kube.New("kubernetes", cfg)
	return c, err
}

// order asks for a Pod.
type order struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Meta       kube.Meta      `json:"metadata"`
	Spec       map[string]any `json:"spec"`
}

// pod is what counts of a Pod here.
type pod struct {
	Meta   kube.Meta `json:"metadata"`
	Spec   podSpec   `json:"spec"`
	Status podStatus `json:"status"`
}

type podSpec struct {
	NodeName   string      `json:"nodeName"`
	Containers []container `json:"containers"`
}

type container struct {
	Name  string `json:"name"`
	Image string `json:"image"`
	Ports []port `json:"ports"`
	Env   []struct {
		Name      string `json:"name"`
		ValueFrom struct {
			Secret struct {
				Name string `json:"name"`
			} `json:"secretKeyRef"`
		} `json:"valueFrom"`
	} `json:"env"`
}

// game returns the game server's container.
func (p pod) game() container {
	for _, c := range p.Spec.Containers {
		if c.Name == p.Meta.Annotations[annotateContainer] {
			return c
		}
	}
	return container{}
}

// secret is the name of the Secret that has the bootstrap document.
func (p pod) secret() string {
	for _, e := range p.game().Env {
		if e.Name == bootstrap.EnvDocument {
			return e.ValueFrom.Secret.Name
		}
	}
	return ""
}

// port is one that a container listens on.
type port struct {
	Name          string `json:"name"`
	ContainerPort int    `json:"containerPort"`
	HostPort      int    `json:"hostPort"`
	Protocol      string `json:"protocol"`
}

type podStatus struct {
	Phase      string `json:"phase"`
	Reason     string `json:"reason"`
	Message    string `json:"message"`
	HostIP     string `json:"hostIP"`
	PodIP      string `json:"podIP"`
	Conditions []struct {
		Type    string    `json:"type"`
		Status  string    `json:"status"`
		Reason  string    `json:"reason"`
		Message string    `json:"message"`
		Since   time.Time `json:"lastTransitionTime"`
	} `json:"conditions"`
	InitContainers []containerStatus `json:"initContainerStatuses"`
	Containers     []containerStatus `json:"containerStatuses"`
}

type containerStatus struct {
	Name  string `json:"name"`
	Image string `json:"image"`
	Ready bool   `json:"ready"`
	State struct {
		Running *struct {
			Since time.Time `json:"startedAt"`
		} `json:"running"`
		Waiting *struct {
			Reason  string `json:"reason"`
			Message string `json:"message"`
		} `json:"waiting"`
		Terminated *struct {
			ExitCode int    `json:"exitCode"`
			Signal   int    `json:"signal"`
			Reason   string `json:"reason"`
			Message  string `json:"message"`
		} `json:"terminated"`
	} `json:"state"`
}

type podList struct {
	Meta  kube.ListMeta `json:"metadata"`
	Items []pod         `json:"items"`
}

// secret has the bootstrap document of a Pod.
type secret struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Meta       kube.Meta         `json:"metadata"`
	Type       string            `json:"type"`
	Immutable  bool              `json:"immutable"`
	Data       map[string][]byte `json:"data"`
}

type node struct {
	Status struct {
		Addresses []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
	} `json:"status"`
}

func podPath(namespace, name string) string {
	return "/api/v1/namespaces/" + url.PathEscape(namespace) + "/pods/" + url.PathEscape(name)
}

// makePod makes a Pod. An API server drops what it does not know in a spec unless it is told to be strict.
func (c *client) makePod(ctx context.Context, o order) (made pod, err error) {
	err = c.api.Do(ctx, hostapi.Call{
		Operation: c.start, Method: http.MethodPost, Path: "/api/v1/namespaces/" + url.PathEscape(o.Meta.Namespace) + "/pods?fieldValidation=Strict", In: o, Out: &made,
	})
	return made, c.checked(c.start, made, o.Meta.Name, err)
}

func (c *client) pod(ctx context.Context, namespace, name string) (found pod, err error) {
	err = c.api.Do(ctx, hostapi.Call{Operation: c.look, Method: http.MethodGet, Path: podPath(namespace, name), Out: &found})
	return found, c.checked(c.look, found, name, err)
}

// checked makes sure that an answer is the Pod that was asked for.
func (*client) checked(op *hostapi.Operation, p pod, name string, err error) error {
	if err == nil && (p.Meta.Name != name || p.Meta.UID == "" || p.Status.Phase == "") {
		return hostapi.Senseless(kube.Host, op, fmt.Sprintf("a Pod %q in phase %q", hostapi.Clean(p.Meta.Name), hostapi.Clean(p.Status.Phase)))
	}
	return err
}

// deletePod deletes that very Pod; grace is how many seconds its containers have to end, nil: what its spec says.
func (c *client) deletePod(ctx context.Context, p pod, grace *int64) error {
	return c.api.Do(ctx, hostapi.Call{Operation: c.remove, Method: http.MethodDelete, Path: podPath(p.Meta.Namespace, p.Meta.Name), In: kube.Delete(p.Meta.UID, grace)})
}

func (c *client) pods(ctx context.Context, namespace, selector, page string) (found podList, err error) {
	query := url.Values{"labelSelector": {selector}, "limit": {strconv.Itoa(pageSize)}}
	if page != "" {
		query.Set("continue", page)
	}
	err = c.api.Do(ctx, hostapi.Call{
		Operation: c.list, Method: http.MethodGet, Path: "/api/v1/namespaces/" + url.PathEscape(namespace) + "/pods?" + query.Encode(), Out: &found,
	})
	if err == nil && found.Items == nil {
		err = hostapi.Senseless(kube.Host, c.list, "a list without items")
	}
	return found, err
}

// makeSecret keeps a document in a Secret that the Pod owns: with the Pod it goes, whoever deletes that.
func (c *client) makeSecret(ctx context.Context, of pod, document []byte) error {
	var made secret
	err := c.api.Do(ctx, hostapi.Call{Operation: c.keepSecret, Method: http.MethodPost, Path: secretsPath(of), Out: &made, In: secretOf(of, document)})
	if err == nil && made.Meta.Name != of.secret() {
		return hostapi.Senseless(kube.Host, c.keepSecret, fmt.Sprintf("a Secret %q", hostapi.Clean(made.Meta.Name)))
	}
	return err
}

// tryMakeSecret fails with Exists where a Pod has its Secret, and not where it surely has none. A dry run of making it needs no right to read Secrets.
func (c *client) tryMakeSecret(ctx context.Context, of pod) error {
	var made secret
	err := c.api.Do(ctx, hostapi.Call{Operation: c.trySecret, Method: http.MethodPost, Path: secretsPath(of) + "?dryRun=All", Out: &made, In: secretOf(of, nil)})
	if err == nil && made.Meta.Name != of.secret() {
		return hostapi.Senseless(kube.Host, c.trySecret, fmt.Sprintf("a Secret %q", hostapi.Clean(made.Meta.Name)))
	}
	return err
}

func secretsPath(of pod) string {
	return "/api/v1/namespaces/" + url.PathEscape(of.Meta.Namespace) + "/secrets"
}

func secretOf(of pod, document []byte) secret {
	return secret{
		APIVersion: "v1", Kind: "Secret", Type: "Opaque", Immutable: true, Data: map[string][]byte{secretKey: document},
		Meta: kube.Meta{
			Name: of.secret(), Namespace: of.Meta.Namespace,
			Labels:          map[string]string{labelManager: manager, labelDeployment: of.Meta.Labels[labelDeployment], labelAttempt: of.Meta.Labels[labelAttempt]},
			OwnerReferences: []kube.Owner{{APIVersion: "v1", Kind: "Pod", Name: of.Meta.Name, UID: of.Meta.UID}},
		},
	}
}

func (c *client) node(ctx context.Context, name string) (found node, err error) {
	err = c.api.Do(ctx, hostapi.Call{Operation: c.lookupNode, Method: http.MethodGet, Path: "/api/v1/nodes/" + url.PathEscape(name), Out: &found})
	if err == nil && found.Status.Addresses == nil {
		err = hostapi.Senseless(kube.Host, c.lookupNode, "a Node without addresses")
	}
	return found, err
}
