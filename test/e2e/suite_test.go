package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

const (
	running    = instancev1.GameInstance_STATE_RUNNING
	ended      = instancev1.GameInstance_STATE_ENDED
	terminated = instancev1.GameInstance_STATE_TERMINATED
)

// player is a player's connection to a game server.
type player struct {
	conn  net.Conn
	lines *bufio.Reader
}

// connection asks for a player's endpoints and ticket.
func (s *berth) connection(t *testing.T, id, playerID string) *instancev1.GetPlayerConnectionResponse {
	t.Helper()
	var out instancev1.GetPlayerConnectionResponse
	s.ok(t, 0, "POST", fmt.Sprintf("%s/%s/players/%s:connect", instances, id, playerID), "{}", &out)
	return &out
}

// dial says JOIN with a ticket and returns the server's first line.
func dial(t *testing.T, e *typev1.Endpoint, ticket string) (*player, string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(e.GetHost(), fmt.Sprint(e.GetPort())), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p := &player{conn: conn, lines: bufio.NewReader(conn)}
	p.say(t, "JOIN "+ticket)
	return p, p.hear(t)
}

// join lets a player into the game.
func (s *berth) join(t *testing.T, id, playerID string) *player {
	t.Helper()
	c := s.connection(t, id, playerID)
	p, line := dial(t, c.GetEndpoints()[0], c.GetTicket())
	if line != "WELCOME "+playerID {
		t.Fatalf("%s was answered %q", playerID, line)
	}
	return p
}

func (p *player) say(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(p.conn, line); err != nil {
		t.Fatal(err)
	}
}

func (p *player) hear(t *testing.T) string {
	t.Helper()
	if err := p.conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	line, err := p.lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// serverPID returns the pid of an instance's game server, found by the instance's id in a process's environment; 0 if there is none.
func serverPID(t *testing.T, id string) int {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(raw), "BERTH_BOOTSTRAP=") && strings.Contains(string(raw), id) {
			var pid int
			if _, err := fmt.Sscanf(path, "/proc/%d/environ", &pid); err == nil {
				return pid
			}
		}
	}
	return 0
}

// gone waits until an instance's game server has stopped.
func gone(t *testing.T, id string) {
	t.Helper()
	eventually(t, "the game server has stopped", func() error {
		if pid := serverPID(t, id); pid != 0 {
			return fmt.Errorf("process %d runs", pid)
		}
		return nil
	})
}

func TestAWholeMatch(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, binary("matchmaker"), "--build", "example", "--players", "3", "--timeline")
		cmd.Env = []string{"BERTH_API=" + s.api, "BERTH_API_KEY=" + s.key}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("matchmaker: %v\n%s", err, out)
		}
		var list instancev1.ListGameInstancesResponse
		s.ok(t, 0, "GET", instances, "", &list)
		if len(list.GetInstances()) != 1 {
			t.Fatalf("%d instances are listed", len(list.GetInstances()))
		}
		id := list.GetInstances()[0].GetId()
		inst := s.get(t, id)
		if inst.GetState() != ended || inst.GetResult() == nil || len(inst.GetEndpoints()) != 1 || inst.GetExpireTime() == nil {
			t.Errorf("after the match: %v", inst)
		}
		gone(t, id)
		eventually(t, "the history is complete", func() error {
			events := s.events(t, id)
			for _, want := range []string{"created", "allocating", "linked", "running", "ended", "released"} {
				if !slices.Contains(events, want) {
					return fmt.Errorf("%q is missing in %v", want, events)
				}
			}
			return nil
		})
	})
}

func TestTicketsLetInWhoIsInvitedAndOnce(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		id := s.create(t, "hold", "ann", "bob").GetId()
		s.becomes(t, id, running)
		other := s.create(t, "hold", "ann").GetId()
		s.becomes(t, other, running)
		c := s.connection(t, id, "ann")
		if _, line := dial(t, c.GetEndpoints()[0], c.GetTicket()); line != "WELCOME ann" {
			t.Errorf("ann: %s", line)
		}
		for name, ticket := range map[string]string{
			"used twice": c.GetTicket(), "another match's": s.connection(t, other, "ann").GetTicket(), "forged": c.GetTicket()[:len(c.GetTicket())-8] + "AAAAAAAA", "none": "x",
		} {
			if _, line := dial(t, c.GetEndpoints()[0], ticket); !strings.HasPrefix(line, "REFUSED") {
				t.Errorf("a ticket that is %s: %s", name, line)
			}
		}
		if status, body := s.rest(t, 0, "POST", instances+"/"+id+"/players/mal:connect", "{}"); status != http.StatusNotFound {
			t.Errorf("connection of somebody uninvited: %d %s", status, body)
		}
		for _, id := range []string{id, other} {
			s.ok(t, 0, "POST", instances+"/"+id+":terminate", "{}", nil)
			gone(t, id)
		}
	})
}

