package agones_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/agones"
	agoneshost "github.com/berth-dev/berth/test/hosts/agones"
)

// rights are those of the page's file. With the allocator, without the rule that it says is to be left out then.
func rights(t testing.TB, way string) *agoneshost.Rights {
	t.Helper()
	r, err := agoneshost.ReadRights("../../../../docs/providers/agones-rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if way != "cluster" {
		r.Rules = slices.DeleteFunc(r.Rules, func(rule agoneshost.Rule) bool { return slices.Contains(rule.Resources, "gameserverallocations") })
	}
	return r
}

// restricted is start with the rights of the page's file, which has one namespace.
func restricted(t testing.TB, way string, r *agoneshost.Rights) (*agoneshost.Agones, agones.Config) {
	t.Helper()
	world := fleets()
	world.Rights = r
	host, cfg := start(t, world, way)
	delete(cfg.Regions, "us")
	return host, cfg
}

// life makes each call that a server's life has.
func life(p *agones.Provider) error {
	ctx, req := context.Background(), order()
	made, err := p.Allocate(ctx, req)
	if err != nil {
		return err
	}
	if _, err := get(p, req, made.GetServer().GetExternalId()); err != nil {
		return err
	}
	if _, err := p.List(ctx, &providerv1.ListRequest{Deployment: deployment}); err != nil {
		return err
	}
	_, err = p.Release(ctx, &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: deployment})
	return err
}

// The file has each right that is needed (TestConformance), and none that is not.
func TestEachRightIsNeeded(t *testing.T) {
	for _, way := range ways {
		_, cfg := restricted(t, way, rights(t, way))
		if err := life(open(t, cfg)); err != nil {
			t.Errorf("%s: %v", way, err)
		}
		for n, rule := range rights(t, way).Rules {
			for _, verb := range rule.Verbs {
				less := rights(t, way)
				less.Rules[n].Verbs = slices.DeleteFunc(slices.Clone(rule.Verbs), func(v string) bool { return v == verb })
				_, cfg := restricted(t, way, less)
				err := life(open(t, cfg))
				if provider.ReasonOf(err) != provider.Unauthenticated || !strings.Contains(err.Error(), "cannot "+verb+" resource") {
					t.Errorf("%s, without %s of %v: %v", way, verb, rule.Resources, err)
				}
			}
		}
	}
}
