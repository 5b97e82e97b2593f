// Package hathora stands in for the API of Hathora Cloud, as its published SDK (github.com/hathora/cloud-sdk-go, 0.14) calls it, with the limits that its
// published plugin for Godot (github.com/hathora/hathora-godot-plugin, room_v2.gd and processes_v3.gd) has in its comments. Each rule names the statement of
// these or of its documentation that it enforces. What is not documented is said to be an assumption.
package hathora

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/berth-dev/berth/test/hosts/standin"
)

// regions are those of the SDK's enumeration.
var regions = []string{"Seattle", "Los_Angeles", "Washington_DC", "Chicago", "London", "Frankfurt", "Mumbai", "Singapore", "Tokyo", "Sydney", "Sao_Paulo", "Dallas",
	"Johannesburg", "Dubai"}

// roomIDs is "[ 1 .. 100 ] characters ^[a-zA-Z0-9_-]*$" (room_v2.gd).
var roomIDs = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,100}$`)

// maxRoomConfig is "(<= 10000 characters)" of roomConfig (room_v2.gd).
const maxRoomConfig = 10_000

// pollsToStart is how often connection info says that a room is starting.
const pollsToStart = 1

// idleTime is "After a process is in 'idle' state for 5 minutes, we automatically terminate the process" (Room Lifecycle); idle is one without rooms here.
const idleTime = 5 * time.Minute

// processesPage is how many processes a page has: "the 10 most recent processes" (processes_v3.gd), of which a test would need many.
const processesPage = 2

// Config configures a stand-in.
type Config struct {
	// Token of the organization.
	Token string
	// Deployments by application.
	Deployments map[string][]string
	// RoomsPerProcess is how many rooms a process has room for. Default: 1.
	RoomsPerProcess int
	// Run runs the servers; nil: they are only said to run, and never exit.
	Run standin.Run
}

// New returns the stand-in.
func New(cfg Config) *standin.Host {
	if cfg.RoomsPerProcess == 0 {
		cfg.RoomsPerProcess = 1
	}
	a := &api{cfg: cfg, servers: standin.NewServers(cfg.Run), rooms: make(map[string]*room)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /rooms/v2/{app}/create", a.signed(a.create))
	mux.HandleFunc("GET /rooms/v2/{app}/info/{room}", a.signed(a.info))
	mux.HandleFunc("GET /rooms/v2/{app}/connectioninfo/{room}", a.connection) // the SDK sends no credentials here
	mux.HandleFunc("POST /rooms/v2/{app}/destroy/{room}", a.signed(a.destroy))
	mux.HandleFunc("GET /rooms/v2/{app}/list/{process}/active", a.signed(a.active))
	mux.HandleFunc("GET /processes/v3/apps/{app}/processes/latest", a.signed(a.latest))
	mux.HandleFunc("GET /processes/v3/apps/{app}/processes/{process}", a.signed(a.process))
	mux.HandleFunc("POST /processes/v3/apps/{app}/processes/{process}/stop", a.signed(a.stop))
	return standin.New(standin.Dialect{
		Creates:   func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/create") },
		Throttled: throttled,
		OverQuota: func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, http.StatusPaymentRequired, "Billing or plan limit reached")
		},
		Refused: func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusUnauthorized, "Invalid token") },
	}, a.servers, mux)
}

// throttled is what the API of hosts behind a common gateway says; the SDK knows the status only.
func throttled(w http.ResponseWriter, _ *http.Request, after time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())))
	refuse(w, http.StatusTooManyRequests, "Too many requests")
}

// refuse answers as the SDK's ApiError: a message.
func refuse(w http.ResponseWriter, status int, message string) {
	answer(w, status, map[string]string{"message": message})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// room is "a game session or match" (Room).
type room struct {
	id, app, config string
	created         time.Time
	process         *process
	destroyed       bool
}

type api struct {
	cfg       Config
	servers   *standin.Servers
	mu        sync.Mutex
	rooms     map[string]*room // by id; ids are unique for ever ("error will be returned if roomId is not globally unique")
	processes []*process
	refused   int
}

// signed wants the organization's token ("Authorization: Bearer").
func (a *api) signed(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+a.cfg.Token {
			refuse(w, http.StatusUnauthorized, "Invalid token")
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if _, ok := a.cfg.Deployments[r.PathValue("app")]; !ok {
			refuse(w, http.StatusNotFound, "App not found")
			return
		}
		next(w, r)
	}
}

func (a *api) create(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Region       *string   `json:"region"`
		RoomConfig   *string   `json:"roomConfig"`
		DeploymentID string    `json:"deploymentId"`
		ClientIPs    *[]string `json:"clientIPs"`
	}
	raw, _ := io.ReadAll(r.Body)
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		refuse(w, http.StatusUnprocessableEntity, "Validation Failed")
		return
	}
	app, id := r.PathValue("app"), r.URL.Query().Get("roomId")
	switch {
	case in.Region == nil || !slices.Contains(regions, *in.Region): // required; an enumeration
		refuse(w, http.StatusUnprocessableEntity, "Validation Failed: region")
		return
	case id != "" && !roomIDs.MatchString(id):
		refuse(w, http.StatusUnprocessableEntity, "Validation Failed: roomId")
		return
	case in.RoomConfig != nil && utf8.RuneCountInString(*in.RoomConfig) > maxRoomConfig:
		refuse(w, http.StatusUnprocessableEntity, "Validation Failed: roomConfig")
		return
	case in.DeploymentID != "" && !slices.Contains(a.cfg.Deployments[app], in.DeploymentID):
		refuse(w, http.StatusNotFound, "Deployment not found")
		return
	case a.rooms[id] != nil: // which status it has, is not documented: each in turn that the SDK knows for this call
		a.refused++
		refuse(w, []int{http.StatusBadRequest, http.StatusUnprocessableEntity}[a.refused%2], "Room id is already in use")
		return
	}
	if id == "" {
		id = fmt.Sprintf("2swovpy%d", len(a.rooms))
	}
	o := &room{id: id, app: app, created: time.Now()}
	if in.RoomConfig != nil {
		o.config = *in.RoomConfig
	}
	a.rooms[id] = o
	a.schedule(o, in.DeploymentID, *in.Region)
	answer(w, http.StatusCreated, a.connectionData(o))
}

// connectionData is RoomConnectionData: exposedPort only once the process is active.
func (a *api) connectionData(o *room) map[string]any {
	data := map[string]any{"roomId": o.id, "processId": o.process.id, "status": "starting", "additionalExposedPorts": []any{}}
	if port := o.process.port; o.process.started() {
		data["status"] = "active"
		data["exposedPort"] = map[string]any{"name": "default", "host": "1.proxy.hathora.dev", "port": port, "transportType": "udp"}
		data["additionalExposedPorts"] = []any{map[string]any{"name": "Voice_Chat", "host": "1.proxy.hathora.dev", "port": port + 1, "transportType": "tls"}}
	}
	return data
}

func (a *api) find(w http.ResponseWriter, r *http.Request) *room {
	o := a.rooms[r.PathValue("room")]
	if o == nil || o.app != r.PathValue("app") {
		refuse(w, http.StatusNotFound, "Room not found")
		return nil
	}
	return o
}

func (a *api) connection(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.find(w, r)
	switch {
	case o == nil:
	case o.destroyed:
		refuse(w, http.StatusNotFound, "Room not found")
	default:
		o.process.polls++
		answer(w, http.StatusOK, a.connectionData(o))
	}
}

// info is a Room; its status scheduling, active or destroyed.
func (a *api) info(w http.ResponseWriter, r *http.Request) {
	o := a.find(w, r)
	if o == nil {
		return
	}
	body := a.roomData(o)
	body["allocations"] = []any{}
	answer(w, http.StatusOK, body)
}

func (a *api) roomData(o *room) map[string]any {
	body := map[string]any{"roomId": o.id, "appId": o.app, "roomConfig": o.config, "status": "active", "currentAllocation": map[string]any{
		"processId": o.process.id, "roomAllocationId": "e3a0aa32-1711-4036-acfa-008b96061a78", "scheduledAt": o.created, "unscheduledAt": nil,
	}}
	if o.destroyed {
		body["status"], body["currentAllocation"] = "destroyed", nil
	}
	return body
}

// destroy is DestroyRoom. The process stays: "By destroying a room you free up space in the process for other rooms" (Room Lifecycle).
func (a *api) destroy(w http.ResponseWriter, r *http.Request) {
	o := a.find(w, r)
	switch {
	case o == nil:
	case o.destroyed: // an assumption
		refuse(w, http.StatusNotFound, "Room not found")
	default:
		a.leave(o)
		w.WriteHeader(http.StatusNoContent)
	}
}
