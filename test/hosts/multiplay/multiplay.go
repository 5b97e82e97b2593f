// Package multiplay stands in for Multiplay's API of allocations, in both its dialects: that of Rocket Science (an API key) and that of Unity (a key that is
// exchanged for a token). It follows Unity's pages about Multiplay Hosting, the reference of its package com.unity.services.apis, and Rocket Science's sample
// of an allocator. Each rule names the statement that it enforces. What is not documented is said to be an assumption.
package multiplay

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/test/hosts/standin"
)

const (
	// maxBody is "The body size is capped at 10kb to prevent allocation payloads being too large" (AllocateRequest).
	maxBody = 10 << 10
	// maxIDs is how many allocations one list may be asked for. An assumption, after the batches of up to 100 of the older API.
	maxIDs = 100
	// looksToShow is how often an allocation is looked at before its server shows. An assumption: it takes some time.
	looksToShow = 1
	// callsToDeallocate is how many calls about an allocation pass before its deallocation is done: "Multiplay Hosting queues the deallocation request"
	// (Deallocations). How long that takes is not documented.
	callsToDeallocate = 2
)

// Dialects.
const (
	RocketScience = "rocketscience"
	Unity         = "unity"
)

// Config configures a stand-in.
type Config struct {
	// Dialect is RocketScience or Unity.
	Dialect string
	// APIKey is what Rocket Science wants; KeyID and KeySecret are what Unity exchanges.
	APIKey, KeyID, KeySecret string
	// TokenLife is how long a token of Unity lasts. Default: an hour, as its page about authentication says.
	TokenLife time.Duration
	// Project and Environment are the only ones that there are.
	Project, Environment string
	// Fleets have build configurations, each of which may want its servers to say that they are ready.
	Fleets map[string]map[int64]Readiness
	// Regions that all fleets have.
	Regions []string
	// Slots is how many servers there are; 0: no limit.
	Slots int
	// Idle is how long a server without an allocation keeps its process. Default: a few seconds.
	Idle time.Duration
	// Run runs the servers; nil: they are only said to run, and never exit.
	Run standin.Run
}

// Readiness says that servers have to say that they are ready for players.
type Readiness bool

// Host is the stand-in.
type Host struct {
	*standin.Host
	api *api
}

// New returns a stand-in.
func New(cfg Config) *Host {
	if cfg.TokenLife == 0 {
		cfg.TokenLife = time.Hour
	}
	if cfg.Idle == 0 {
		cfg.Idle = idleTime
	}
	a := &api{cfg: cfg, run: standin.NewServers(cfg.Run), tokens: make(map[string]time.Time), allocations: make(map[string]*allocation)}
	base := "/v4/projects/{project}/environments/{environment}/fleets/{fleet}/allocations"
	mux := http.NewServeMux()
	if cfg.Dialect == Unity {
		base = strings.Replace(base, "/v4/", "/v1/allocations/", 1)
		mux.HandleFunc("POST /auth/v1/token-exchange", a.exchange)
	}
	mux.HandleFunc("POST "+base, a.signed(a.allocate))
	mux.HandleFunc("GET "+base, a.signed(a.list))
	mux.HandleFunc("GET "+base+"/{allocation}", a.signed(a.get))
	mux.HandleFunc("DELETE "+base+"/{allocation}", a.signed(a.deallocate)) // the pages name the operation ProcessDeallocation; its verb is an assumption
	return &Host{api: a, Host: standin.New(standin.Dialect{
		Throttled: throttled,
		Refused: func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, http.StatusUnauthorized, "the credentials are not accepted")
		},
		// Neither Full nor OverQuota: an allocation that has no server yet waits, "it remains a request until Multiplay Hosting finds the best possible server".
	}, a.run, mux)}
}

// LoseDeallocations has the next deallocations come to nothing once they are queued. An assumption: what is queued may fail.
func (h *Host) LoseDeallocations(n int) {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	h.api.lost = n
}

// Revoke makes all tokens of Unity worthless that there are.
func (h *Host) Revoke() {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	clear(h.api.tokens)
}

