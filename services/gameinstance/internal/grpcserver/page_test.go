package grpcserver

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/pagetoken"
	auditv1 "github.com/berth-dev/berth/sdk/go/gen/berth/audit/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

const secret conf.Secret = "a secret that all of the replicas share"

func tokens(t *testing.T) pagetoken.Key {
	t.Helper()
	tokens, err := pagetoken.New(secret, "game-instance")
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func query() instance.Query {
	return instance.Query{Namespace: "default", Limit: 10, Filter: instance.Filter{
		States: []instance.State{instance.Running, instance.Linked}, Region: "eu", Labels: map[string]string{"a": "b", "c": "d"}, PlayerID: "ann", Build: "game",
	}}
}

func TestAPageTokenIsGoodForItsList(t *testing.T) {
	cursor := instance.Cursor{CreateTime: time.UnixMicro(1_700_000_000_000_001), ID: uuid.NewString()}
	q := query()
	token, err := tokenOf(tokens(t), listOf(q), cursor)
	if err != nil {
		t.Fatal(err)
	}
	q.Limit, q.Filter.States = 20, []instance.State{instance.Linked, instance.Running} // the page size may change, and states have no order
	if got, err := placeOf(tokens(t), listOf(q), token); err != nil || got != cursor {
		t.Errorf("%+v, %v; want %+v", got, err, cursor)
	}
	if none, err := tokenOf(tokens(t), listOf(q), instance.Cursor{}); err != nil || none != "" {
		t.Errorf("token of the end: %q, %v", none, err)
	}
}

func TestAPageTokenOfAnotherListIsRefused(t *testing.T) {
	token, err := tokenOf(tokens(t), listOf(query()), instance.Cursor{CreateTime: time.UnixMicro(1_700_000_000_000_001), ID: uuid.NewString()})
	if err != nil {
		t.Fatal(err)
	}
	refused := func(name string, list any) {
		t.Helper()
		if got, err := placeOf(tokens(t), list, token); !errs.Is(err, errs.ValidationFailed) || !strings.Contains(err.Error(), ": page_token: ") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, change := range map[string]func(*instance.Query){
		"namespace": func(q *instance.Query) { q.Namespace = "other" },
		"no filter": func(q *instance.Query) { q.Filter = instance.Filter{} },
		"states":    func(q *instance.Query) { q.Filter.States = q.Filter.States[:1] },
		"region":    func(q *instance.Query) { q.Filter.Region = "us" },
		"labels":    func(q *instance.Query) { q.Filter.Labels = map[string]string{"a": "d", "c": "b"} },
		"player":    func(q *instance.Query) { q.Filter.PlayerID = "game" },
		"build":     func(q *instance.Query) { q.Filter.Build = "" },
		"moved":     func(q *instance.Query) { q.Filter.PlayerID, q.Filter.Build = "game", "ann" },
	} {
		q := query()
		change(&q)
		refused(name, listOf(q))
	}
	refused("the servers", serverList{"default"})
	refused("the audit", entryList(&auditv1.AuditFilter{Namespace: "default"}))
}

func TestAPageTokenOfTheAuditIsOfItsFilter(t *testing.T) {
	filter := func() *auditv1.AuditFilter {
		return &auditv1.AuditFilter{Namespace: "n", Actor: "a", Action: "b", Resource: "c", Outcome: "d"}
	}
	token, err := tokens(t).Token(entryList(filter()), "1700000000000-0")
	if err != nil {
		t.Fatal(err)
	}
	if place, err := tokens(t).Place(entryList(filter()), token); err != nil || place != "1700000000000-0" {
		t.Errorf("%q, %v", place, err)
	}
	for name, change := range map[string]func(*auditv1.AuditFilter){
		"namespace": func(f *auditv1.AuditFilter) { f.Namespace = "m" },
		"actor":     func(f *auditv1.AuditFilter) { f.Actor = "" },
		"action":    func(f *auditv1.AuditFilter) { f.Action = "a" },
		"resource":  func(f *auditv1.AuditFilter) { f.Resource = "b" },
		"outcome":   func(f *auditv1.AuditFilter) { f.Outcome = "c" },
	} {
		f := filter()
		change(f)
		if place, err := tokens(t).Place(entryList(f), token); !errs.Is(err, errs.ValidationFailed) {
			t.Errorf("%s: %q, %v", name, place, err)
		}
	}
}
