package grpcserver

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

const secret conf.Secret = "a secret that all of the replicas share"

func tokens(t *testing.T, secret conf.Secret) PageTokens {
	t.Helper()
	tokens, err := NewPageTokens(secret)
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

func TestAPageTokenIsGoodForItsListOnEveryReplica(t *testing.T) {
	cursor := instance.Cursor{CreateTime: time.UnixMicro(1_700_000_000_000_001), ID: uuid.NewString()}
	q := query()
	token, err := tokens(t, secret).token(listOf(q), cursor)
	if err != nil {
		t.Fatal(err)
	}
	q.Limit, q.Filter.States = 20, []instance.State{instance.Linked, instance.Running} // the page size may change, and states have no order
	if got, err := tokens(t, secret).parse(listOf(q), token); err != nil || got != cursor {
		t.Errorf("%+v, %v; want %+v", got, err, cursor)
	}
	if none, err := tokens(t, secret).token(listOf(q), instance.Cursor{}); err != nil || none != "" {
		t.Errorf("token of the end: %q, %v", none, err)
	}
}

func TestAPageTokenOfAnotherListIsRefused(t *testing.T) {
	token, err := tokens(t, secret).token(listOf(query()), instance.Cursor{CreateTime: time.UnixMicro(1_700_000_000_000_001), ID: uuid.NewString()})
	if err != nil {
		t.Fatal(err)
	}
	refused := func(name string, tokens PageTokens, q instance.Query, token string) {
		t.Helper()
		if got, err := tokens.parse(listOf(q), token); !errs.Is(err, errs.ValidationFailed) || !strings.Contains(err.Error(), ": page_token: ") {
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
		refused(name, tokens(t, secret), q, token)
	}
	refused("another deployment", tokens(t, secret+"!"), query(), token)
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	for n := range raw {
		bad := append([]byte{}, raw...)
		bad[n] ^= 1
		refused("one bit", tokens(t, secret), query(), base64.RawURLEncoding.EncodeToString(bad))
	}
	for _, bad := range []string{"x", token[1:], token[:len(token)-1], token + "A", token + "=", "…", base64.RawURLEncoding.EncodeToString(raw[:place])} {
		refused(bad, tokens(t, secret), query(), bad)
	}
}

func FuzzPageToken(f *testing.F) {
	tokens, err := NewPageTokens(secret)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("")
	f.Add(base64.RawURLEncoding.EncodeToString(make([]byte, place+32)))
	f.Fuzz(func(t *testing.T, token string) {
		if got, err := tokens.parse(listOf(query()), token); token != "" && err == nil {
			t.Errorf("%q names %+v", token, got)
		}
	})
}
