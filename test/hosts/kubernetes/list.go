package kubernetes

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// continuation is what a continue token has (k8s.io/apiserver, pkg/storage: ContinueToken).
type continuation struct {
	APIVersion string `json:"v"`
	Version    int    `json:"rv"`
	Start      string `json:"start"`
}

// listPods lists in the order of names, a page of at most limit at a time ("limit is a maximum number of responses; the server may return fewer"; "continue is opaque").
func (a *api) listPods(w http.ResponseWriter, r *http.Request) {
	namespace, query := r.PathValue("namespace"), r.URL.Query()
	limit, _ := strconv.Atoi(query.Get("limit"))
	if limit <= 0 || a.cfg.Page > 0 && a.cfg.Page < limit {
		limit = a.cfg.Page
	}
	var from continuation
	if token := query.Get("continue"); token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || json.Unmarshal(raw, &from) != nil {
			refuse(w, http.StatusBadRequest, "BadRequest", "continue key is not valid: illegal base64 data at input byte 0", nil)
			return
		}
		if from.Version > a.version || from.Version <= 0 { // compacted: its history is kept for 5 minutes
			refuse(w, http.StatusGone, "Expired", "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.", nil)
			return
		}
	}
	items, next := []any{}, ""
	for _, key := range slices.Sorted(maps.Keys(a.pods)) {
		name, ours := strings.CutPrefix(key, namespace+"/")
		if !ours || name < from.Start || !selected(a.pods[key].object, query.Get("labelSelector")) {
			continue
		}
		if limit > 0 && len(items) == limit {
			raw, _ := json.Marshal(continuation{APIVersion: "meta.k8s.io/v1", Version: a.version, Start: name})
			next = base64.RawURLEncoding.EncodeToString(raw)
			break
		}
		if a.step(key, a.pods[key]); a.pods[key] != nil {
			items = append(items, a.pods[key].object)
		}
	}
	meta := object{"resourceVersion": strconv.Itoa(a.version)}
	if next != "" {
		meta["continue"] = next
	}
	answer(w, http.StatusOK, object{"kind": "PodList", "apiVersion": "v1", "metadata": meta, "items": items})
}

// selected evaluates an equality-based selector: "key=value", all of them.
func selected(o object, selector string) bool {
	if selector == "" {
		return true
	}
	for _, one := range strings.Split(selector, ",") {
		key, value, _ := strings.Cut(one, "=")
		has, ok := at(o, "metadata", "labels", key).(string)
		if !ok || has != value {
			return false
		}
	}
	return true
}
