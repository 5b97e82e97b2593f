// Package edgegap stands in for the API of Edgegap, as its published API descriptions (v1 2026.04.24, v2 2026.03.16) and its documentation say it is. Each rule
// names the statement that it enforces. What is not documented is said to be an assumption.
package edgegap

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/berth-dev/berth/test/hosts/standin"
)

// readyAfter is how many looks at a deployment it takes until it is ready. An assumption, in place of the seconds that it really takes.
const readyAfter = 3

// Words of current_status, which has them after a dot ("Status.SEEKING") and, as Edgegap's own client expects too, after an underscore.
const (
	seeking    = "SEEKING"
	deploying  = "DEPLOYING"
	ready      = "READY"
	failed     = "ERROR"
	terminated = "TERMINATED"
)

// Port is one of an application's version.
type Port struct {
	Internal int
	Protocol string
	// TLS says that there is a TLS proxy before it ("only available with ports WS and HTTP").
	TLS bool
}

// Config configures a stand-in.
type Config struct {
	// Token of the organization, which goes after the word "token".
	Token string
	// Versions by application. Servers are not restarted by them (restart_policy never).
	Versions map[string][]string
	// Ports of all versions, by name.
	Ports map[string]Port
	// Run runs the servers; nil: they are only said to run.
	Run standin.Run
}

// New returns the stand-in.
func New(cfg Config) *standin.Host {
	a := &api{cfg: cfg, servers: standin.NewServers(cfg.Run), byID: make(map[string]*deployment)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v2/deployments", a.signed(a.deploy))
	mux.HandleFunc("GET /v1/status/{id}", a.signed(a.status))
	mux.HandleFunc("GET /v1/deployments", a.signed(a.list))
	mux.HandleFunc("DELETE /v1/stop/{id}", a.signed(a.stop))
	return standin.New(standin.Dialect{
		Creates:   func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Path == "/v2/deployments" },
		Throttled: throttled,
		Full:      a.signed(a.full),
		Refused:   func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusUnauthorized, "Invalid token") },
	}, a.servers, mux)
}

// throttled: there are rate limits, and what is said beyond them is not documented. That it is 429 with Retry-After is an assumption.
func throttled(w http.ResponseWriter, _ *http.Request, after time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())))
	refuse(w, http.StatusTooManyRequests, "Too many requests")
}

