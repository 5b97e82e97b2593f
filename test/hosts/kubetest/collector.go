package kubetest

import (
	"context"
	"net/http"
)

// secret is what the collector looks at.
type secret struct{ Metadata meta }

// collect is the garbage collector of the cluster, for Secrets that a Pod owns: in a real one it is kube-controller-manager's, which does not run here. An owner
// counts by its UID: another Pod of that name is none.
func (k *Kubelet) collect(ctx context.Context) {
	var secrets struct{ Items []secret }
	if _, err := k.c.Call(ctx, http.MethodGet, "/api/v1/secrets", nil, &secrets); err != nil {
		k.fault(ctx, err)
		return
	}
	for _, s := range secrets.Items {
		if !k.orphan(ctx, s) {
			continue
		}
		status, err := k.c.Call(ctx, http.MethodDelete, "/api/v1/namespaces/"+s.Metadata.Namespace+"/secrets/"+s.Metadata.Name, Object{
			"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": Object{"uid": s.Metadata.UID},
		}, nil)
		if err != nil && !gone(status) {
			k.fault(ctx, err)
		}
	}
}

// orphan reports whether all owners of a Secret are gone; one without owners is nobody's to collect. The Pod is asked for, as it may be newer than the last list.
func (k *Kubelet) orphan(ctx context.Context, s secret) bool {
	for _, owner := range s.Metadata.OwnerReferences {
		if owner.Kind != "Pod" {
			return false
		}
		var p pod
		status, err := k.c.Call(ctx, http.MethodGet, "/api/v1/namespaces/"+s.Metadata.Namespace+"/pods/"+owner.Name, nil, &p)
		switch {
		case status == http.StatusNotFound:
		case err != nil:
			k.fault(ctx, err)
			return false
		case p.Metadata.UID == owner.UID:
			return false
		}
	}
	return len(s.Metadata.OwnerReferences) > 0
}