func TestBackendsReachTheServerFromAnyGateway(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		id := s.create(t, "hold", "ann").GetId()
		s.becomes(t, id, running)
		last := len(s.urls) - 1 // the server is linked on the first gateway
		s.ok(t, last, "POST", instances+"/"+id+":addPlayers", `{"players":[{"id":"eve","data":{"json":{"skin":"red"}}}]}`, nil)
		s.playerIsExpected(t, id, "eve")
		s.ok(t, last, "POST", instances+"/"+id+":removePlayers", `{"playerIds":["eve"]}`, nil)
		s.ok(t, last, "POST", instances+"/"+id+":updateGameData", `{"gameData":{"json":{"end":true}}}`, nil)
		if got := s.becomes(t, id, ended); got.GetResult() == nil {
			t.Errorf("ended without a result: %v", got)
		}
		gone(t, id)
	})
}

// playerIsExpected waits until the server has opened to a player that was added, which shows that the news has reached it.
func (s *berth) playerIsExpected(t *testing.T, id, playerID string) {
	t.Helper()
	eventually(t, playerID+" is let in", func() error {
		for _, p := range s.get(t, id).GetPlayers() {
			if p.GetId() == playerID && p.GetConnectable() {
				return nil
			}
		}
		return fmt.Errorf("%s cannot connect yet", playerID)
	})
	s.join(t, id, playerID)
}

func TestTerminateTellsAndStopsTheServer(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		id := s.create(t, "hold", "ann").GetId()
		s.becomes(t, id, running)
		if serverPID(t, id) == 0 {
			t.Fatal("the running match has no process")
		}
		s.ok(t, 0, "POST", instances+"/"+id+":terminate", `{"message":"maintenance"}`, nil)
		if got := s.get(t, id); got.GetState() != terminated || got.GetReason() != instancev1.GameInstance_REASON_REQUESTED || got.GetMessage() != "maintenance" {
			t.Errorf("terminated as %v", got)
		}
		gone(t, id)
	})
}

func TestServersThatFailEndTheInstanceWithTheReason(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		for build, want := range map[string]struct {
			reason  instancev1.GameInstance_Reason
			message string
		}{
			"crash-before-link": {instancev1.GameInstance_REASON_SERVER_EXITED, "exit status"},
			"crash-after-link":  {instancev1.GameInstance_REASON_SERVER_EXITED, "exit status 3"},
			"missing":           {instancev1.GameInstance_REASON_ALLOCATION_FAILED, "there-is-no-such-program"},
		} {
			t.Run(build, func(t *testing.T) {
				id := s.create(t, build, "ann").GetId()
				eventually(t, "the instance is over", func() error {
					if got := s.get(t, id); got.GetState() != terminated {
						return fmt.Errorf("it is %s", got.GetState())
					}
					return nil
				})
				if got := s.get(t, id); got.GetReason() != want.reason || !strings.Contains(got.GetMessage(), want.message) {
					t.Errorf("reason %s: %s", got.GetReason(), got.GetMessage())
				}
				if events := s.events(t, id); !slices.Contains(events, "terminated") {
					t.Errorf("history %v", events)
				}
				gone(t, id)
			})
		}
		t.Run("never-link", func(t *testing.T) {
			var out instancev1.CreateGameInstanceResponse
			s.ok(t, 0, "POST", instances, `{"placement":{"build":"never-link"},"timeouts":{"link":"1s"}}`, &out)
			id := out.GetInstance().GetId()
			eventually(t, "the instance is over", func() error {
				if got := s.get(t, id); got.GetReason() != instancev1.GameInstance_REASON_LINK_TIMEOUT {
					return fmt.Errorf("it is %s (%s)", got.GetState(), got.GetReason())
				}
				return nil
			})
			gone(t, id)
		})
	})
}

func TestAnInstanceMayAskForItsServerLater(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		var out instancev1.CreateGameInstanceResponse
		s.ok(t, 0, "POST", instances, `{"placement":{"build":"hold"},"skipAllocation":true}`, &out)
		id := out.GetInstance().GetId()
		if got := out.GetInstance().GetState(); got != instancev1.GameInstance_STATE_PENDING {
			t.Errorf("state %s", got)
		}
		s.ok(t, 0, "POST", instances+"/"+id+":allocate", "{}", nil)
		s.becomes(t, id, running)
		s.ok(t, 0, "POST", instances+"/"+id+":terminate", "{}", nil)
		gone(t, id)
	})
}

func TestWatchOverREST(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		id := s.create(t, "example").GetId()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.urls[0]+instances+"/"+id+":watch", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+s.key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		s.ok(t, 0, "POST", instances+"/"+id+":terminate", "{}", nil)
		var last string
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			last = lines.Text()
		}
		if err := lines.Err(); err != nil || !strings.Contains(last, "STATE_TERMINATED") {
			t.Errorf("the watch ended with %q, %v", last, err)
		}
		gone(t, id)
	})
}

