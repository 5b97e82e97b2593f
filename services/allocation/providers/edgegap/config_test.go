package edgegap_test

import (
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/edgegap"
)

func TestConfig(t *testing.T) {
	long := strings.Repeat("x", 65)
	for want, change := range map[string]func(*edgegap.Config){
		"edgegap.url":                       func(c *edgegap.Config) { c.URL = "http://api.edgegap.com" },
		"edgegap.token_file":                func(c *edgegap.Config) { c.TokenFile += ".not" },
		"edgegap.builds: at least":          func(c *edgegap.Config) { c.Builds = nil },
		"edgegap.regions: at least":         func(c *edgegap.Config) { c.Regions = nil },
		`edgegap.builds: "" is no name`:     func(c *edgegap.Config) { c.Builds[""] = c.Builds["shooter"] },
		"edgegap.builds.a.app":              func(c *edgegap.Config) { c.Builds["a"] = edgegap.Build{Version: "v1"} },
		"edgegap.builds.b.app":              func(c *edgegap.Config) { c.Builds["b"] = edgegap.Build{App: long, Version: "v1"} },
		"edgegap.builds.a.version":          func(c *edgegap.Config) { c.Builds["a"] = edgegap.Build{App: "app"} },
		"edgegap.builds.b.version":          func(c *edgegap.Config) { c.Builds["b"] = edgegap.Build{App: "app", Version: long} },
		"edgegap.regions.a.latitude":        func(c *edgegap.Config) { c.Regions["a"] = edgegap.Region{Longitude: c.Regions["eu"].Longitude} },
		"edgegap.regions.b.latitude":        func(c *edgegap.Config) { c.Regions["b"] = place(90.5, 0) },
		"edgegap.regions.c.latitude":        func(c *edgegap.Config) { c.Regions["c"] = place(math.NaN(), 0) },
		"edgegap.regions.a.longitude":       func(c *edgegap.Config) { c.Regions["a"] = edgegap.Region{Latitude: c.Regions["eu"].Latitude} },
		"edgegap.regions.b.longitude":       func(c *edgegap.Config) { c.Regions["b"] = place(0, -181) },
		`edgegap.ports.voice: "Voice Chat"`: func(c *edgegap.Config) { c.Ports = map[string]string{"voice": "Voice Chat"} },
		`edgegap.ports.b: "game" is the`:    func(c *edgegap.Config) { c.Ports = map[string]string{"a": "game", "b": "game"} },
	} {
		_, cfg := start(t)
		change(&cfg)
		if _, err := edgegap.New(cfg); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v; want %q", err, want)
		}
	}
	_, cfg := start(t)
	if _, err := edgegap.New(cfg); err != nil {
		t.Error(err)
	}
}

// The stand-in refuses what Edgegap refuses.
func TestTheStandInRefusesAWrongShape(t *testing.T) {
	_, cfg := start(t)
	const app, users = `"application": "racer", "version": "v1"`, `"users": [{"user_type": "geo_coordinates", "user_data": {"latitude": 1, "longitude": 2}}]`
	for name, body := range map[string]string{
		"an unknown member":       `{` + app + `, ` + users + `, "env": []}`,
		"no users":                `{` + app + `}`,
		"no coordinates":          `{` + app + `, "users": [{"user_type": "geo_coordinates", "user_data": {"lat": 1, "lon": 2}}]}`,
		"variables without a key": `{` + app + `, ` + users + `, "environment_variables": [{"name": "A", "value": "b", "is_hidden": true}]}`,
		"no is_hidden":            `{` + app + `, ` + users + `, "environment_variables": [{"key": "A", "value": "b"}]}`,
		"a value of 5 KB":         `{` + app + `, ` + users + `, "environment_variables": [{"key": "A", "value": "` + strings.Repeat("b", 5000) + `", "is_hidden": true}]}`,
		"a tag of 41 characters":  `{` + app + `, ` + users + `, "tags": ["` + strings.Repeat("b", 41) + `"]}`,
		"an unknown version":      `{"application": "racer", "version": "v2", ` + users + `}`,
	} {
		if status := call(t, http.MethodPost, cfg.URL+"/v2/deployments", body, nil); status != http.StatusBadRequest {
			t.Errorf("%s: %d", name, status)
		}
	}
	for _, query := range []string{`{"filters": [{"field": "tag", "operator": "eq", "value": "a"}]}`, `{"filters": [{"field": "tags", "operator": "in", "value": "a"}]}`} {
		if status := call(t, http.MethodGet, cfg.URL+"/v1/deployments?query="+strings.ReplaceAll(query, " ", ""), "", nil); status != http.StatusBadRequest {
			t.Errorf("%s: %d", query, status)
		}
	}
	if status := call(t, http.MethodPost, cfg.URL+"/v2/deployments", `{`+app+`, `+users+`}`, nil); status != http.StatusAccepted {
		t.Errorf("as it should be: %d", status)
	}
}

