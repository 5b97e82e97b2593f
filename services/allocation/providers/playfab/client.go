package playfab

import (
	"context"
	"fmt"
	"net/http"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// host is the host's name in messages.
const host = "PlayFab"

// client calls the API.
type client struct {
	api                                   *hostapi.Client
	tokens                                *tokens
	request, details, shut, listing, find *hostapi.Operation
}

func newClient(cfg Config) (*client, error) {
	t, err := newTokens(cfg)
	if err != nil {
		return nil, err
	}
	c := &client{
		tokens: t, request: hostapi.Write("start a session", 0), shut: hostapi.Write("shut a session down", 0),
		details: hostapi.Read("look up a session", 0), listing: hostapi.Read("list sessions", 0), find: hostapi.Read("look up a build alias", 0),
	}
	c.api, err = hostapi.New(hostapi.Config{Host: host, URL: cfg.base(), Explain: c.explain, Authorize: t.authorize, Renew: t.forget})
	return c, err
}

// envelope is what every answer is in. Code is that of HTTP.
type envelope[T any] struct {
	Code  int    `json:"code"`
	Error string `json:"error"`
	Data  *T     `json:"data"`
}

// post makes a call, and returns what is in its answer's envelope.
func post[T any](ctx context.Context, api *hostapi.Client, op *hostapi.Operation, path string, in any) (out T, err error) {
	var e envelope[T]
	if err := api.Do(ctx, hostapi.Call{Operation: op, Method: http.MethodPost, Path: path, In: in, Out: &e}); err != nil {
		return out, err
	}
	if e.Code != http.StatusOK || e.Data == nil {
		return out, hostapi.Senseless(host, op, fmt.Sprintf("code %d, error %q", e.Code, hostapi.Clean(e.Error)))
	}
	return *e.Data, nil
}

// port is a port of a server.
type port struct {
	Name     string
	Num      int
	Protocol string
}

// session is a session with its server, as the calls that start one and look one up tell it.
type session struct {
	SessionID   string `json:"SessionId"`
	Region      string
	State       string
	IPV4Address string
	FQDN        string
	Ports       []port
}

// alias names a build alias.
type alias struct {
	AliasID string `json:"AliasId"`
}

// order asks for a session, of a build or of an alias.
type order struct {
	BuildID          string `json:"BuildId,omitempty"`
	BuildAliasParams *alias `json:",omitempty"`
	PreferredRegions []string
	SessionCookie    string
	SessionID        string `json:"SessionId"`
}

// byID names a session.
type byID struct {
	SessionID string `json:"SessionId"`
}

func (c *client) start(ctx context.Context, o order) (session, error) {
	return post[session](ctx, c.api, c.request, "/MultiplayerServer/RequestMultiplayerServer", o)
}

func (c *client) session(ctx context.Context, id string) (session, error) {
	return post[session](ctx, c.api, c.details, "/MultiplayerServer/GetMultiplayerServerDetails", byID{id})
}

// shutDown has a session's server told to end. What came of it, session tells.
func (c *client) shutDown(ctx context.Context, id string) error {
	return c.api.Do(ctx, hostapi.Call{Operation: c.shut, Method: http.MethodPost, Path: "/MultiplayerServer/ShutdownMultiplayerServer", In: byID{id}})
}

// query asks for a page of the sessions of a build in a region.
type query struct {
	BuildID   string `json:"BuildId"`
	Region    string
	SkipToken string `json:",omitempty"`
}

// page is a page of sessions, and of servers that stand by, which have no session.
type page struct {
	MultiplayerServerSummaries []session
	SkipToken                  string
}

func (c *client) sessions(ctx context.Context, q query) (page, error) {
	return post[page](ctx, c.api, c.listing, "/MultiplayerServer/ListMultiplayerServers", q)
}

// aliased returns the builds of an alias.
func (c *client) aliased(ctx context.Context, id string) (builds []string, err error) {
	type details struct {
		BuildSelectionCriteria []struct{ BuildWeightDistribution map[string]int }
	}
	got, err := post[details](ctx, c.api, c.find, "/MultiplayerServer/GetBuildAlias", alias{id})
	for _, one := range got.BuildSelectionCriteria {
		for build := range one.BuildWeightDistribution {
			builds = append(builds, build)
		}
	}
	return builds, err
}

// close ends the connections to the host.
func (c *client) close() {
	c.api.Close()
	c.tokens.api.Close()
}
