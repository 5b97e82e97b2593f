package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/berth-dev/berth/services/berth/dev"
	"github.com/berth-dev/berth/test/link/kit"
	"github.com/berth-dev/berth/test/stack"
)

// node returns the path of Node and that of the client, or skips the test. With REQUIRE_NODE=1 it must be there.
func node(t *testing.T) (program, client string) {
	t.Helper()
	missing := func(why string) {
		if os.Getenv("REQUIRE_NODE") == "1" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	program, err := exec.LookPath("node")
	if err != nil {
		missing("there is no node on the PATH: the match of the client in Node is not played")
	}
	client, err = filepath.Abs(filepath.Join("node", "client.mjs"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join("node", "node_modules", "ws")); err != nil {
		missing("test/link/node has no node_modules: run npm ci there, and the match of the client in Node is played")
	}
	return program, client
}

// A client in another language, written from the document alone, plays a whole match; its connection is cut in the middle, and something happens while it
// is away.
func TestAClientInNodePlaysAMatch(t *testing.T) {
	program, client := node(t)
	for name, c := range map[string]struct {
		credentials, more string
		events            int
	}{
		"it resumes":                  {"tokens", "", 3},
		"it takes a snapshot":         {"tokens", ", --snapshot", 2}, // what happened while it was away is in there
		"it begins with a claim code": {"claim", "", 3},
	} {
		t.Run(name, func(t *testing.T) {
			way := newProxy(t)
			config := filepath.Join(t.TempDir(), "berth.yaml")
			write(t, config, fmt.Sprintf("providers:\n  - {name: local, kind: process, credentials: %s, process: {builds: {node: {command: %q, args: [%q, --gateway, %q, --refresh-after, \"0.1\"%s]}}}}\n",
				c.credentials, program, client, "http://"+way.addr(), c.more))
			s := start(t, dev.Options{Config: config})
			way.leadTo(strings.TrimPrefix(s.Gateway, "http://"))
			id := s.create(t, "node")
			t.Cleanup(func() {
				if t.Failed() {
					t.Log(s.output(t))
				}
			})
			s.plays(t, id, "ann")
			s.call(t, "POST", "/"+id+":addPlayers", `{"players":[{"id":"bob"}]}`)
			s.plays(t, id, "ann", "bob")
			stack.Eventually(t, "the tokens are refreshed", func() error { return way.carried(`"gameToken"`) })

			way.cut()
			s.call(t, "POST", "/"+id+":addPlayers", `{"players":[{"id":"cid"}]}`)
			way.mend()
			s.plays(t, id, "ann", "bob", "cid")
			s.call(t, "POST", "/"+id+":updateGameData", `{"gameData":{"json":{"finish":true}}}`)
			stack.Eventually(t, "the game is over", func() error {
				if state := s.instance(t, id)["state"]; state != "STATE_ENDED" {
					return fmt.Errorf("it is %v", state)
				}
				return nil
			})
			s.judge(t, id, c.events)
			stack.Eventually(t, "the server has left in good order", func() error {
				if out := s.output(t); !strings.Contains(out, `"reason":"left"`) {
					return fmt.Errorf("it says %s", out)
				}
				return nil
			})
		})
	}
}

// plays waits until the server has written down who plays.
func (s *berth) plays(t *testing.T, id string, players ...string) {
	t.Helper()
	stack.Eventually(t, fmt.Sprint("these play: ", players), func() error {
		inst := s.instance(t, id)
		data, _ := inst["gameData"].(object)
		game, _ := data["json"].(object)
		if inst["state"] == "STATE_TERMINATED" {
			t.Fatalf("the instance is over: %v", inst)
		}
		if got := strings.Fields(strings.Trim(fmt.Sprint(game["players"]), "[]")); inst["state"] != "STATE_RUNNING" || !slices.Equal(got, players) {
			return fmt.Errorf("%v, %v", inst["state"], game)
		}
		return nil
	})
}

// judge looks at the result: everybody was there, each event came once and in order, and it took two connections and a refresh.
func (s *berth) judge(t *testing.T, id string, events int) {
	t.Helper()
	inst := s.instance(t, id)
	raw, err := json.Marshal(inst["result"])
	if err != nil {
		t.Fatal(err)
	}
	var result struct {
		JSON struct {
			Players                []string
			Connections, Refreshed int
			Offsets                []int64
		}
	}
	if err := json.Unmarshal(raw, &result); err != nil {
		t.Fatal(err)
	}
	got := result.JSON
	if !reflect.DeepEqual(got.Players, []string{"ann", "bob", "cid"}) || got.Connections < 2 || got.Refreshed < 1 {
		t.Errorf("the result is %s", raw)
	}
	if len(got.Offsets) != events || !slices.IsSorted(got.Offsets) || len(slices.Compact(slices.Clone(got.Offsets))) != events {
		t.Errorf("events came as %v", got.Offsets)
	}
}

// output returns what the game servers wrote.
func (s *berth) output(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(s.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) != ".log" {
			return err
		}
		raw, err := os.ReadFile(path)
		all.Write(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What the kit asks of an SDK of level 1 can be done by somebody who has only the document.
func TestTheClientInNodeConforms(t *testing.T) {
	program, client := node(t)
	var table, log strings.Builder
	results := kit.SDK{Command: []string{program, filepath.Join(filepath.Dir(client), "conformance.mjs")}, Level: 1, Log: &log}.Check(t.Context())
	kit.Print(&table, results)
	if kit.Failed(results) {
		t.Errorf("%s\nwhat they printed:\n%s", table.String(), log.String())
	}
}