func TestDoorsAreLocked(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		id := s.create(t, "hold").GetId()
		before := s.becomes(t, id, running)
		last := len(s.urls) - 1
		get, path := instances+"/"+id, "/v1/game-server/instances/"+id+":end"
		for name, c := range map[string]struct {
			url, method, body string
			header            []string
			status            int
			reason            string
		}{
			"no key":              {s.urls[last] + get, "GET", "", nil, 401, "CREDENTIALS_MISSING"},
			"wrong key":           {s.urls[last] + get, "GET", "", []string{"Authorization", "Bearer berth_wrong"}, 401, "CREDENTIALS_INVALID"},
			"unknown instance":    {s.urls[last] + instances + "/11111111-1111-4111-8111-111111111111", "GET", "", []string{"Authorization", "Bearer " + s.key}, 404, "INSTANCE_UNKNOWN"},
			"unknown path":        {s.urls[last] + "/v1/nothing", "GET", "", []string{"Authorization", "Bearer " + s.key}, 404, "PATH_UNKNOWN"},
			"malformed JSON":      {s.urls[last] + instances, "POST", `{"placement":`, []string{"Authorization", "Bearer " + s.key}, 400, "MALFORMED"},
			"unknown field":       {s.urls[last] + instances, "POST", `{"placment":{}}`, []string{"Authorization", "Bearer " + s.key}, 400, "MALFORMED"},
			"invalid":             {s.urls[last] + instances, "POST", `{"placement":{"build":"UPPER"}}`, []string{"Authorization", "Bearer " + s.key}, 400, "VALIDATION_FAILED"},
			"unknown build":       {s.urls[last] + instances, "POST", `{"placement":{"build":"nothing"}}`, []string{"Authorization", "Bearer " + s.key}, 400, "BUILD_UNKNOWN"},
			"no state for it":     {s.urls[last] + get + ":allocate", "POST", `{}`, []string{"Authorization", "Bearer " + s.key}, 400, "STATE_NOT_ALLOWED"},
			"unknown provider":    {s.urls[last] + "/v1/providers/nowhere:drain", "POST", `{}`, []string{"Authorization", "Bearer " + s.key}, 404, "PROVIDER_UNKNOWN"},
			"no tokens":           {s.edges[last] + path, "POST", `{}`, nil, 401, "CREDENTIALS_MISSING"},
			"key for tokens":      {s.edges[last] + path, "POST", `{}`, []string{"Authorization", "Bearer " + s.key}, 403, "ROLE_REQUIRED"},
			"invented tokens":     {s.edges[last] + path, "POST", `{}`, []string{"Authorization", "Bearer a.b.c", "Berth-Social-Token", "a.b.c"}, 401, "CREDENTIALS_INVALID"},
			"backend at the edge": {s.edges[last] + get, "GET", "", []string{"Authorization", "Bearer " + s.key}, 404, "PATH_UNKNOWN"},
			"smuggled identity":   {s.urls[last] + get, "GET", "", []string{"Grpc-Metadata-Berth-Internal-Key", testInternalKey, "Berth-Internal-Key", testInternalKey}, 401, "CREDENTIALS_MISSING"},
		} {
			t.Run(name, func(t *testing.T) {
				status, body := do(t, c.method, c.url, c.body, c.header...)
				if reason, message := errorOf(t, body); status != c.status || reason != c.reason || message == "" {
					t.Errorf("%d %s, want %d %s", status, body, c.status, c.reason)
				}
			})
		}
		after := s.get(t, id)
		if before.GetRevision() != after.GetRevision() {
			t.Errorf("refused calls changed the instance from revision %d to %d", before.GetRevision(), after.GetRevision())
		}
		s.ok(t, 0, "POST", instances+"/"+id+":terminate", "{}", nil)
		gone(t, id)
	})
}

func TestKeysArePublic(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		status, body := do(t, "GET", s.edges[0]+"/.well-known/jwks.json", "")
		if status != http.StatusOK || !strings.Contains(string(body), `"kty":"OKP"`) && !strings.Contains(string(body), `"kty": "OKP"`) {
			t.Errorf("%d %s", status, body)
		}
		if status, body := do(t, "GET", s.urls[0]+"/openapi.json", ""); status != http.StatusOK || !strings.Contains(string(body), "CreateGameInstance") {
			t.Errorf("OpenAPI: %d %.200s", status, body)
		}
	})
}

func TestTheSameOverGRPC(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		client, ctx := s.grpcClient(t)
		made, err := client.CreateGameInstance(ctx, &instancev1.CreateGameInstanceRequest{RequestId: "once", Placement: &instancev1.Placement{Build: "hold"}})
		if err != nil {
			t.Fatal(err)
		}
		id := made.GetInstance().GetId()
		s.becomes(t, id, running)
		overGRPC, err := client.GetGameInstance(ctx, &instancev1.GetGameInstanceRequest{InstanceId: id})
		if err != nil {
			t.Fatal(err)
		}
		if a, b := protojson.Format(overGRPC.GetInstance()), protojson.Format(s.get(t, id)); strings.Join(strings.Fields(a), "") != strings.Join(strings.Fields(b), "") {
			t.Errorf("over gRPC %s\nover REST %s", a, b)
		}
		if _, err := client.TerminateGameInstance(ctx, &instancev1.TerminateGameInstanceRequest{InstanceId: id}); err != nil {
			t.Fatal(err)
		}
		gone(t, id)
	})
}
