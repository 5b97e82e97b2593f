package kubernetes_test

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// status is what an API server says of a call that failed.
func status(reason, message, kind string) string {
	return show(map[string]any{"kind": "Status", "apiVersion": "v1", "metadata": map[string]any{}, "status": "Failure", "reason": reason, "message": message, "details": map[string]any{"kind": kind}})
}

func TestFailures(t *testing.T) {
	host, cfg := start(t, cluster())
	p := open(t, cfg)
	const secret = "eyJhbGciOiJSUzI1NiIsImtpZCI6IkNqRXo2aUlvbGxEQmNjV0V2Y0RfIn0"
	for name, c := range map[string]struct {
		status int
		body   string
		want   providerv1.FailureReason
		says   string
	}{
		"token":           {401, status("Unauthorized", "Unauthorized", ""), provider.Unauthenticated, "Unauthorized"},
		"role":            {403, status("Forbidden", `pods is forbidden: User "system:serviceaccount:berth:default" cannot create resource "pods" in API group "" in the namespace "games"`, "pods"), provider.Unauthenticated, `cannot create resource "pods"`},
		"quota":           {403, status("Forbidden", `pods "x" is forbidden: exceeded quota: compute, requested: cpu=2, used: cpu=8, limited: cpu=8`, "pods"), provider.Quota, "exceeded quota: compute, requested: cpu=2"},
		"no requests":     {403, status("Forbidden", `pods "x" is forbidden: failed quota: compute: must specify limits.cpu for: server`, "pods"), provider.Invalid, "must specify limits.cpu"},
		"new quota":       {403, status("Forbidden", `pods "x" is forbidden: status unknown for quota: compute, resources: pods`, "pods"), provider.Unavailable, "status unknown for quota"},
		"security":        {403, status("Forbidden", `pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false`, "pods"), provider.Invalid, "violates PodSecurity"},
		"no account":      {403, status("Forbidden", `pods "x" is forbidden: error looking up service account games/shooter: serviceaccount "shooter" not found`, "pods"), provider.Invalid, "service account games/shooter"},
		"terminating":     {403, status("Forbidden", `pods "x" is forbidden: unable to create new content in namespace games because it is being terminated`, "pods"), provider.Invalid, "being terminated"},
		"no namespace":    {404, status("NotFound", `namespaces "games" not found`, "namespaces"), provider.Invalid, `namespaces "games" not found`},
		"no such API":     {404, status("NotFound", "the server could not find the requested resource", ""), provider.NotFound, "could not find"},
		"no API server":   {404, "404 page not found\n", provider.Unavailable, "is url right"},
		"invalid":         {422, status("Invalid", `Pod "x" is invalid: spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`, "Pod"), provider.Invalid, "spec.containers[0].resources.requests"},
		"unknown field":   {400, status("BadRequest", `Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.container"`, ""), provider.Invalid, `unknown field "spec.container"`},
		"too large":       {413, status("RequestEntityTooLarge", "Request entity too large: limit is 3145728", ""), provider.Invalid, "too large"},
		"too large, etcd": {500, status("InternalError", "etcdserver: request is too large", ""), provider.Invalid, "request is too large"},
		"quota's count":   {409, status("Conflict", `Operation cannot be fulfilled on resourcequotas "compute": the object has been modified; please apply your changes to the latest version and try again`, "resourcequotas"), provider.Unavailable, "resourcequotas"},
		"throttled":       {429, status("TooManyRequests", "too many requests, please try again later", ""), provider.RateLimited, "try again later"},
		"webhook away":    {500, status("InternalError", `Internal error occurred: failed calling webhook "policy.example.com": context deadline exceeded`, ""), provider.Unavailable, "policy.example.com"},
		"webhook":         {400, status("", `admission webhook "policy.example.com" denied the request: image is not signed`, ""), provider.Invalid, "image is not signed"},
		"broken":          {500, status("InternalError", "Internal error occurred: etcd has no leader", ""), provider.Ambiguous, "no leader"},
		"server time-out": {500, status("ServerTimeout", "The POST operation against Pod could not be completed at this time, please try again.", "Pod"), provider.Ambiguous, "could not be completed"},
		"time-out":        {504, status("Timeout", "Timeout: request did not complete within requested timeout - context deadline exceeded", ""), provider.Ambiguous, "did not complete"},
		"gateway":         {502, "<html>bad gateway</html>", provider.Ambiguous, "is there a proxy?"},
		"away":            {503, status("ServiceUnavailable", "apiserver not ready", ""), provider.Unavailable, "not ready"},
		"HTML":            {200, "<html>hello</html>", provider.Ambiguous, "makes no sense"},
		"truncated":       {201, `{"kind":"Pod","metadata":{"name":"liv`, provider.Ambiguous, "makes no sense"},
		"error inside":    {200, status("Forbidden", "no", "pods"), provider.Ambiguous, "makes no sense"},
		"another Pod":     {201, `{"metadata":{"name":"live-other","uid":"1"},"status":{"phase":"Pending"}}`, provider.Ambiguous, "makes no sense"},
		"a secret in it":  {400, status("BadRequest", "the token "+secret+" is bad", ""), provider.Invalid, "the token … is bad"},
	} {
		t.Run(name, func(t *testing.T) {
			p := p
			if c.want == provider.RateLimited {
				p = open(t, cfg) // it keeps to it
			}
			host.Answer(func(w http.ResponseWriter, r *http.Request) {
				code, body := c.status, c.body
				if r.Method == http.MethodGet { // whether an earlier call made a Pod
					code, body = http.StatusNotFound, status("NotFound", `pods "x" not found`, "pods")
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(code)
				_, _ = io.WriteString(w, body)
			})
			defer func() { _ = host.Heal(t.Context()) }()
			_, err := p.Allocate(t.Context(), order("shooter", "eu"))
			if provider.ReasonOf(err) != c.want || !strings.Contains(err.Error(), c.says) || strings.Contains(wordsOf(err), "rpc error") {
				t.Errorf("got %v; want %v with %q", err, c.want, c.says)
			}
			if err != nil && (strings.Contains(err.Error(), "social.") || strings.Contains(err.Error(), secret)) {
				t.Errorf("the message has a token: %v", err)
			}
		})
	}
}

// What is no word of an API server on a Pod does not end a server, whatever its status.
func TestGetKnowsWhoAnswers(t *testing.T) {
	host, cfg := start(t, cluster())
	p := open(t, cfg)
	req := order("shooter", "eu")
	allocate(t, p, req)
	for name, c := range map[string]struct {
		status int
		body   string
		want   providerv1.FailureReason
	}{
		"the Pod is gone":  {404, status("NotFound", `pods "x" not found`, "pods"), provider.NotFound},
		"a proxy":          {404, "404 page not found", provider.Unavailable},
		"another status":   {404, status("Unknown", "no", ""), provider.Unavailable},
		"no Pod":           {200, "{}", provider.Unavailable},
		"another Pod":      {200, `{"metadata":{"name":"x","uid":"1"},"status":{"phase":"Failed"}}`, provider.Unavailable},
		"an unknown phase": {200, `{"metadata":{"name":"` + podName(req) + `","uid":"1","labels":{"berth.dev/deployment":"live","berth.dev/attempt":"` + req.GetAttemptId() + `"}},"status":{"phase":"Dancing"}}`, provider.Unavailable},
	} {
		host.Answer(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		if s, err := get(p, req); provider.ReasonOf(err) != c.want {
			t.Errorf("%s: %v, %v; want %v", name, s, err, c.want)
		}
	}
	_ = host.Heal(t.Context())
}

func TestRetryAfter(t *testing.T) {
	host, cfg := start(t, cluster())
	p := open(t, cfg)
	_ = host.Throttle(t.Context(), 12*time.Second)
	_, err := p.Allocate(t.Context(), order("shooter", "eu"))
	if after := provider.RetryAfterOf(err); provider.ReasonOf(err) != provider.RateLimited || after < 11*time.Second || after > 12*time.Second {
		t.Errorf("%v, after %v", err, after)
	}
}

// What the configuration says and the cluster does not have.
func TestWhatIsNotThere(t *testing.T) {
	_, cfg := start(t, cluster())
	typo, moon := cfg.Builds["racer"], cfg.Regions["eu"]
	typo.PodSpec = map[string]any{"containers": []any{map[string]any{"name": "server", "image": "i", "imagePullPolizy": "Always"}}}
	moon.Namespace = "moon"
	cfg.Builds["typo"], cfg.Regions["moon"] = typo, moon
	p := open(t, cfg)
	for says, req := range map[string]*providerv1.AllocateRequest{
		"there are racer, shooter, typo": order("chess", "eu"), "there are eu, moon, us": order("shooter", "mars"),
		`unknown field "spec.containers[0].imagePullPolizy"`: order("typo", "eu"), `namespaces "moon" not found`: order("shooter", "moon"),
	} {
		if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v; want %q", err, says)
		}
	}
}

// A token that is replaced is used at once, as that of a Pod is every hour; one that is gone is said to be.
func TestTheTokenIsReadForEachCall(t *testing.T) {
	_, cfg := start(t, cluster())
	p := open(t, cfg)
	if err := os.WriteFile(string(cfg.TokenFile), []byte("expired"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Allocate(t.Context(), order("shooter", "eu")); provider.ReasonOf(err) != provider.Unauthenticated {
		t.Errorf("with an expired token: %v", err)
	}
	if err := os.Remove(string(cfg.TokenFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Allocate(t.Context(), order("shooter", "eu")); provider.ReasonOf(err) != provider.Unauthenticated || !strings.Contains(err.Error(), "kubernetes.token_file") {
		t.Errorf("without a token: %v", err)
	}
	if err := os.WriteFile(string(cfg.TokenFile), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	allocate(t, p, order("shooter", "eu"))
}

// The stand-in refuses what an API server refuses.
func TestTheStandInRefusesAWrongShape(t *testing.T) {
	_, cfg := start(t, cluster())
	for name, c := range map[string]struct {
		path, body string
		want       int
	}{
		"another kind":    {"/pods", `{"apiVersion":"v1","kind":"pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"}]}}`, 400},
		"a name in caps":  {"/pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"A"},"spec":{"containers":[{"name":"c","image":"i"}]}}`, 422},
		"a long label":    {"/pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"a":"` + strings.Repeat("a", 64) + `"}},"spec":{"containers":[{"name":"c","image":"i"}]}}`, 422},
		"no containers":   {"/pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{}}`, 422},
		"an unknown word": {"/pods?fieldValidation=Strict", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"container":[]}}`, 400},
		"no base64":       {"/secrets", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"},"data":{"bootstrap":"{}"}}`, 422},
		"an owner":        {"/secrets", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a","ownerReferences":[{"kind":"Pod","name":"a"}]}}`, 422},
	} {
		if got, answer := ask(t, cfg, "POST", "/api/v1/namespaces/games"+c.path, c.body); got != c.want || answer["kind"] != "Status" {
			t.Errorf("%s: %d %v, want %d", name, got, answer, c.want)
		}
	}
}
