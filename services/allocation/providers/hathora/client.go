package hathora

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// client calls the API.
type client struct {
	api                                              *hostapi.Client
	create, info, connect, destroy, list, look, stop *hostapi.Operation
}

func newClient(cfg Config) (*client, error) {
	c := &client{
		create: hostapi.Write("create a room", 0), destroy: hostapi.Write("destroy a room", 0), info: hostapi.Read("look up a room", 0),
		connect: hostapi.Read("tell a room's address", 0), list: hostapi.Read("list rooms", 0),
		look: hostapi.Read("look up a process", 0), stop: hostapi.Write("stop a process", 0),
	}
	var err error
	c.api, err = hostapi.New(hostapi.Config{Host: "Hathora", URL: cfg.URL, Explain: c.explain, Authorize: func(_ context.Context, r *http.Request) error {
		token, err := cfg.TokenFile.Use("hathora.token_file")
		r.Header.Set("Authorization", "Bearer "+token)
		return err
	}})
	return c, err
}

// port is an address of a process.
type port struct {
	Name          string `json:"name"`
	Host          string `json:"host"`
	Port          int    `json:"port"`
	TransportType string `json:"transportType"`
}

// connection says where a room's process is.
type connection struct {
	RoomID                 string `json:"roomId"`
	Status                 string `json:"status"`
	ExposedPort            *port  `json:"exposedPort"`
	AdditionalExposedPorts []port `json:"additionalExposedPorts"`
}

// room is a game session.
type room struct {
	RoomID string `json:"roomId"`
	Status string `json:"status"`
	// CurrentAllocation says which process the room is on; nil: on none. UnscheduledAt is when it has left it.
	CurrentAllocation *struct {
		ProcessID     string     `json:"processId"`
		UnscheduledAt *time.Time `json:"unscheduledAt"`
	} `json:"currentAllocation"`
}

// on returns the process that the room is on; empty: it is on none.
func (r room) on() string {
	if r.CurrentAllocation == nil || r.CurrentAllocation.UnscheduledAt != nil {
		return ""
	}
	return r.CurrentAllocation.ProcessID
}

// process is what rooms are on.
type process struct {
	ProcessID string    `json:"processId"`
	Region    string    `json:"region"`
	CreatedAt time.Time `json:"createdAt"`
	// RoomsPerProcess is how many rooms there may be on it at once.
	RoomsPerProcess int `json:"roomsPerProcess"`
}

// order asks for a room.
type order struct {
	Region       string `json:"region"`
	RoomConfig   string `json:"roomConfig"`
	DeploymentID string `json:"deploymentId,omitempty"`
}

func (c *client) createRoom(ctx context.Context, app, id string, o order) (conn connection, err error) {
	err = c.api.Do(ctx, hostapi.Call{
		Operation: c.create, Method: http.MethodPost, Path: "/rooms/v2/" + url.PathEscape(app) + "/create?" + url.Values{"roomId": {id}}.Encode(), In: o, Out: &conn,
	})
	return conn, err
}

func (c *client) room(ctx context.Context, app, id string) (r room, err error) {
	err = c.api.Do(ctx, hostapi.Call{Operation: c.info, Method: http.MethodGet, Path: roomPath(app, "info", id), Out: &r})
	return r, err
}

func (c *client) connection(ctx context.Context, app, id string) (conn connection, err error) {
	err = c.api.Do(ctx, hostapi.Call{Operation: c.connect, Method: http.MethodGet, Path: roomPath(app, "connectioninfo", id), Out: &conn})
	return conn, err
}

func (c *client) destroyRoom(ctx context.Context, app, id string) error {
	return c.api.Do(ctx, hostapi.Call{Operation: c.destroy, Method: http.MethodPost, Path: roomPath(app, "destroy", id), Empty: true})
}

func roomPath(app, what, id string) string {
	return "/rooms/v2/" + url.PathEscape(app) + "/" + what + "/" + url.PathEscape(id)
}

// processes returns the newest processes that may have rooms; before, if it is not 0, says how new in milliseconds since 1970.
func (c *client) processes(ctx context.Context, app string, before int64) (list []process, err error) {
	query := url.Values{"status": {"starting", "running", "draining"}}
	if before > 0 {
		query.Set("before", strconv.FormatInt(before, 10))
	}
	err = c.api.Do(ctx, hostapi.Call{
		Operation: c.list, Method: http.MethodGet, Path: "/processes/v3/apps/" + url.PathEscape(app) + "/processes/latest?" + query.Encode(), Out: &list,
	})
	if err == nil && slices.ContainsFunc(list, func(one process) bool { return one.ProcessID == "" || one.CreatedAt.IsZero() }) {
		err = hostapi.Senseless("Hathora", c.list, "a process without processId or createdAt")
	}
	return list, err
}

// process returns a process, whatever it does by now.
func (c *client) process(ctx context.Context, app, id string) (p process, err error) {
	err = c.api.Do(ctx, hostapi.Call{Operation: c.look, Method: http.MethodGet, Path: processPath(app, id), Out: &p})
	if err == nil && p.ProcessID != id {
		err = hostapi.Senseless("Hathora", c.look, "it is about another process, or none")
	}
	return p, err
}

// stopProcess ends a process, and destroys all rooms that are on it.
func (c *client) stopProcess(ctx context.Context, app, id string) error {
	return c.api.Do(ctx, hostapi.Call{Operation: c.stop, Method: http.MethodPost, Path: processPath(app, id) + "/stop", Empty: true})
}

func processPath(app, id string) string {
	return "/processes/v3/apps/" + url.PathEscape(app) + "/processes/" + url.PathEscape(id)
}

func (c *client) rooms(ctx context.Context, app, process string) (list []room, err error) {
	err = c.api.Do(ctx, hostapi.Call{
		Operation: c.list, Method: http.MethodGet, Path: "/rooms/v2/" + url.PathEscape(app) + "/list/" + url.PathEscape(process) + "/active", Out: &list,
	})
	return list, err
}
