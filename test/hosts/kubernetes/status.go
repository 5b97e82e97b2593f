package kubernetes

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Audit-Id", "0e1b6a4c-1d4d-4c40-9f3a-2f0f8a3b6f11")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// refuse answers with a Status, which every failed call has (API concepts; apimachinery's metav1.Status).
func refuse(w http.ResponseWriter, status int, reason, message string, details object) {
	body := object{"kind": "Status", "apiVersion": "v1", "metadata": object{}, "status": "Failure", "message": message, "reason": reason, "code": status}
	if details != nil {
		body["details"] = details
	}
	answer(w, status, body)
}

// unauthorized is what there is for a token that nobody knows, where anonymous callers are not let in.
func unauthorized(w http.ResponseWriter, _ *http.Request) {
	refuse(w, http.StatusUnauthorized, "Unauthorized", "Unauthorized", nil)
}

// forbid is the answer of a role, a quota and any other admission rule alike (StatusReasonForbidden).
func forbid(w http.ResponseWriter, resource, name, why string) {
	what := resource
	if name != "" {
		what = fmt.Sprintf("%s %q", resource, name)
	}
	refuse(w, http.StatusForbidden, "Forbidden", what+" is forbidden: "+why, object{"name": name, "kind": resource})
}

func missing(w http.ResponseWriter, resource, name string) {
	refuse(w, http.StatusNotFound, "NotFound", fmt.Sprintf("%s %q not found", resource, name), object{"name": name, "kind": resource})
}

func exists(w http.ResponseWriter, resource, name string) {
	refuse(w, http.StatusConflict, "AlreadyExists", fmt.Sprintf("%s %q already exists", resource, name), object{"name": name, "kind": resource})
}

// problem is a field that validation refuses.
type problem struct{ field, kind, words string }

func (p problem) String() string { return p.field + ": " + p.words }

// invalid is the answer of validation: 422 with a cause for each field (StatusReasonInvalid).
func invalid(w http.ResponseWriter, kind, name string, problems []problem) {
	causes, words := make([]any, 0, len(problems)), make([]string, 0, len(problems))
	for _, p := range problems {
		causes = append(causes, object{"reason": p.kind, "message": p.words, "field": p.field})
		words = append(words, p.String())
	}
	message := strings.Join(words, ", ")
	if len(words) > 1 {
		message = "[" + message + "]"
	}
	refuse(w, http.StatusUnprocessableEntity, "Invalid", fmt.Sprintf("%s %q is invalid: %s", kind, name, message), object{"name": name, "kind": kind, "causes": causes})
}

// throttled is what API priority and fairness says: 429 with Retry-After (StatusReasonTooManyRequests).
func throttled(w http.ResponseWriter, _ *http.Request, after time.Duration) {
	seconds := int(after.Seconds())
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	refuse(w, http.StatusTooManyRequests, "TooManyRequests", "too many requests, please try again later", object{"retryAfterSeconds": seconds})
}
