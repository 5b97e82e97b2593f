package kubernetes_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	grpcstatus "google.golang.org/grpc/status"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/kubernetes"
	kubernetesapi "github.com/berth-dev/berth/test/hosts/kubernetes"
)

const (
	starting = providerv1.ServerState_SERVER_STATE_STARTING
	running  = providerv1.ServerState_SERVER_STATE_RUNNING
	stopping = providerv1.ServerState_SERVER_STATE_STOPPING
	exited   = providerv1.ServerState_SERVER_STATE_EXITED
)

const deployment = "live"

func order(build, region string) *providerv1.AllocateRequest {
	instance := uuid.NewString()
	return &providerv1.AllocateRequest{
		AttemptId: instance + "-1", Namespace: "default", InstanceId: instance, Build: build, Region: region, Deployment: deployment,
		Bootstrap: providertest.Bootstrap(instance+"-1", instance),
	}
}

func allocate(t *testing.T, p *kubernetes.Provider, req *providerv1.AllocateRequest) *providerv1.Server {
	t.Helper()
	resp, err := p.Allocate(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetServer()
}

func get(p *kubernetes.Provider, req *providerv1.AllocateRequest) (*providerv1.Server, error) {
	resp, err := p.Get(context.Background(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: req.GetDeployment()})
	return resp.GetServer(), err
}

// settled looks until the stand-in's kubelet has nothing left to do.
func settled(t *testing.T, p *kubernetes.Provider, req *providerv1.AllocateRequest) *providerv1.Server {
	t.Helper()
	var s *providerv1.Server
	for range 4 {
		var err error
		if s, err = get(p, req); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// ask asks the API server itself.
func ask(t *testing.T, cfg kubernetes.Config, method, path, body string) (int, map[string]any) {
	t.Helper()
	pem, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	req, _ := http.NewRequest(method, cfg.URL+path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer
}

func podName(req *providerv1.AllocateRequest) string { return deployment + "-" + req.GetAttemptId() }

// secretPath is where the Secret is that a Pod has its document from.
func secretPath(t *testing.T, pod map[string]any) string {
	t.Helper()
	found := regexp.MustCompile(`"secretKeyRef":{"key":"bootstrap","name":"([^"]+)"}`).FindStringSubmatch(show(pod))
	if found == nil {
		t.Fatalf("the Pod has no Secret: %s", show(pod))
	}
	return "/api/v1/namespaces/games/secrets/" + found[1]
}

func show(v any) string {
	raw, _ := json.Marshal(v)
	return string(raw)
}

func TestThePodAndItsSecret(t *testing.T) {
	_, cfg := start(t, cluster())
	p := open(t, cfg)
	req := order("shooter", "eu")
	if s := allocate(t, p, req); s.GetState() != starting || s.GetExternalId() != "games/"+podName(req) || s.GetRegion() != "eu" {
		t.Errorf("got %v", s)
	}
	_, pod := ask(t, cfg, "GET", "/api/v1/namespaces/games/pods/"+podName(req), "")
	all := show(pod)
	for _, want := range []string{
		`"app":"shooter"`, `"team":"a"`, `"app.kubernetes.io/managed-by":"berth"`, `"berth.dev/deployment":"live"`, `"berth.dev/attempt":"` + req.GetAttemptId() + `"`,
		`"berth.dev/instance":"` + req.GetInstanceId() + `"`, `"berth.dev/region":"eu"`, `"berth.dev/build":"shooter"`, `"berth.dev/namespace":"default"`,
		`"restartPolicy":"Never"`, `"automountServiceAccountToken":false`, `"nodeSelector":{"zone":"eu"}`, `{"name":"MODE","value":"ranked"}`,
		`{"name":"BERTH_BOOTSTRAP","valueFrom":{"secretKeyRef":{"key":"bootstrap","name":"` + podName(req) + `-`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("the Pod has no %s: %s", want, all)
		}
	}
	if strings.Contains(all, "social.") || strings.Count(all, "BERTH_BOOTSTRAP") != 1 {
		t.Errorf("the Pod has a token, or more than one container has the document: %s", all)
	}
	_, secret := ask(t, cfg, "GET", secretPath(t, pod), "")
	data, _ := secret["data"].(map[string]any)
	document, _ := base64.StdEncoding.DecodeString(data["bootstrap"].(string))
	uid, _ := pod["metadata"].(map[string]any)["uid"].(string)
	if string(document) != string(req.GetBootstrap()) || !strings.Contains(show(secret), `"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"`+podName(req)+`","uid":"`+uid+`"}]`) {
		t.Errorf("the Secret: %s", show(secret))
	}
	release(t, p, req)
	for status := 0; status != http.StatusNotFound; { // it is collected
		if status, _ = ask(t, cfg, "GET", secretPath(t, pod), ""); t.Context().Err() != nil {
			t.Fatal("the Secret outlives its Pod")
		}
	}
}

func release(t *testing.T, p *kubernetes.Provider, req *providerv1.AllocateRequest) {
	t.Helper()
	for range 5 {
		resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: req.GetDeployment()})
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetState() == exited {
			return
		}
	}
	t.Fatal("the server does not end")
}

// Every port of the server has a host port of its own from the range, and players are told the node's address.
func TestEndpoints(t *testing.T) {
	for address, want := range map[string]string{
		"": "198.51.100.", "ExternalIP": "198.51.100.", "InternalIP": "10.0.0.", "PodIP": "10.244.1.7", "eu.example.com": "eu.example.com", "2001:db8::1": "2001:db8::1",
	} {
		t.Run(address, func(t *testing.T) {
			_, cfg := start(t, cluster())
			eu := cfg.Regions["eu"]
			eu.Address = address
			cfg.Regions["eu"] = eu
			p := open(t, cfg)
			req := order("shooter", "eu")
			if s := allocate(t, p, req); len(s.GetEndpoints()) != 0 {
				t.Errorf("before there is a node: %v", s)
			}
			s := settled(t, p, req)
			if s.GetState() != running || len(s.GetEndpoints()) != 2 {
				t.Fatalf("got %v", s)
			}
			game, query := s.GetEndpoints()[0], s.GetEndpoints()[1]
			if game.GetName() != "game" || game.GetProtocol() != typev1.Protocol_PROTOCOL_UDP || query.GetName() != "query" || query.GetProtocol() != typev1.Protocol_PROTOCOL_TCP ||
				!strings.HasPrefix(game.GetHost(), want) || query.GetHost() != game.GetHost() {
				t.Errorf("got %v", s.GetEndpoints())
			}
			inRange := func(e *typev1.Endpoint) bool { return e.GetPort() >= 7000 && e.GetPort() <= 7999 }
			switch {
			case address == "PodIP" && (game.GetPort() != 7777 || query.GetPort() != 27015):
				t.Errorf("got %v", s.GetEndpoints())
			case address != "PodIP" && (!inRange(game) || !inRange(query) || game.GetPort() == query.GetPort()):
				t.Errorf("got %v", s.GetEndpoints())
			}
		})
	}
}

// A server with a readiness probe runs once that has succeeded; before, a repeat asks for no second Secret.
func TestAReadinessProbe(t *testing.T) {
	world := cluster()
	var secrets atomic.Int32
	world.Allow = func(verb, resource, _ string) bool {
		if verb+resource == "createsecrets" {
			secrets.Add(1)
		}
		return true
	}
	_, cfg := start(t, world)
	cfg.Builds["probed"] = kubernetes.Build{PodSpec: container(map[string]any{"readinessProbe": map[string]any{"tcpSocket": map[string]any{"port": 7777}}})}
	p := open(t, cfg)
	req := order("probed", "eu")
	allocate(t, p, req)
	waited := false
	for s := (*providerv1.Server)(nil); s.GetState() != running; {
		before := secrets.Load()
		if s = allocate(t, p, req); s.GetState() != starting && s.GetState() != running {
			t.Fatal(s)
		}
		if strings.HasPrefix(s.GetMessage(), "the Pod is not ready yet") {
			if waited = true; secrets.Load() != before {
				t.Error("a Pod that runs is given a Secret")
			}
		}
	}
	if !waited {
		t.Error("it ran before it was ready")
	}
}

// A Pod that no node has room for is given up after a while, and not before.
func TestUnschedulable(t *testing.T) {
	for _, c := range []struct {
		age  time.Duration
		want providerv1.ServerState
		says string
	}{{0, starting, ""}, {time.Minute, exited, "no node has room for it since 30s: 0/3 nodes are available"}} {
		world := cluster()
		world.Age = c.age
		_, cfg := start(t, world)
		cfg.Regions["moon"] = kubernetes.Region{Namespace: "games", NodeSelector: map[string]string{"zone": "moon"}}
		p := open(t, cfg)
		req := order("shooter", "moon")
		allocate(t, p, req)
		if s := settled(t, p, req); s.GetState() != c.want || !strings.HasPrefix(s.GetMessage(), c.says) {
			t.Errorf("after %v: %v", c.age, s)
		}
		release(t, p, req)
	}
}

func TestAnImageThatIsNotThere(t *testing.T) {
	_, cfg := start(t, cluster())
	cfg.Builds["none"] = kubernetes.Build{PodSpec: map[string]any{"containers": []any{map[string]any{"name": "server", "image": "registry.example.com/shooters/none:1"}}}}
	p := open(t, cfg)
	req := order("none", "eu")
	allocate(t, p, req)
	if s := settled(t, p, req); s.GetState() != exited || !strings.Contains(s.GetMessage(), "image registry.example.com/shooters/none:1: ImagePullBackOff") {
		t.Errorf("got %v", s)
	}
}

func TestAServerThatEndsByItself(t *testing.T) {
	world, over := cluster(), make(chan struct{})
	world.Run = func(ctx context.Context, _ []byte) {
		select {
		case <-over:
		case <-ctx.Done():
		}
	}
	_, cfg := start(t, world)
	p := open(t, cfg)
	req := order("shooter", "eu")
	allocate(t, p, req)
	if s := settled(t, p, req); s.GetState() != running {
		t.Errorf("got %v", s)
	}
	close(over)
	var s *providerv1.Server
	for s.GetState() != exited && t.Context().Err() == nil { // its kubelet says so at some time
		s, _ = get(p, req)
	}
	if !strings.Contains(s.GetMessage(), "exit status 0, Completed") {
		t.Errorf("got %v", s)
	}
	if resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment}); err != nil || len(resp.GetServers()) != 0 {
		t.Errorf("got %v, %v", resp, err)
	}
	release(t, p, req)
}