// What a status says, and what answers are that make no sense.
func TestStatus(t *testing.T) {
	host, cfg := start(t)
	req := order("shooter", "eu")
	const id = `"request_id": "a69f8e3e0555"`
	const empty = `{"data": [], "total_count": 0, "pagination": {"has_next": false}}`
	for name, c := range map[string]struct {
		body  string
		state providerv1.ServerState // 0: it makes no sense
		says  string
		fails providerv1.FailureReason
	}{
		"seeking":           {`{` + id + `, "current_status": "Status.SEEKING"}`, providerv1.ServerState_SERVER_STATE_STARTING, "", 0},
		"something new":     {`{` + id + `, "current_status": "Status.CACHING"}`, providerv1.ServerState_SERVER_STATE_STARTING, "", 0},
		"ready":             {`{` + id + `, "current_status": "Status.READY", "running": true}`, providerv1.ServerState_SERVER_STATE_RUNNING, "", 0},
		"ready, otherwise":  {`{` + id + `, "current_status": "STATUS_READY", "error_detail": null}`, providerv1.ServerState_SERVER_STATE_RUNNING, "", 0},
		"error":             {`{` + id + `, "current_status": "Status.ERROR", "error": true, "error_detail": "Pull image timeout exceeded"}`, providerv1.ServerState_SERVER_STATE_EXITED, "Pull image timeout", provider.Unavailable},
		"error by the flag": {`{` + id + `, "current_status": "Status.READY", "running": true, "error": true}`, providerv1.ServerState_SERVER_STATE_EXITED, "", provider.Unavailable},
		"terminated":        {`{` + id + `, "current_status": "Status.TERMINATED", "running": true}`, providerv1.ServerState_SERVER_STATE_EXITED, "", 0},
		"terminating":       {`{` + id + `, "current_status": "Status.TERMINATING"}`, providerv1.ServerState_SERVER_STATE_STOPPING, "", 0},
		"another one":       {`{"request_id": "a69f8e3e0556", "current_status": "Status.READY"}`, 0, "makes no sense", 0},
		"error inside":      {`{"message": "not now"}`, 0, "makes no sense", 0},
		"HTML":              {`<html>`, 0, "makes no sense", 0},
		"another type":      {`{` + id + `, "current_status": "Status.READY", "running": "yes"}`, 0, "makes no sense", 0},
	} {
		host.Answer(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/deployments" {
				_, _ = io.WriteString(w, empty)
				return
			}
			_, _ = io.WriteString(w, c.body)
		})
		resp, err := open(t, cfg).Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), ExternalId: "a69f8e3e0555", Deployment: "live"})
		switch {
		case c.state == 0 && (provider.ReasonOf(err) != provider.Unavailable || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: got %v, %v", name, resp, err)
		case c.state != 0 && (err != nil || resp.GetServer().GetState() != c.state || resp.GetServer().GetFailure() != c.fails || !strings.Contains(resp.GetServer().GetMessage(), c.says)):
			t.Errorf("%s: got %v, %v; want %v, failed for %v", name, resp, err, c.state, c.fails)
		}
	}
}

// A list without its pages is none: what is in it would be taken for all there is.
func TestAListThatMakesNoSense(t *testing.T) {
	host, cfg := start(t)
	p := open(t, cfg)
	for _, body := range []string{`{"error": "something", "status": "ok"}`, `{"data": [{"ready": true}], "pagination": {"has_next": false}}`, `[]`} {
		host.Answer(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
		resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: "live"})
		if provider.ReasonOf(err) != provider.Unavailable || !strings.Contains(err.Error(), "makes no sense") {
			t.Errorf("%s: %v, %v", body, resp, err)
		}
	}
}

func TestPortsOfTwoProtocols(t *testing.T) {
	host, cfg := start(t)
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/deployments" {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		_, _ = io.WriteString(w, `{"request_id": "a69f8e3e0555", "current_status": "Status.READY", "running": true, "public_ip": "192.53.120.48",
			"ports": {"gameport": {"external": 30345, "protocol": "TCP/UDP"}, "web": {"external": 30346, "protocol": "HTTPS"}, "none": {"external": 0, "protocol": "UDP"}}}`)
	})
	s := get(t, open(t, cfg), order("shooter", "eu").GetAttemptId(), "a69f8e3e0555")
	want := []*typev1.Endpoint{
		{Name: "game", Host: "192.53.120.48", Port: 30345, Protocol: typev1.Protocol_PROTOCOL_UDP},
		{Name: "game-tcp", Host: "192.53.120.48", Port: 30345, Protocol: typev1.Protocol_PROTOCOL_TCP},
		{Name: "web", Host: "192.53.120.48", Port: 30346, Protocol: typev1.Protocol_PROTOCOL_TCP},
	}
	if len(s.GetEndpoints()) != len(want) {
		t.Fatalf("got %v", s)
	}
	for n := range want {
		if s.GetEndpoints()[n].String() != want[n].String() {
			t.Errorf("got %v; want %v", s.GetEndpoints()[n], want[n])
		}
	}
}
