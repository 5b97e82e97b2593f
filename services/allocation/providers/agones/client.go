package agones

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"google.golang.org/grpc/status"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	"github.com/berth-dev/berth/services/allocation/providers/internal/kube"
)

// pageSize is how many GameServers a page of a list has: one may have a document of 96 KiB, and an answer has 8 MiB at most.
const pageSize = 50

// client calls the API server of a cluster with Agones.
type client struct {
	api                             *kube.Client
	allocate, doubt, look, list, rm *hostapi.Operation
}

func newClient(cfg kube.Config) (*client, error) {
	c := &client{
		allocate: hostapi.Write("allocate a GameServer", 0), rm: hostapi.Write("delete a GameServer", 0),
		// Before an attempt is asked for again: without an answer it stays open what the call before did.
		doubt: hostapi.Write("look for a GameServer of the call before", 0),
		look:  hostapi.Read("look up a GameServer", 0), list: hostapi.Read("list GameServers", 0),
	}
	var err error
	c.api, err = kube.New(kind, cfg)
	return c, err
}

// selector says which GameServers may be allocated.
type selector struct {
	MatchLabels map[string]string `json:"matchLabels"`
}

// patch is what a GameServer gets when it is allocated.
type patch struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// order asks for a GameServer.
type order struct {
	namespace string
	selector  selector
	patch     patch
}

// allocation is a GameServerAllocation, which is made and not kept.
type allocation struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Meta       kube.Meta         `json:"metadata"`
	Spec       allocationSpec    `json:"spec"`
	Status     *allocationStatus `json:"status,omitempty"`
}

type allocationSpec struct {
	Selectors []selector `json:"selectors"`
	Metadata  patch      `json:"metadata"`
}

// allocationStatus is what became of an allocation. Its ports come without protocols, so that they are taken from the GameServer.
type allocationStatus struct {
	State          string `json:"state"`
	GameServerName string `json:"gameServerName"`
}

// port is a public one of a GameServer.
type port struct {
	Name string `json:"name"`
	Port int    `json:"port"`
}

// gameServer is what counts of a GameServer here.
type gameServer struct {
	Meta kube.Meta `json:"metadata"`
	Spec struct {
		Ports []struct {
			Name     string `json:"name"`
			Protocol string `json:"protocol"`
		} `json:"ports"`
	} `json:"spec"`
	Status struct {
		State   string `json:"state"`
		Address string `json:"address"`
		Ports   []port `json:"ports"`
	} `json:"status"`
}

type gameServerList struct {
	Meta  kube.ListMeta `json:"metadata"`
	Items []gameServer  `json:"items"`
}

func gameServersPath(namespace string) string {
	return "/apis/agones.dev/v1/namespaces/" + url.PathEscape(namespace) + "/gameservers"
}

// Allocate asks the API server.
func (c *client) Allocate(ctx context.Context, o order) (allocationStatus, error) {
	var made allocation
	err := c.api.Do(ctx, hostapi.Call{
		Operation: c.allocate, Method: http.MethodPost, Path: "/apis/allocation.agones.dev/v1/namespaces/" + url.PathEscape(o.namespace) + "/gameserverallocations", Out: &made,
		In: allocation{
			APIVersion: "allocation.agones.dev/v1", Kind: "GameServerAllocation", Meta: kube.Meta{Namespace: o.namespace},
			Spec: allocationSpec{Selectors: []selector{o.selector}, Metadata: o.patch},
		},
	})
	switch {
	case err != nil:
		return allocationStatus{}, installed(err)
	case made.Status == nil:
		return allocationStatus{}, hostapi.Senseless(kube.Host, c.allocate, "an allocation without a status")
	}
	return *made.Status, outcome(c.allocate, *made.Status)
}

// outcome is the failure of an allocation that the API server answers with 201 all the same.
func outcome(op *hostapi.Operation, s allocationStatus) error {
	switch {
	case s.State == "UnAllocated":
		return noneReady("the API server")
	case s.State == "Contention":
		return contention()
	case s.State != allocated || s.GameServerName == "":
		return hostapi.Senseless(kube.Host, op, fmt.Sprintf("GameServer %q in state %q", hostapi.Clean(s.GameServerName), hostapi.Clean(s.State)))
	}
	return nil
}

func (c *client) gameServer(ctx context.Context, namespace, name string) (found gameServer, err error) {
	err = c.api.Do(ctx, hostapi.Call{Operation: c.look, Method: http.MethodGet, Path: gameServersPath(namespace) + "/" + url.PathEscape(name), Out: &found})
	if err == nil && (found.Meta.Name != name || found.Meta.UID == "" || found.Status.State == "") {
		err = hostapi.Senseless(kube.Host, c.look, fmt.Sprintf("a GameServer %q in state %q", hostapi.Clean(found.Meta.Name), hostapi.Clean(found.Status.State)))
	}
	return found, err
}

func (c *client) gameServers(ctx context.Context, op *hostapi.Operation, namespace, selector, page string) (found gameServerList, err error) {
	query := url.Values{"labelSelector": {selector}, "limit": {strconv.Itoa(pageSize)}}
	if page != "" {
		query.Set("continue", page)
	}
	err = c.api.Do(ctx, hostapi.Call{Operation: op, Method: http.MethodGet, Path: gameServersPath(namespace) + "?" + query.Encode(), Out: &found})
	if err == nil && found.Items == nil {
		err = hostapi.Senseless(kube.Host, op, "a list without items")
	}
	return found, installed(err)
}

// installed asks whether Agones is there at all where a list or an allocation is not found: that says nothing of a server.
func installed(err error) error {
	if kube.Unserved(err) || provider.ReasonOf(err) == provider.NotFound {
		return provider.Failure(provider.Unavailable, "%s; is Agones installed in this cluster?", status.Convert(err).Message())
	}
	return err
}

// remove deletes that very GameServer as it was seen: one that has changed since may be another attempt's (kube.Replaced). Agones ends its Pod.
func (c *client) remove(ctx context.Context, g gameServer) error {
	options := kube.Delete(g.Meta.UID, nil)
	options.Preconditions.Version = g.Meta.Version
	return c.api.Do(ctx, hostapi.Call{
		Operation: c.rm, Method: http.MethodDelete, Path: gameServersPath(g.Meta.Namespace) + "/" + url.PathEscape(g.Meta.Name), In: options,
	})
}