// rights are all but some.
func rights(without ...string) func(verb, resource, namespace string) bool {
	return func(verb, resource, _ string) bool { return !slices.Contains(without, verb+" "+resource) }
}

// A role that lacks something is named with what it lacks; nothing is left behind.
func TestRights(t *testing.T) {
	for right, says := range map[string]string{
		"create pods":    `cannot create resource "pods" in API group "" in the namespace "games"`,
		"create secrets": `cannot create resource "secrets"`,
	} {
		world := cluster()
		world.Allow = rights(right)
		host, cfg := start(t, world)
		p := open(t, cfg)
		req := order("shooter", "eu")
		if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Unauthenticated || !strings.Contains(err.Error(), says) {
			t.Errorf("without %s: %v", right, err)
		}
		if _, err := get(p, req); provider.ReasonOf(err) != provider.NotFound || host.Count().Started != 0 {
			t.Errorf("without %s: something is left: %v", right, err)
		}
	}
}

// A Pod that has no Secret, and may not be deleted, waits for the repeat, for which it is no server yet; without one it is given up.
func TestAPodWithoutItsSecret(t *testing.T) {
	for _, c := range []struct {
		age   time.Duration
		want  providerv1.ServerState
		fails providerv1.FailureReason
	}{{0, starting, 0}, {time.Minute, exited, provider.Unavailable}} {
		var all atomic.Bool
		world := cluster()
		world.Age = c.age
		world.Allow = func(verb, resource, namespace string) bool {
			return all.Load() || rights("create secrets", "delete pods")(verb, resource, namespace)
		}
		host, cfg := start(t, world)
		p := open(t, cfg)
		req := order("shooter", "eu")
		if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Ambiguous || !strings.Contains(err.Error(), "is left without a Secret") {
			t.Errorf("got %v", err)
		}
		if s := settled(t, p, req); s.GetState() != c.want || s.GetFailure() != c.fails {
			t.Errorf("after %v: %v", c.age, s)
		}
		all.Store(true)
		if s, err := get(p, req); c.want == starting && provider.ReasonOf(err) != provider.NotFound {
			t.Errorf("what is no whole server is taken for one: %v, %v", s, err)
		}
		s := allocate(t, p, req)
		if started := host.Count().Started; s.GetState() != c.want || (c.want == starting) != (started == 1) {
			t.Errorf("after %v, the repeat: %v, %d started", c.age, s, started)
		}
		if c.want == starting {
			if s := settled(t, p, req); s.GetState() != running {
				t.Errorf("after the repeat: %v", s)
			}
		}
		release(t, p, req)
	}
}

