package edgegap_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/edgegap"
)

func order(build, region string) *providerv1.AllocateRequest {
	instance := uuid.NewString()
	return &providerv1.AllocateRequest{
		AttemptId: instance + "-1", Namespace: "default", InstanceId: instance, Build: build, Region: region, Deployment: "live",
		Bootstrap: providertest.Bootstrap(instance+"-1", instance),
	}
}

func allocate(t *testing.T, p provider.Provider, req *providerv1.AllocateRequest) *providerv1.Server {
	t.Helper()
	resp, err := p.Allocate(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetServer()
}

func get(t *testing.T, p provider.Provider, attempt, external string) *providerv1.Server {
	t.Helper()
	resp, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: attempt, ExternalId: external, Deployment: "live"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetServer()
}

// untilRunning asks as often as the stand-in wants to be asked.
func untilRunning(t *testing.T, p provider.Provider, attempt string) *providerv1.Server {
	t.Helper()
	for range 10 {
		if s := get(t, p, attempt, ""); s.GetState() == providerv1.ServerState_SERVER_STATE_RUNNING {
			return s
		}
	}
	t.Fatal("it does not run")
	return nil
}

func TestFailures(t *testing.T) {
	host, cfg := start(t)
	for name, c := range map[string]struct {
		status int
		kind   string
		body   string
		want   providerv1.FailureReason
		says   string
	}{
		"no such version":  {400, "", `{"message": "Invalid Application or Application Version", "details": {}}`, provider.Invalid, "edgegap.builds"},
		"no such app":      {404, "", `{"message": "App not found"}`, provider.Invalid, "edgegap.builds"},
		"conflict":         {409, "", `{"message": "Duplicate"}`, provider.Invalid, "Duplicate"},
		"image":            {424, "", `{"message": "Image cannot be pulled"}`, provider.Invalid, "Image cannot be pulled"},
		"token":            {401, "", `{"message": "Token ` + token + ` is not valid"}`, provider.Unauthenticated, "edgegap.token_file"},
		"forbidden":        {403, "", `{"message": "No access"}`, provider.Unauthenticated, "edgegap.token_file"},
		"bill":             {402, "", `{"message": "Plan limit"}`, provider.Quota, "Plan limit"},
		"full":             {422, "", `{"request_id": "a69f8e3e0555", "message": "No location"}`, provider.NoCapacity, "No location"},
		"full, no id":      {422, "", `{"message": "No location"}`, provider.NoCapacity, "No location"},
		"full, of another": {422, "text/html", `<html>no</html>`, provider.Ambiguous, "a page of text/html"},
		"full, in text":    {422, "", `no`, provider.Ambiguous, "no (HTTP 422)"},
		"firewall":         {403, "text/html", `<html>no</html>`, provider.Ambiguous, "a page of text/html"},
		"throttled":        {429, "", `{"message": "Slow down"}`, provider.RateLimited, "Slow down"},
		"broken":           {500, "", `{"message": "Internal", "details": {}}`, provider.Ambiguous, "Internal"},
		"gateway":          {502, "text/html", `<html>bad gateway</html>`, provider.Ambiguous, "a page of text/html"},
		"late":             {504, "text/html", `<html>time-out</html>`, provider.Ambiguous, "a page of text/html"},
		"away":             {503, "text/html", `<html>away</html>`, provider.Unavailable, "a page of text/html"},
		"HTML":             {202, "text/html", `<html>hello</html>`, provider.Ambiguous, "makes no sense"},
		"truncated":        {202, "", `{"request_id": "a69f8e`, provider.Ambiguous, "makes no sense"},
		"error inside":     {202, "", `{"message": "could not be done"}`, provider.Ambiguous, "makes no sense"},
		"another type":     {202, "", `{"request_id": 17}`, provider.Ambiguous, "makes no sense"},
		"no id":            {202, "", `{"request_id": "../../status"}`, provider.Ambiguous, "makes no sense"},
	} {
		t.Run(name, func(t *testing.T) {
			host.Answer(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.kind)
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			defer func() { _ = host.Heal(t.Context()) }()
			req := order("shooter", "eu")
			_, err := open(t, cfg).Allocate(t.Context(), req) // one that has not been told to wait
			if provider.ReasonOf(err) != c.want || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v; want %v with %q", err, c.want, c.says)
			}
			if err != nil && (strings.Contains(err.Error(), "social.") || strings.Contains(err.Error(), token)) {
				t.Errorf("the message has a token: %v", err)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	host, cfg := start(t)
	p := open(t, cfg)
	_ = host.Throttle(t.Context(), 12*time.Second)
	_, err := p.Allocate(t.Context(), order("shooter", "eu"))
	if after := provider.RetryAfterOf(err); provider.ReasonOf(err) != provider.RateLimited || after < 11*time.Second || after > 12*time.Second {
		t.Errorf("%v, after %v", err, after)
	}
}

// Each kind of call has a limit of its own: what has no turn in its time is not sent.
func TestRateLimits(t *testing.T) {
	host, cfg := start(t)
	p, err := edgegap.NewScarce(cfg) // one call of each kind
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close(context.Background()) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	first := order("shooter", "eu")
	allocate(t, p, first)
	get(t, p, first.GetAttemptId(), "")
	if _, err := p.List(ctx, &providerv1.ListRequest{Deployment: "live"}); err != nil {
		t.Fatal(err)
	}
	sent := make(chan string, 10) // more than are sent even if nothing is limited; then the host would hang
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		sent <- r.Method + " " + r.URL.Path
		w.WriteHeader(http.StatusInternalServerError)
	})
	for name, call := range map[string]func() error{
		"Allocate": func() error { _, err := p.Allocate(ctx, order("shooter", "eu")); return err },
		"Get": func() error {
			_, err := p.Get(ctx, &providerv1.GetRequest{AttemptId: first.GetAttemptId(), Deployment: "live"})
			return err
		},
		"List": func() error { _, err := p.List(ctx, &providerv1.ListRequest{Deployment: "live"}); return err },
	} {
		if err := call(); provider.ReasonOf(err) != provider.RateLimited || provider.RetryAfterOf(err) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	select {
	case what := <-sent:
		t.Errorf("%s was sent", what)
	default:
	}
}

func TestWhatIsNotConfigured(t *testing.T) {
	_, cfg := start(t)
	p := open(t, cfg)
	odd := order("shooter", "eu")
	odd.AttemptId = "match-7"
	for says, req := range map[string]*providerv1.AllocateRequest{
		"there are racer, shooter": order("chess", "eu"), "there are eu, us": order("shooter", "moon"), "attempt_id": odd,
	} {
		if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v; want %q", err, says)
		}
	}
	cfg.Builds["wrong"] = edgegap.Build{App: "shooter-server", Version: "none"}
	if _, err := open(t, cfg).Allocate(t.Context(), order("wrong", "eu")); provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), "no active version none") {
		t.Errorf("a version that is not there: %v", err)
	}
}

