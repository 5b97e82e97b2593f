package edgegap

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// perPage is how many deployments of a list are asked for at once.
const perPage = 100

// client calls the API.
type client struct {
	api                      *hostapi.Client
	token                    hostapi.SecretFile
	create, look, list, stop *hostapi.Operation
}

func newClient(cfg Config, l limits) (*client, error) {
	c := &client{
		token:  cfg.TokenFile,
		create: hostapi.Write("start a deployment", l.create), look: hostapi.Read("look at a deployment", l.look),
		list: hostapi.Read("list deployments", l.list), stop: hostapi.Write("stop a deployment", 0),
	}
	var err error
	c.api, err = hostapi.New(hostapi.Config{Host: host, URL: cfg.URL, Explain: c.explain, Authorize: func(_ context.Context, r *http.Request) error {
		token, err := cfg.TokenFile.Use("edgegap.token_file")
		r.Header.Set("Authorization", "token "+token)
		return err
	}})
	return c, err
}

// order asks for a deployment.
type order struct {
	Application string     `json:"application"`
	Version     string     `json:"version"`
	Users       []user     `json:"users"`
	Variables   []variable `json:"environment_variables"`
	Tags        []string   `json:"tags"`
}

// user is where somebody plays; the location is chosen by that.
type user struct {
	Type string `json:"user_type"`
	Data place  `json:"user_data"`
}

type place struct {
	Latitude  float64 `json:"latitude"`
	Longitude float64 `json:"longitude"`
}

type variable struct {
	Key      string `json:"key"`
	Value    string `json:"value"`
	IsHidden bool   `json:"is_hidden"`
}

// deployment is what a status says of one.
type deployment struct {
	RequestID     string          `json:"request_id"`
	FQDN          string          `json:"fqdn"`
	PublicIP      string          `json:"public_ip"`
	CurrentStatus string          `json:"current_status"`
	Running       bool            `json:"running"`
	Error         bool            `json:"error"`
	ErrorDetail   string          `json:"error_detail"`
	Ports         map[string]port `json:"ports"`
}

// port is an address of a deployment.
type port struct {
	External int    `json:"external"`
	Protocol string `json:"protocol"`
}

// listed is what a list says of a deployment.
type listed struct {
	RequestID string   `json:"request_id"`
	Ready     bool     `json:"ready"`
	Tags      []string `json:"tags"`
}

// deployments is a page of a list.
type deployments struct {
	Data       []listed `json:"data"`
	Pagination *struct {
		Next    int  `json:"next_page_number"`
		HasNext bool `json:"has_next"`
	} `json:"pagination"`
}

// next is the page after that one; 0: there is none.
func (d deployments) next(page int) int {
	switch {
	case !d.Pagination.HasNext:
		return 0
	case d.Pagination.Next > page:
		return d.Pagination.Next
	default:
		return page + 1
	}
}

func (c *client) deploy(ctx context.Context, o order) (id string, err error) {
	var accepted struct {
		RequestID string `json:"request_id"`
	}
	err = c.api.Do(ctx, hostapi.Call{Operation: c.create, Method: http.MethodPost, Path: "/v2/deployments", In: o, Out: &accepted})
	if err == nil && !validID(accepted.RequestID) {
		err = hostapi.Senseless(host, c.create, "no request_id")
	}
	return accepted.RequestID, err
}

// validID reports whether it can be the id of a deployment, which are 12 hexadecimal digits now.
func validID(id string) bool { return id != "" && len(id) <= 128 && !strings.ContainsAny(id, "/?#% ") }

func (c *client) status(ctx context.Context, id string) (d deployment, err error) {
	err = c.api.Do(ctx, hostapi.Call{Operation: c.look, Method: http.MethodGet, Path: "/v1/status/" + url.PathEscape(id), Out: &d})
	if err == nil && (d.RequestID != id || d.CurrentStatus == "") {
		err = hostapi.Senseless(host, c.look, "status "+strconv.Quote(hostapi.Clean(d.CurrentStatus))+" of "+strconv.Quote(hostapi.Clean(d.RequestID)))
	}
	return d, err
}

// tagged lists the deployments with a tag, the oldest first.
func (c *client) tagged(ctx context.Context, tag string, page int) (d deployments, err error) {
	query, err := json.Marshal(map[string]any{
		"filters":  []any{map[string]any{"field": "tags", "operator": "in", "value": []string{tag}}},
		"order_by": []any{map[string]any{"field": "created_at", "order": "asc"}},
	})
	if err != nil {
		return d, err
	}
	values := url.Values{"query": {string(query)}, "page": {strconv.Itoa(page)}, "limit": {strconv.Itoa(perPage)}}
	err = c.api.Do(ctx, hostapi.Call{Operation: c.list, Method: http.MethodGet, Path: "/v1/deployments?" + values.Encode(), Out: &d})
	if err != nil {
		return d, err
	}
	if d.Pagination == nil {
		return d, hostapi.Senseless(host, c.list, "no pagination")
	}
	for _, one := range d.Data {
		if !validID(one.RequestID) {
			return d, hostapi.Senseless(host, c.list, "a deployment without request_id")
		}
	}
	return d, nil
}

func (c *client) stopDeployment(ctx context.Context, id string) error {
	return c.api.Do(ctx, hostapi.Call{Operation: c.stop, Method: http.MethodDelete, Path: "/v1/stop/" + url.PathEscape(id)})
}
