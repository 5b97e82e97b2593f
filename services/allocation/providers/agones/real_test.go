package agones_test

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/agones"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	"github.com/berth-dev/berth/services/allocation/providers/internal/kube"
	"github.com/berth-dev/berth/test/hosts/kubetest"
	"github.com/berth-dev/berth/test/hosts/standin"
)

const rbac = "../../../../docs/providers/agones-rbac.yaml"

// startReal starts a real API server with what Agones has in it, and returns a configuration with the rights of the page's file. The way to it can be made to misbehave.
func startReal(t *testing.T) (*realAgones, *standin.Host, agones.Config) {
	t.Helper()
	servers := standin.NewServers(nil)
	a := startAgones(t, servers)
	a.Apply(rbac, "", "ServiceAccount", "Role", "RoleBinding")
	a.Apply(rbac, "games-us", "Role", "RoleBinding")
	host := standin.New(realDialect(), servers, a.Proxy())
	t.Cleanup(host.Close)
	return a, host, realConfig(t, host)
}

// realConfig has the way to an API server.
func realConfig(t *testing.T, way http.Handler) agones.Config {
	t.Helper()
	srv := httptest.NewTLSServer(way)
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	return agones.Config{
		Config:  kube.Config{URL: srv.URL, CAFile: file(t, ca), TokenFile: hostapi.SecretFile(file(t, []byte(token+"\n")))},
		Builds:  map[string]agones.Build{"shooter": {Fleet: "shooter"}, "none": {Fleet: "none"}},
		Regions: map[string]agones.Region{"eu": {Namespace: "games"}, "us": {Namespace: "games-us"}},
	}
}

// A GameServerAllocation through a real API server: its aggregation, its roles, and its custom resources.
func TestARealAPIServer(t *testing.T) {
	a, host, cfg := startReal(t)
	t.Run("conformance", func(t *testing.T) {
		providertest.Run(t, providertest.Config{Provider: open(t, cfg), Host: &twice{Host: host}, Build: "shooter", Region: "eu"})
		for c := host.Count(); c.Running > 0 && t.Context().Err() == nil; c = host.Count() {
			a.look(t.Context())
		}
	})
	t.Run("endpoints", func(t *testing.T) {
		p, req := open(t, cfg), order()
		s := allocate(t, p, req)
		if e := s.GetEndpoints(); len(e) != 1 || e[0].GetHost() != "198.51.100.7" || e[0].GetName() != "game" || e[0].GetPort() < 7000 {
			t.Errorf("got %v", s)
		}
		realRelease(t, a, p, req)
	})
	t.Run("an extension server that breaks off", func(t *testing.T) {
		p, req := open(t, cfg), order()
		before := host.Count().Started
		a.breaks.Store(true)
		_, err := p.Allocate(t.Context(), req)
		a.breaks.Store(false)
		if provider.ReasonOf(err) != provider.Ambiguous || !strings.Contains(err.Error(), "error trying to reach service") {
			t.Errorf("got %v", err)
		}
		if s := allocate(t, p, req); s.GetExternalId() == "" || host.Count().Started != before+1 {
			t.Errorf("the repeat: %v, %+v", s, host.Count())
		}
		realRelease(t, a, p, req)
	})
	t.Run("refusals", func(t *testing.T) { realRefusals(t, cfg) })
}

// A cluster without Agones says so in a way of its own.
func TestARealAPIServerWithoutAgones(t *testing.T) {
	c := kubetest.Start(t)
	c.Namespaces("berth", "games", "games-us")
	c.Apply(rbac, "", "ServiceAccount", "Role", "RoleBinding")
	p := open(t, realConfig(t, c.Proxy()))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := p.Allocate(ctx, order())
	for provider.ReasonOf(err) == provider.Unauthenticated && ctx.Err() == nil { // the authorizer learns of a role after a moment
		_, err = p.Allocate(ctx, order())
	}
	if provider.ReasonOf(err) != provider.Unavailable || !strings.Contains(err.Error(), "is Agones installed in this cluster?") {
		t.Errorf("Allocate: %v", err)
	}
	_, err = p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment})
	if provider.ReasonOf(err) != provider.Unavailable || !strings.Contains(err.Error(), "is Agones installed in this cluster?") {
		t.Errorf("List: %v", err)
	}
}

// realRelease releases until the server is gone.
func realRelease(t *testing.T, a *realAgones, p *agones.Provider, req *providerv1.AllocateRequest) {
	t.Helper()
	for t.Context().Err() == nil {
		resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: deployment})
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetState() == providerv1.ServerState_SERVER_STATE_EXITED {
			return
		}
		a.look(t.Context())
	}
}

// realRefusals are the words of the real API server, and of what it asks.
func realRefusals(t *testing.T, cfg agones.Config) {
	cfg.Regions["kube"] = agones.Region{Namespace: "kube-system"}
	p := open(t, cfg)
	for name, c := range map[string]struct {
		change func(*providerv1.AllocateRequest)
		want   providerv1.FailureReason
		says   string
	}{
		"no right":   {func(r *providerv1.AllocateRequest) { r.Region = "kube" }, provider.Unauthenticated, `cannot create resource "gameserverallocations" in API group "allocation.agones.dev" in the namespace "kube-system"`},
		"none ready": {func(r *providerv1.AllocateRequest) { r.Build = "none" }, provider.NoCapacity, "no GameServer is Ready"},
		"bad label":  {func(r *providerv1.AllocateRequest) { r.InstanceId = "no label!" }, provider.Invalid, "metadata.labels"},
	} {
		req := order()
		c.change(req)
		if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != c.want || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %v with %q", name, err, c.want, c.says)
		}
	}
}

// realDialect is how the way to the API server misbehaves, in its own words.
func realDialect() standin.Dialect {
	refuse := func(w http.ResponseWriter, code int, reason, message string) {
		answer(w, code, object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code})
	}
	return standin.Dialect{
		Creates: func(r *http.Request) bool { return r.Method == http.MethodPost },
		Throttled: func(w http.ResponseWriter, _ *http.Request, after time.Duration) {
			w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())))
			refuse(w, http.StatusTooManyRequests, "TooManyRequests", "too many requests, please try again later")
		},
		Full: func(w http.ResponseWriter, _ *http.Request) {
			answer(w, http.StatusCreated, object{"kind": "GameServerAllocation", "apiVersion": "allocation.agones.dev/v1", "status": object{"state": "UnAllocated", "gameServerName": ""}})
		},
		Refused: func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, http.StatusUnauthorized, "Unauthorized", "Unauthorized")
		},
	}
}
