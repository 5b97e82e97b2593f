package agones

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// allocatorPath is that of the REST twin of allocation.AllocationService (src).
const allocatorPath = "/gameserverallocation"

// What the allocator says, on both sides (src).
const (
	noneThere = "there is no available GameServer to allocate"
	tooMany   = "too many concurrent requests have overwhelmed the system"
)

// maxAnnotations is how much all annotations of an object may have (ran).
const maxAnnotations = 256 << 10

var labelValue = regexp.MustCompile(`^(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?$`)

// check is what validation of the metadata says (ran: 422).
func check(p patch) string {
	for _, v := range p.Labels {
		if !labelValue.MatchString(v) {
			return fmt.Sprintf("spec.metadata.labels: Invalid value: %q: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'", v)
		}
	}
	size := 0
	for k, v := range p.Annotations {
		size += len(k) + len(v)
	}
	if size > maxAnnotations {
		return "spec.metadata.annotations: Too long: may not be more than 262144 bytes"
	}
	return ""
}

func selected(labels map[string]string, selector string) bool {
	for one := range strings.SplitSeq(selector, ",") {
		key, value, ok := strings.Cut(one, "=")
		if ok && labels[key] != value {
			return false
		}
	}
	return true
}

// allowed wants a token (401 without), then a role that has the verb (403).
func (a *Agones) allowed(verb, group, resource string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+a.cfg.Token {
			refuse(w, http.StatusUnauthorized, "Unauthorized", "Unauthorized", nil)
			return
		}
		if namespace := r.PathValue("namespace"); a.cfg.Rights != nil && !a.cfg.Rights.Allow(namespace, verb, group, resource) {
			refuse(w, http.StatusForbidden, "Forbidden", fmt.Sprintf("%s.%s is forbidden: User %q cannot %s resource %q in API group %q in the namespace %q",
				resource, group, a.cfg.Rights.User, verb, resource, group, namespace), object{"group": group, "kind": resource})
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		next(w, r)
	}
}

// allocation is create of a GameServerAllocation: 201 whatever came of it (ran).
func (a *Agones) allocation(w http.ResponseWriter, r *http.Request) {
	var in struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       struct {
			Selectors []selector `json:"selectors"`
			Metadata  patch      `json:"metadata"`
		} `json:"spec"`
	}
	raw, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(raw, &in); err != nil || in.Kind != "GameServerAllocation" || in.APIVersion != "allocation.agones.dev/v1" {
		refuse(w, http.StatusBadRequest, "BadRequest", "the object provided is no allocation.agones.dev/v1 GameServerAllocation", nil)
		return
	}
	out := a.take(r.Context(), r.PathValue("namespace"), in.Spec.Selectors, in.Spec.Metadata)
	if out.wrong != "" {
		refuse(w, http.StatusUnprocessableEntity, "Invalid", "GameServerAllocation.allocation.agones.dev \"\" is invalid: "+out.wrong, nil)
		return
	}
	status := object{"state": out.state, "gameServerName": "", "source": "local"}
	if g := out.server; g != nil {
		status = object{
			"state": out.state, "gameServerName": g.name, "ports": g.ports(), "address": "198.51.100.7", "nodeName": "node-1", "source": "local",
			"metadata": object{"labels": g.labels, "annotations": g.annotations}, // the document, too
		}
	}
	answer(w, http.StatusCreated, object{"kind": in.Kind, "apiVersion": in.APIVersion, "metadata": object{"namespace": r.PathValue("namespace")}, "spec": in.Spec, "status": status})
}

// allocator is the REST side of agones-allocator: names as of proto3 JSON; unknown members are ignored.
func (a *Agones) allocator(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Namespace string     `json:"namespace"`
		Selectors []selector `json:"gameServerSelectors"`
		Metadata  patch      `json:"metadata"`
	}
	raw, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(raw, &in); err != nil {
		failed(w, http.StatusBadRequest, 3, "proto: syntax error")
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.take(r.Context(), in.Namespace, in.Selectors, in.Metadata)
	switch {
	case out.wrong != "": // codes.Code(422), for which the gateway has no status (src)
		failed(w, http.StatusInternalServerError, http.StatusUnprocessableEntity, out.wrong)
	case out.state == "Contention":
		failed(w, http.StatusConflict, codeAborted, tooMany)
	case out.server == nil:
		failed(w, http.StatusTooManyRequests, codeExhausted, noneThere)
	default:
		g := out.server
		answer(w, http.StatusOK, object{
			"gameServerName": g.name, "ports": g.ports(), "address": "198.51.100.7", "nodeName": "node-1", "source": "local",
			"metadata": object{"labels": g.labels, "annotations": g.annotations},
		})
	}
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// refuse answers with a Status, as an API server does.
func refuse(w http.ResponseWriter, status int, reason, message string, details object) {
	answer(w, status, object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "details": details, "code": status})
}

// failed answers as the allocator's gateway does.
func failed(w http.ResponseWriter, status, code int, message string) {
	answer(w, status, object{"code": code, "message": message, "details": []any{}})
}

func missing(w http.ResponseWriter, name string) {
	refuse(w, http.StatusNotFound, "NotFound", fmt.Sprintf("gameservers.agones.dev %q not found", name), object{"name": name, "group": "agones.dev", "kind": "gameservers"})
}

// throttled is API priority and fairness, and at the allocator a proxy before it (assumption: it has no limit itself), which words it as the side wants.
func throttled(w http.ResponseWriter, r *http.Request, after time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())))
	switch {
	case isGRPC(r):
		Say(w, codeExhausted, "rate limit exceeded")
		return
	case r.URL.Path == allocatorPath:
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return
	}
	refuse(w, http.StatusTooManyRequests, "TooManyRequests", "too many requests, please try again later", nil)
}

// full is a fleet of which no GameServer is ready.
func full(w http.ResponseWriter, r *http.Request) {
	switch {
	case isGRPC(r):
		Say(w, codeExhausted, noneThere)
		return
	case r.URL.Path == allocatorPath:
		failed(w, http.StatusTooManyRequests, codeExhausted, noneThere)
		return
	}
	answer(w, http.StatusCreated, object{"kind": "GameServerAllocation", "apiVersion": "allocation.agones.dev/v1", "status": object{"state": "UnAllocated", "gameServerName": ""}})
}

// refused is a token that is none; at the allocator a proxy before it, as the allocator itself ends the TLS handshake.
func refused(w http.ResponseWriter, r *http.Request) {
	switch {
	case isGRPC(r):
		Say(w, codePermissionDenied, "access denied")
		return
	case r.URL.Path == allocatorPath:
		http.Error(w, "forbidden", http.StatusForbidden)
		return
	}
	refuse(w, http.StatusUnauthorized, "Unauthorized", "Unauthorized", nil)
}

// away is a proxy that finds nobody behind it.
func away(w http.ResponseWriter, r *http.Request) {
	if isGRPC(r) {
		Say(w, codeUnavailable, "no healthy upstream")
		return
	}
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = io.WriteString(w, "<html><body><h1>503 Service Temporarily Unavailable</h1></body></html>")
}