// refuse answers with an Error ("required: message").
func refuse(w http.ResponseWriter, status int, message string) {
	answer(w, status, map[string]any{"message": message})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// deployment is a server.
type deployment struct {
	id, app, version string
	tags             []string
	number           int    // in the order of creation
	error            string // why it is in error
	looks            int    // at it, which is how time passes
	stopping, ended  bool
	shown, hidden    int // lists that were answered since it was made, and since it ended
	end              func()
}

// word is what its status says.
func (d *deployment) word() string {
	switch {
	case d.ended:
		return terminated
	case d.error != "":
		return failed
	case d.looks >= readyAfter:
		return ready
	case d.looks == readyAfter-1:
		return deploying
	default:
		return seeking
	}
}

// stop is what a request to stop it brings about ("stops deployment once either of these statuses is reached").
func (d *deployment) stop() {
	if d.stopping && !d.ended && (d.word() == ready || d.word() == failed) {
		d.ended = true
		d.end()
	}
}

type api struct {
	cfg     Config
	servers *standin.Servers
	mu      sync.Mutex
	all     []*deployment // that a list may have, the oldest first
	byID    map[string]*deployment
}

// signed wants the organization's token ("Authorization: token xxxxxxxx-…", the word included).
func (a *api) signed(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "token "+a.cfg.Token {
			refuse(w, http.StatusUnauthorized, "Invalid token")
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		next(w, r)
	}
}

// deploy starts a server ("202 Deployment Request Accepted"). There is no idempotency key: two requests are two deployments.
func (a *api) deploy(w http.ResponseWriter, r *http.Request) {
	o, ok := a.order(w, r)
	if !ok {
		return
	}
	d := a.add(o)
	stop := a.servers.Start([]byte(o.variable("BERTH_BOOTSTRAP")), func() { a.exited(d) })
	d.end = stop
	answer(w, http.StatusAccepted, map[string]any{"request_id": d.id})
}

// full has no room ("422: Could not allocate an Edge Server for the deployment. A deployment has been created. Deployment is in error state").
func (a *api) full(w http.ResponseWriter, r *http.Request) {
	o, ok := a.order(w, r)
	if !ok {
		return
	}
	d := a.add(o)
	d.error, d.end = "No location could be found", func() {}
	answer(w, http.StatusUnprocessableEntity, map[string]any{"request_id": d.id, "message": d.error})
}

func (a *api) add(o order) *deployment {
	n := len(a.byID)
	d := &deployment{id: fmt.Sprintf("%012x", 0xc0653765de00+n), app: *o.Application, version: *o.Version, tags: o.Tags, number: n}
	a.all = append(a.all, d)
	a.byID[d.id] = d
	return d
}

// exited is a server that ended by itself ("never: automatically stop deployments when your server process exits").
func (a *api) exited(d *deployment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d.ended = true
}

func (a *api) find(w http.ResponseWriter, r *http.Request) *deployment {
	d := a.byID[r.PathValue("id")]
	if d == nil {
		refuse(w, http.StatusNotFound, "Deployment not found")
		return nil
	}
	d.looks++
	d.stop()
	return d
}

// status answers with a V1DeploymentStatus, all of its required members and those that a provider may use.
func (a *api) status(w http.ResponseWriter, r *http.Request) {
	d := a.find(w, r)
	if d == nil {
		return
	}
	word, prefix := d.word(), []string{"Status.", "STATUS_"}[d.number%2]
	answer(w, http.StatusOK, map[string]any{
		"request_id": d.id, "fqdn": host(d), "app_name": d.app, "app_version": d.version, "current_status": prefix + word, "running": word == ready,
		"start_time": "2026-04-22 12:00:46.444265", "elapsed_time": 0, "max_duration": 1440, "error": word == failed, "error_detail": nullable(d.error), "public_ip": "192.53.120.48",
		"ports": a.ports(d), "tags": d.tags, "location": map[string]any{"city": "Montreal", "country": "Canada", "latitude": 45.508888, "longitude": -73.561668},
	})
}

func nullable(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func host(d *deployment) string { return d.id + ".pr.edgegap.net" }

// ports are mapped once the deployment is ready, by their names ("external: Randomly assigned port").
func (a *api) ports(d *deployment) map[string]any {
	ports := map[string]any{}
	if d.word() != ready {
		return ports
	}
	names := make([]string, 0, len(a.cfg.Ports))
	for name := range a.cfg.Ports {
		names = append(names, name)
	}
	slices.Sort(names)
	for n, name := range names {
		p, external := a.cfg.Ports[name], 30_000+(d.number*len(names)+n)%29_999
		ports[name] = map[string]any{
			"name": name, "internal": p.Internal, "external": external, "protocol": p.Protocol, "tls_upgrade": p.TLS, "link": fmt.Sprintf("%s:%d", host(d), external),
		}
	}
	return ports
}

// stop asks a server to end ("Returns 200 or 202 if deployment status is not READY and not ERROR"; "410 Instance Already terminated").
func (a *api) stop(w http.ResponseWriter, r *http.Request) {
	d := a.find(w, r)
	switch {
	case d == nil:
	case d.ended:
		refuse(w, http.StatusGone, "Instance already terminated")
	default:
		d.stopping = true
		d.stop()
		status := http.StatusAccepted
		if d.ended {
			status = http.StatusOK
		}
		answer(w, status, map[string]any{"message": d.id + " - Delete request will be processed soon"})
	}
}
