package multiplay

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// maxList is how many allocations are asked for at once.
const maxList = 100

// client calls the API.
type client struct {
	api                           *hostapi.Client
	allocate, look, list, release *hostapi.Operation
	dialect, fleets               string
	tokens                        *tokens // Unity's; nil: there are none
}

func newClient(cfg Config) (*client, error) {
	c := &client{
		allocate: hostapi.Write("allocate a server", 0), release: hostapi.Write("deallocate a server", 0), look: hostapi.Read("look up an allocation", 0),
		list: hostapi.Read("list allocations", 0), dialect: cfg.Dialect,
	}
	api := hostapi.Config{Host: "Multiplay", URL: cfg.URL, Explain: c.explain, Authorize: func(_ context.Context, r *http.Request) error {
		key, err := cfg.APIKeyFile.Use("multiplay.api_key_file")
		r.Header.Set("Authorization", "Bearer "+key)
		return err
	}}
	version := "/v4"
	if cfg.Dialect == Unity {
		var err error
		if c.tokens, err = newTokens(cfg); err != nil {
			return nil, err
		}
		version, api.Authorize, api.Renew = "/v1/allocations", c.tokens.authorize, c.tokens.forget
	}
	c.fleets = version + "/projects/" + cfg.Project + "/environments/" + cfg.Environment + "/fleets/"
	var err error
	c.api, err = hostapi.New(api)
	return c, err
}

func (c *client) close() {
	c.api.Close()
	if c.tokens != nil {
		c.tokens.close()
	}
}

// order asks for a server.
type order struct {
	AllocationID         string `json:"allocationId"`
	BuildConfigurationID int64  `json:"buildConfigurationId"`
	RegionID             string `json:"regionId"`
	Payload              string `json:"payload"`
	// Restart has the host end the process that an earlier match has left on the server: a release ends the allocation, and not that. A match that hangs would
	// get the next one's players, and never read its payload.
	Restart bool `json:"restart"`
}

// allocation is a server, or the wait for one. Times are empty as long as they are not there.
type allocation struct {
	AllocationID string `json:"allocationId"`
	RegionID     string `json:"regionId"`
	IPv4         string `json:"ipv4"`
	GamePort     int    `json:"gamePort"`
	Fulfilled    string `json:"fulfilled"`
	Ready        string `json:"ready"`
	// Readiness says that the server has to say that it is ready.
	Readiness bool `json:"readiness"`
}

// process asks for a server, and returns the id of the allocation. Of one that is there already nothing changes.
func (c *client) process(ctx context.Context, fleet string, o order) (string, error) {
	var made struct {
		AllocationID string `json:"allocationId"`
	}
	err := c.api.Do(ctx, hostapi.Call{Operation: c.allocate, Method: http.MethodPost, Path: c.path(fleet), In: o, Out: &made})
	return made.AllocationID, err
}

func (c *client) allocation(ctx context.Context, fleet, id string) (a allocation, err error) {
	err = c.api.Do(ctx, hostapi.Call{Operation: c.look, Method: http.MethodGet, Path: c.path(fleet) + "/" + id, Out: &a})
	return a, err
}

// allocations returns those of up to maxList that the list has: one that was just made it may not have yet.
func (c *client) allocations(ctx context.Context, fleet string, ids []string) ([]allocation, error) {
	var page struct {
		Allocations *[]allocation `json:"allocations"`
	}
	query := url.Values{"ids": {strings.Join(ids, ",")}, "limit": {strconv.Itoa(maxList)}}
	if err := c.api.Do(ctx, hostapi.Call{Operation: c.list, Method: http.MethodGet, Path: c.path(fleet) + "?" + query.Encode(), Out: &page}); err != nil {
		return nil, err
	}
	if page.Allocations == nil {
		return nil, hostapi.Senseless("Multiplay", c.list, "it has no allocations")
	}
	return *page.Allocations, nil
}

func (c *client) deallocate(ctx context.Context, fleet, id string) error {
	return c.api.Do(ctx, hostapi.Call{Operation: c.release, Method: http.MethodDelete, Path: c.path(fleet) + "/" + id, Empty: true})
}

func (c *client) path(fleet string) string { return c.fleets + fleet + "/allocations" }