// A token that is replaced is used at once; one that is gone is said to be.
func TestTheTokenIsReadForEachCall(t *testing.T) {
	_, cfg := start(t)
	p := open(t, cfg)
	if err := os.WriteFile(string(cfg.TokenFile), []byte("expired"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Allocate(t.Context(), order("shooter", "eu")); provider.ReasonOf(err) != provider.Unauthenticated {
		t.Errorf("with an expired token: %v", err)
	}
	if err := os.Remove(string(cfg.TokenFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Allocate(t.Context(), order("shooter", "eu")); provider.ReasonOf(err) != provider.Unauthenticated || !strings.Contains(err.Error(), "edgegap.token_file") {
		t.Errorf("without a token: %v", err)
	}
	if err := os.WriteFile(string(cfg.TokenFile), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	allocate(t, p, order("shooter", "eu"))
}

// What is sent is marked, hidden and near the region.
func TestTheRequest(t *testing.T) {
	host, cfg := start(t)
	p := open(t, cfg)
	bodies := make(chan []byte, 1) // there is one call
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- body
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"request_id": "a69f8e3e0555"}`)
	})
	req := order("shooter", "us")
	req.Deployment = strings.Repeat("d", 63) // longer than a tag
	if s := allocate(t, p, req); s.GetExternalId() != "a69f8e3e0555" || s.GetRegion() != "us" {
		t.Errorf("got %v", s)
	}
	var sent struct {
		Users []struct {
			Data map[string]float64 `json:"user_data"`
		} `json:"users"`
		Variables []struct {
			Key      string `json:"key"`
			Value    string `json:"value"`
			IsHidden bool   `json:"is_hidden"`
		} `json:"environment_variables"`
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(<-bodies, &sent); err != nil {
		t.Fatal(err)
	}
	if len(sent.Users) != 1 || sent.Users[0].Data["latitude"] != 39.04 || sent.Users[0].Data["longitude"] != -77.49 {
		t.Errorf("users: %v", sent.Users)
	}
	if len(sent.Variables) != 1 || sent.Variables[0].Key != "BERTH_BOOTSTRAP" || sent.Variables[0].Value != string(req.GetBootstrap()) || !sent.Variables[0].IsHidden {
		t.Errorf("variables: %v", sent.Variables)
	}
	if len(sent.Tags) != 2 || len(sent.Tags[0]) > 40 || !strings.HasPrefix(sent.Tags[0], "berth-") || sent.Tags[1] != req.GetAttemptId() {
		t.Errorf("tags: %q", sent.Tags)
	}
}

// A deployment is found by its tags alone, and has all its ports once it runs. Two deployments of Berth may have attempts of the same name.
func TestGetWithoutTheExternalID(t *testing.T) {
	_, cfg := start(t)
	p := open(t, cfg)
	req := order("racer", "us")
	made := allocate(t, p, req)
	other := open(t, cfg)
	s := untilRunning(t, other, req.GetAttemptId())
	if s.GetExternalId() != made.GetExternalId() || len(s.GetEndpoints()) != 2 {
		t.Fatalf("got %v", s)
	}
	voice, game := s.GetEndpoints()[0], s.GetEndpoints()[1]
	if game.GetName() != "game" || game.GetHost() != made.GetExternalId()+".pr.edgegap.net" || game.GetProtocol() != typev1.Protocol_PROTOCOL_UDP ||
		voice.GetName() != "voice" || voice.GetProtocol() != typev1.Protocol_PROTOCOL_TCP {
		t.Errorf("got %v", s.GetEndpoints())
	}
	if _, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: "other"}); provider.ReasonOf(err) != provider.NotFound {
		t.Errorf("another deployment's: %v", err)
	}
}

// Edgegap leaves a deployment in error behind that it has no room for.
func TestNoRoomLeavesNothing(t *testing.T) {
	host, cfg := start(t)
	p := open(t, cfg)
	_ = host.Exhaust(t.Context())
	req := order("shooter", "eu")
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.NoCapacity || !strings.Contains(err.Error(), "No location could be found") {
		t.Errorf("got %v", err)
	}
	_ = host.Heal(t.Context())
	if left := active(t, cfg, req.GetAttemptId()); len(left) != 0 {
		t.Errorf("there is still %v", left)
	}
}
