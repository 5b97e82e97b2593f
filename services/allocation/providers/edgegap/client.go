package edgegap

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// perPage is how many deployments of a list are asked for at once.
const perPage = 100

// client calls the API.
type client struct {
	api                      *hostapi.Client
	create, look, list, stop *hostapi.Operation
}

func newClient(cfg Config, l limits) (*client, error) {
	c := &client{
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

// cursor is where a page begins: its number, and the last deployment of the page before, so that it is noticed if the host turns no pages.
type cursor struct {
	page  int
	after string
}

var firstPage = cursor{page: 1}

// next is where the page after that one begins; zero: there is none. After an empty page there is none, whatever the host says.
func (d deployments) next(at cursor) cursor {
	last := d.last()
	switch {
	case !d.Pagination.HasNext || last == "":
		return cursor{}
	case d.Pagination.Next > at.page:
		return cursor{d.Pagination.Next, last}
	default:
		return cursor{at.page + 1, last}
	}
}

// token is the page token of List for it; empty: there is no page.
func (c cursor) token() string {
	if c == (cursor{}) {
		return ""
	}
	return strconv.Itoa(c.page) + "/" + c.after
}

func parseToken(token string) (cursor, error) {
	if token == "" {
		return firstPage, nil
	}
	number, after, _ := strings.Cut(token, "/")
	page, err := strconv.Atoi(number)
	if err != nil || page < 1 || !validID(after) {
		return cursor{}, provider.Failure(provider.Invalid, "page_token: is none of a list of this provider")
	}
	return cursor{page, after}, nil
}

func (d deployments) last() string {
	if len(d.Data) == 0 {
		return ""
	}
	return d.Data[len(d.Data)-1].RequestID
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

// tagged lists the deployments with a tag, the oldest first, and says where the next page begins; zero: there is none.
func (c *client) tagged(ctx context.Context, tag string, at cursor) (found []listed, next cursor, err error) {
	query, err := json.Marshal(map[string]any{
		"filters":  []any{map[string]any{"field": "tags", "operator": "in", "value": []string{tag}}},
		"order_by": []any{map[string]any{"field": "created_at", "order": "asc"}},
	})
	if err != nil {
		return nil, next, err
	}
	var d deployments
	values := url.Values{"query": {string(query)}, "page": {strconv.Itoa(at.page)}, "limit": {strconv.Itoa(perPage)}}
	err = c.api.Do(ctx, hostapi.Call{Operation: c.list, Method: http.MethodGet, Path: "/v1/deployments?" + values.Encode(), Out: &d})
	if err != nil {
		return nil, next, err
	}
	if d.Pagination == nil {
		return nil, next, hostapi.Senseless(host, c.list, "no pagination")
	}
	for _, one := range d.Data {
		if !validID(one.RequestID) {
			return nil, next, hostapi.Senseless(host, c.list, "a deployment without request_id")
		}
	}
	if at.after != "" && d.last() == at.after {
		return nil, next, nil
	}
	return d.Data, d.next(at), nil
}

func (c *client) stopDeployment(ctx context.Context, id string) error {
	return c.api.Do(ctx, hostapi.Call{Operation: c.stop, Method: http.MethodDelete, Path: "/v1/stop/" + url.PathEscape(id)})
}