// Calls are how many requests there were of each kind.
type Calls struct{ Exchange, Allocate, Get, List, Deallocate int }

// Calls counts them.
func (h *Host) Calls() Calls {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	return h.api.calls
}

// throttled is the status of Unity's gateway; that it says when to come back is an assumption.
func throttled(w http.ResponseWriter, _ *http.Request, after time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())))
	refuse(w, http.StatusTooManyRequests, "Rate limit exceeded")
}

// refuse answers as ListAllocations400Response and its like: title, detail, status, requestId. That Rocket Science does too is an assumption.
func refuse(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "title": http.StatusText(status), "detail": detail, "requestId": uuid.NewString(), "details": []any{}})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// allocation is "a reservation of a game server for a game session".
type allocation struct {
	kind
	id, payload string
	restart     bool // "Flag whether game server requires restart or not" (AllocateRequest)
	readiness   bool
	number      int
	created     time.Time
	server      *server // nil: it waits for one
	looks       int
	listed      bool
	ending      int // calls until its deallocation is done; 0: none is queued
}

type api struct {
	cfg         Config
	run         *standin.Servers
	mu          sync.Mutex
	calls       Calls
	tokens      map[string]time.Time // when each is over
	allocations map[string]*allocation
	waiting     []*allocation // for a server, the oldest first
	servers     []*server
	made        int
	lost        int // deallocations that will come to nothing
}

// signed wants "Authorization: Bearer", and a project, environment and fleet that there are.
func (a *api) signed(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if a.cfg.Dialect == Unity {
			ok = ok && time.Now().Before(a.tokens[token])
		} else {
			ok = ok && token == a.cfg.APIKey
		}
		switch {
		case !ok:
			refuse(w, http.StatusUnauthorized, "the token is invalid or expired")
		case r.PathValue("project") != a.cfg.Project || r.PathValue("environment") != a.cfg.Environment:
			refuse(w, http.StatusForbidden, "no access to this project and environment")
		case a.cfg.Fleets[r.PathValue("fleet")] == nil:
			refuse(w, http.StatusNotFound, "fleet not found")
		default:
			next(w, r)
		}
	}
}

// order is AllocateRequest; its first three members are "(required)".
type order struct {
	AllocationID         *string `json:"allocationId"`
	BuildConfigurationID *int64  `json:"buildConfigurationId"`
	RegionID             *string `json:"regionId"`
	Payload              string  `json:"payload"`
	Restart              bool    `json:"restart"`
}

// check returns what is wrong with an order; empty: nothing.
func (a *api) check(o order, fleet string) string {
	switch {
	case o.AllocationID == nil || uuid.Validate(*o.AllocationID) != nil: // "The uuid for the allocation"
		return "allocationId: must be a UUID"
	case o.BuildConfigurationID == nil:
		return "buildConfigurationId: is required"
	case o.RegionID == nil || uuid.Validate(*o.RegionID) != nil:
		return "regionId: must be a UUID"
	case !slices.Contains(a.cfg.Regions, *o.RegionID):
		return "regionId: the fleet is not in this region"
	}
	if _, ok := a.cfg.Fleets[fleet][*o.BuildConfigurationID]; !ok {
		return "buildConfigurationId: the fleet does not have it"
	}
	return ""
}

// allocate is ProcessAllocation. "If an allocation with this UUID exists, no action is taken."
func (a *api) allocate(w http.ResponseWriter, r *http.Request) {
	a.calls.Allocate++
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil || len(raw) > maxBody {
		refuse(w, http.StatusBadRequest, "the body is too large")
		return
	}
	var in order
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields() // an assumption, and on the safe side
	if err := d.Decode(&in); err != nil || r.Header.Get("Content-Type") != "application/json" {
		refuse(w, http.StatusBadRequest, "the body is no request for an allocation")
		return
	}
	fleet := r.PathValue("fleet")
	if problem := a.check(in, fleet); problem != "" {
		refuse(w, http.StatusBadRequest, problem)
		return
	}
	if a.allocations[*in.AllocationID] == nil {
		a.made++
		one := &allocation{
			kind: kind{fleet, *in.RegionID, *in.BuildConfigurationID}, id: *in.AllocationID, payload: in.Payload, restart: in.Restart,
			readiness: bool(a.cfg.Fleets[fleet][*in.BuildConfigurationID]), number: a.made, created: time.Now(),
		}
		a.allocations[one.id], a.waiting = one, append(a.waiting, one)
		a.place()
	}
	answer(w, http.StatusOK, map[string]any{"allocationId": *in.AllocationID, "href": r.URL.Path + "/" + *in.AllocationID})
}

