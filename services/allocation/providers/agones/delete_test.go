package agones_test

import (
	"net/http"
	"strings"
	"testing"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	agoneshost "github.com/berth-dev/berth/test/hosts/agones"
)

// deletes has something happen before the host deletes something, times times.
func deletes(host *agoneshost.Agones, times int, happen func()) {
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		_ = host.Heal(r.Context())
		left := times
		if r.Method == http.MethodDelete {
			happen()
			left--
		}
		host.ServeHTTP(w, r)
		if left > 0 {
			deletes(host, left, happen)
		}
	})
}

// Between the look at a GameServer and its deletion it may have become another one's. It is deleted only if it is the attempt's all the same.
func TestWhatHasChangedIsLookedAtAgain(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(host *agoneshost.Agones, attempt string)
		deleted bool
	}{
		"it went back to Ready":  {func(h *agoneshost.Agones, attempt string) { h.Set(attempt, "Ready") }, false},
		"another attempt has it": {func(h *agoneshost.Agones, attempt string) { h.Label(attempt, "berth.dev/attempt", "other-1") }, false},
		"another Berth has it":   {func(h *agoneshost.Agones, attempt string) { h.Label(attempt, "berth.dev/deployment", "other") }, false},
		"its server set a label": {func(h *agoneshost.Agones, attempt string) { h.Label(attempt, "agones.dev/sdk-round", "2") }, true},
		"it became unhealthy":    {func(h *agoneshost.Agones, attempt string) { h.Set(attempt, "Unhealthy") }, true},
		"nothing happened to it": {func(*agoneshost.Agones, string) {}, true},
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t, fleets(), "cluster")
			p, req := open(t, cfg), order()
			external := allocate(t, p, req).GetExternalId()
			deletes(host, 1, func() { c.change(host, req.GetAttemptId()) })
			if _, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: deployment}); err != nil {
				t.Error(err)
			}
			if host.There(external) == c.deleted {
				t.Errorf("deleted: %v; want %v", !c.deleted, c.deleted)
			}
		})
	}
}

// One that changes all the time is left to the next call.
func TestWhatChangesAllTheTime(t *testing.T) {
	host, cfg := start(t, fleets(), "cluster")
	p, req := open(t, cfg), order()
	external := allocate(t, p, req).GetExternalId()
	deletes(host, 100, func() { host.Label(req.GetAttemptId(), "agones.dev/sdk-round", "x") })
	release := &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: deployment}
	if _, err := p.Release(t.Context(), release); provider.ReasonOf(err) != provider.Unavailable || !strings.Contains(err.Error(), "changes faster") {
		t.Errorf("got %v", err)
	}
	_ = host.Heal(t.Context())
	if _, err := p.Release(t.Context(), release); err != nil || host.There(external) {
		t.Errorf("after it: %v", err)
	}
}
