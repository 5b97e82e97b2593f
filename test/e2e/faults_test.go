package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/sdk/go/bootstrap"
)

// Each service and each gateway is killed and started again in mid-match, and the match goes on to its result.
func TestAMatchSurvivesTheDeathOfEachService(t *testing.T) {
	s := processes(t)
	id := s.create(t, "hold", "ann").GetId()
	s.becomes(t, id, running)
	ann := s.join(t, id, "ann")
	for n, name := range []string{"gateway-a", "game-instance", "token-issuer", "allocation", "gateway-b"} {
		p := s.procs[name]
		p.Kill(t)
		p.Start(t)
		p.Ready(t)
		// News from the backend still reaches the server, and the server's own calls the backend.
		guest := fmt.Sprint("guest-", n)
		eventually(t, "players can be added after the death of "+name, func() error {
			status, body := s.rest(t, 1, "POST", instances+"/"+id+":addPlayers", fmt.Sprintf(`{"requestId":%q,"players":[{"id":%q}]}`, guest, guest))
			if status != 200 {
				return fmt.Errorf("%d %s", status, body)
			}
			return nil
		})
		s.playerIsExpected(t, id, guest)
	}
	ann.say(t, "END")
	if got := s.becomes(t, id, ended); got.GetResult() == nil || len(got.GetAttempts()) != 1 {
		t.Errorf("ended as %v", got)
	}
	gone(t, id)
}

// All of them at once.
func TestAMatchSurvivesTheDeathOfEverything(t *testing.T) {
	s := processes(t)
	id := s.create(t, "hold", "ann").GetId()
	s.becomes(t, id, running)
	ann := s.join(t, id, "ann")
	for _, p := range s.procs {
		p.Kill(t)
	}
	ann.say(t, "END") // the result waits in the server until there is somebody to tell
	for _, p := range s.procs {
		p.Start(t)
	}
	for _, p := range s.procs {
		p.Ready(t)
	}
	if got := s.becomes(t, id, ended); got.GetResult() == nil {
		t.Errorf("ended as %v", got)
	}
	gone(t, id)
}

// With pub/sub held back, news reaches the server through its mailbox.
func TestNewsArriveWithoutPubSub(t *testing.T) {
	addr := redistest.Server(t)
	var proxy *holder
	s := processesOn(t, addr, func(addr string) string {
		if proxy == nil {
			proxy = newHolder(t, addr)
		}
		return proxy.addr
	})
	id := s.create(t, "hold", "ann").GetId()
	s.becomes(t, id, running)
	proxy.hold()
	s.ok(t, 1, "POST", instances+"/"+id+":addPlayers", `{"players":[{"id":"eve"}]}`, nil)
	s.playerIsExpected(t, id, "eve")
	if proxy.held() == 0 {
		t.Error("nothing was held back: the test shows nothing")
	}
	s.ok(t, 0, "POST", instances+"/"+id+":terminate", "{}", nil)
	gone(t, id)
}

// No token and no key stands on a command line, in a log or in the store.
func TestSecretsAreNowhere(t *testing.T) {
	s := processes(t)
	id := s.create(t, "hold", "ann", "bob").GetId()
	s.becomes(t, id, running)
	claiming := s.create(t, "claim-hold", "ann").GetId()
	s.becomes(t, claiming, running)
	secrets := append(serverSecrets(t, id), claimCode(t, claiming), testAPIKey, testInternalKey, testSealingKey)
	ticket := s.connection(t, id, "bob").GetTicket()
	secrets = append(secrets, ticket)
	ann := s.join(t, id, "ann")
	s.ok(t, 1, "POST", instances+"/"+id+":addPlayers", `{"players":[{"id":"eve"}]}`, nil)
	s.playerIsExpected(t, id, "eve")

	places := map[string]string{}
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range cmdlines {
		if raw, err := os.ReadFile(path); err == nil {
			places[path] = string(raw)
		}
	}
	for key, value := range redisValues(t, s.redis) {
		places["redis "+key] = value
	}
	ann.say(t, "END")
	s.becomes(t, id, ended)
	gone(t, id)
	s.join(t, claiming, "ann").say(t, "END")
	s.becomes(t, claiming, ended)
	gone(t, claiming)
	err = filepath.WalkDir(s.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		places[path] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(places) < 30 {
		t.Errorf("only %d places were looked at", len(places))
	}
	for place, content := range places {
		for _, secret := range secrets {
			if strings.Contains(content, secret) {
				t.Errorf("%s has a secret (%.12s…)", place, secret)
			}
		}
		if strings.Contains(content, "eyJ") && strings.Contains(content, ".eyJ") {
			t.Errorf("%s has something like a JWT", place)
		}
	}
}

// serverSecrets returns the tokens of an instance's server, from its environment.
func serverSecrets(t *testing.T, id string) []string {
	t.Helper()
	b := document(t, id)
	if b.Game == "" || b.Social == "" || b.Claim != "" {
		t.Fatal("the bootstrap document has not two tokens, and nothing else")
	}
	return []string{b.Game.Reveal(), b.Social.Reveal()}
}

// claimCode returns the claim code of an instance's server, from its environment.
func claimCode(t *testing.T, id string) string {
	t.Helper()
	b := document(t, id)
	if b.Game != "" || b.Social != "" || b.Claim == "" {
		t.Fatal("the bootstrap document has not a claim code, and nothing else")
	}
	return b.Claim.Reveal()
}

// document returns the bootstrap document of an instance's server.
func document(t *testing.T, id string) *bootstrap.Document {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", serverPID(t, id)))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range strings.Split(string(raw), "\x00") {
		doc, ok := strings.CutPrefix(v, "BERTH_BOOTSTRAP=")
		if !ok {
			continue
		}
		b, err := bootstrap.Parse([]byte(doc))
		if err != nil {
			t.Fatalf("bootstrap: %v", err)
		}
		return b
	}
	t.Fatal("the server has no bootstrap")
	return nil
}

// redisValues returns everything in the store, by key.
func redisValues(t *testing.T, addr string) map[string]string {
	t.Helper()
	ctx := context.Background()
	c := redis.NewClient(&redis.Options{Addr: addr})
	defer func() { _ = c.Close() }()
	values := map[string]string{}
	keys, err := c.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		kind, err := c.Type(ctx, key).Result()
		if err != nil {
			t.Fatal(err)
		}
		var v any
		switch kind {
		case "string":
			v, err = c.Get(ctx, key).Result()
		case "hash":
			v, err = c.HGetAll(ctx, key).Result()
		case "list":
			v, err = c.LRange(ctx, key, 0, -1).Result()
		case "set":
			v, err = c.SMembers(ctx, key).Result()
		case "zset":
			v, err = c.ZRange(ctx, key, 0, -1).Result()
		case "stream":
			v, err = c.XRange(ctx, key, "-", "+").Result()
		case "none":
			continue
		default:
			t.Errorf("key %s has type %s, which this test does not read", key, kind)
		}
		if err != nil {
			t.Fatal(err)
		}
		values[key] = fmt.Sprint(v)
	}
	return values
}