func (a *api) find(w http.ResponseWriter, r *http.Request) *allocation {
	one := a.called(r.PathValue("allocation"), r.PathValue("fleet"))
	if one == nil {
		refuse(w, http.StatusNotFound, "allocation not found")
	}
	return one
}

// called is the allocation that a call is about; nil: there is none, or not any more.
func (a *api) called(id, fleet string) *allocation {
	one := a.allocations[id]
	if one == nil || one.fleet != fleet {
		return nil
	}
	if one.ending == 0 {
		return one
	}
	if one.ending--; one.ending > 0 {
		return one
	}
	if a.lost > 0 {
		a.lost--
		return one
	}
	a.forget(one)
	return nil
}

func (a *api) get(w http.ResponseWriter, r *http.Request) {
	a.calls.Get++
	if one := a.find(w, r); one != nil {
		one.listed = true
		answer(w, http.StatusOK, one.look())
	}
}

// deallocate is ProcessDeallocation: "Multiplay Hosting queues the deallocation request" (Deallocations). That one is queued once is an assumption.
func (a *api) deallocate(w http.ResponseWriter, r *http.Request) {
	a.calls.Deallocate++
	if one := a.find(w, r); one != nil {
		if one.ending == 0 {
			one.ending = callsToDeallocate
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// list is ListAllocations: "ids", "limit" and "offset". One that was just made is not in it until it was asked for once, an
// assumption.
func (a *api) list(w http.ResponseWriter, r *http.Request) {
	a.calls.List++
	ids := strings.Split(r.URL.Query().Get("ids"), ",")
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if len(ids) > maxIDs || err != nil || limit < 1 || limit > maxIDs || slices.ContainsFunc(ids, func(id string) bool { return uuid.Validate(id) != nil }) {
		refuse(w, http.StatusBadRequest, "ids: are up to 100 UUIDs; limit: is 1 to 100")
		return
	}
	found := []any{}
	for _, id := range ids {
		switch one := a.called(id, r.PathValue("fleet")); {
		case one == nil:
		case !one.listed:
			one.listed = true
		case len(found) < limit:
			found = append(found, one.look())
		}
	}
	answer(w, http.StatusOK, map[string]any{"allocations": found, "pagination": map[string]any{"limit": limit, "offset": 0}})
}

// look is what the API says of an allocation, and what time does to it: its server shows, and then is ready.
func (one *allocation) look() map[string]any {
	said := map[string]any{
		"allocationId": one.id, "buildConfigurationId": one.build, "fleetId": one.fleet, "regionId": one.region, "requestId": uuid.NewString(), "readiness": one.readiness,
		"created": stamp(one.created), "requested": stamp(one.created), "fulfilled": "", "ready": "", "ipv4": "", "ipv6": "", "gamePort": 0, "machineId": 0, "serverId": 0,
	}
	if one.server != nil {
		one.looks++
	}
	if one.looks > looksToShow {
		said["fulfilled"], said["ipv4"], said["gamePort"] = stamp(one.created.Add(time.Second)), fmt.Sprintf("203.0.113.%d", 1+one.number%250), 9000+one.number%1000
		said["machineId"], said["serverId"] = 1212+one.number, 70_000+one.number
	}
	if one.readiness && one.looks > looksToShow+1 {
		said["ready"] = stamp(one.created.Add(2 * time.Second))
	}
	return said
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