func TestQuota(t *testing.T) {
	world := cluster()
	world.Pods = map[string]int{"games": 1}
	_, cfg := start(t, world)
	p := open(t, cfg)
	first, second := order("shooter", "eu"), order("shooter", "eu")
	allocate(t, p, first)
	if _, err := p.Allocate(t.Context(), second); provider.ReasonOf(err) != provider.Quota || !strings.Contains(err.Error(), "exceeded quota: games, requested: pods=1, used: pods=1, limited: pods=1") {
		t.Errorf("got %v", err)
	}
	release(t, p, first)
	allocate(t, p, second)
}

// A Pod that somebody else made under that name is neither taken up nor deleted.
func TestAStrangersPod(t *testing.T) {
	_, cfg := start(t, cluster())
	p := open(t, cfg)
	req := order("shooter", "eu")
	stranger := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q},"spec":{"containers":[{"name":"c","image":"i"}]}}`, podName(req))
	if status, answer := ask(t, cfg, "POST", "/api/v1/namespaces/games/pods", stranger); status != http.StatusCreated {
		t.Fatal(answer)
	}
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), "is not Berth's") {
		t.Errorf("got %v", err)
	}
	if _, err := get(p, req); provider.ReasonOf(err) != provider.NotFound {
		t.Errorf("got %v", err)
	}
	release(t, p, req)
	if status, _ := ask(t, cfg, "GET", "/api/v1/namespaces/games/pods/"+podName(req), ""); status != http.StatusOK {
		t.Error("the stranger's Pod was deleted")
	}
}

// A deployment's name that makes the Pod's too long is in the labels in full.
func TestALongName(t *testing.T) {
	_, cfg := start(t, cluster())
	p := open(t, cfg)
	req := order("racer", "us")
	req.Deployment = strings.Repeat("d", 63)
	s := allocate(t, p, req)
	if name := strings.TrimPrefix(s.GetExternalId(), "games-us/"); len(name) > 63 || !strings.HasPrefix(name, "berth-") {
		t.Errorf("got %v", s)
	}
	if s, err := get(p, req); err != nil || s.GetAttemptId() != req.GetAttemptId() {
		t.Errorf("got %v, %v", s, err)
	}
	resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: req.GetDeployment(), PageToken: "1/"})
	if err != nil || len(resp.GetServers()) != 1 || resp.GetServers()[0].GetAttemptId() != req.GetAttemptId() {
		t.Errorf("got %v, %v", resp, err)
	}
	release(t, p, req)
}

// A list goes through all namespaces, and through all pages of each.
func TestListOfTwoNamespaces(t *testing.T) {
	_, cfg := start(t, cluster())
	p := open(t, cfg)
	want := make(map[string]string)
	for n := range 7 {
		region := []string{"eu", "us"}[n%2]
		req := order("shooter", region)
		allocate(t, p, req)
		want[req.GetAttemptId()] = region
	}
	token, pages := "", 0
	for {
		resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		pages++
		for _, s := range resp.GetServers() {
			if want[s.GetAttemptId()] != s.GetRegion() {
				t.Errorf("got %v", s)
			}
			delete(want, s.GetAttemptId())
		}
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
	}
	if len(want) != 0 || pages != 4 {
		t.Errorf("after %d pages %v are missing", pages, want)
	}
	for _, bad := range []string{"x", "2/", "-1/", "0"} {
		if _, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment, PageToken: bad}); provider.ReasonOf(err) != provider.Invalid {
			t.Errorf("page %q: %v", bad, err)
		}
	}
}

// Pods that are large, with what a studio or an operator of the cluster writes into them, are listed all the same.
func TestListOfLargePods(t *testing.T) {
	world := cluster()
	world.Page = 0 // as many as were asked for
	_, cfg := start(t, world)
	big := cfg.Builds["shooter"]
	big.HostPorts, big.Annotations = "", map[string]string{"notes": strings.Repeat("a", 150<<10)}
	big.PodSpec = container(nil)
	cfg.Builds["big"] = big
	p := open(t, cfg)
	const all = 60 // more than 8 MiB
	for range all {
		allocate(t, p, order("big", "eu"))
	}
	listed, token := 0, ""
	for more := true; more; more = token != "" {
		resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		listed, token = listed+len(resp.GetServers()), resp.GetNextPageToken()
	}
	if listed != all {
		t.Errorf("%d of %d are listed", listed, all)
	}
}

func wordsOf(err error) string { return grpcstatus.Convert(err).Message() }

// A Pod that a webhook has changed so that no Secret can be its document is not left.
func TestAPodThatAWebhookChanged(t *testing.T) {
	host := kubernetesapi.New(cluster())
	p := open(t, serve(t, host, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/pods") {
			body, _ := io.ReadAll(r.Body)
			body = regexp.MustCompile(`"secretKeyRef":{[^}]*}`).ReplaceAll(body, []byte(`"fieldRef":{"fieldPath":"metadata.name"}`))
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(string(body))), int64(len(body))
		}
		host.ServeHTTP(w, r)
	})))
	req := order("shooter", "eu")
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), "does a webhook change Pods?") {
		t.Errorf("got %v", err)
	}
	if s, err := get(p, req); provider.ReasonOf(err) != provider.NotFound {
		t.Errorf("the Pod is left: %v, %v", s, err)
	}
}

// A release names the very Pod that it has seen: another one of that name is left alone, and looked at by the repeat.
func TestReleaseNamesThePod(t *testing.T) {
	host, cfg := start(t, cluster())
	p := open(t, cfg)
	req := order("shooter", "eu")
	allocate(t, p, req)
	_, pod := ask(t, cfg, "GET", "/api/v1/namespaces/games/pods/"+podName(req), "")
	uid, _ := pod["metadata"].(map[string]any)["uid"].(string)
	var sent atomic.Value
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, show(pod))
			return
		}
		body, _ := io.ReadAll(r.Body)
		sent.Store(string(body))
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Conflict","message":"Operation cannot be fulfilled on pods \"x\": the UID in the precondition (a) does not match the UID in record (b). The object might have been deleted and then recreated","code":409}`)
	})
	resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: deployment})
	if err != nil || resp.GetState() != stopping {
		t.Errorf("got %v, %v", resp, err)
	}
	if want := `{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":"` + uid + `"}}`; sent.Load() != want {
		t.Errorf("sent %v, want %s", sent.Load(), want)
	}
	_ = host.Heal(t.Context())
	release(t, p, req)
}
