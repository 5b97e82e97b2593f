package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/services/berth/dev"
	"github.com/berth-dev/berth/test/stack"
)

// berth is a running Berth, of either shape.
type berth struct {
	// api is the gRPC address of the API.
	api string
	// urls are the REST base URLs of the gateways' API listeners, edges those of their edge listeners.
	urls, edges []string
	key         string
	// dir has the game servers' logs and state.
	dir string
	// procs are the processes of the services, by name; empty for the all-in-one.
	procs map[string]*stack.Process
	redis string
}

// shapes runs a test on both shapes.
func shapes(t *testing.T, test func(t *testing.T, s *berth)) {
	t.Run("all-in-one", func(t *testing.T) { test(t, allInOne(t)) })
	t.Run("processes", func(t *testing.T) { test(t, processes(t)) })
}

// providers are the game servers that the suite runs: the second provider starts them with claim codes. stateDir is where they keep their state; empty: where
// berth dev says.
func providers(stateDir string) string {
	server := binary("gameserver")
	var b strings.Builder
	b.WriteString("providers:\n")
	provider := func(name, more string) {
		fmt.Fprintf(&b, "  - name: %s\n    kind: process\n%s    process:\n", name, more)
		if stateDir != "" {
			fmt.Fprintf(&b, "      state_dir: %q\n", filepath.Join(stateDir, name))
		}
		b.WriteString("      builds:\n")
	}
	build := func(name, command string, args ...string) {
		fmt.Fprintf(&b, "        %s: {command: %q, args: [%s], endpoints: [{name: game, protocol: tcp}]}\n", name, command, strings.Join(args, ", "))
	}
	provider("local", "")
	build("example", server, `"--rounds"`, `"2"`)
	build("hold", server, `"--hold"`)
	build("crash-before-link", server, `"--crash-before-link"`)
	build("crash-after-link", server, `"--crash-after-link"`)
	build("never-link", server, `"--never-link"`)
	build("missing", filepath.Join(binaries, "there-is-no-such-program"))
	provider("claiming", "    credentials: claim\n")
	build("claim-hold", server, `"--hold"`)
	build("claim-never-link", server, `"--never-link"`)
	b.WriteString("  - {name: metal, kind: static, static: {pool: metal, builds: [pooled]}}\n")
	return b.String()
}

// allInOne starts what `berth dev` runs.
func allInOne(t *testing.T) *berth {
	t.Helper()
	dir := t.TempDir()
	d := stack.AllInOne(t, dev.Options{Config: stack.WriteConfig(t, providers("")), Dir: dir})
	return &berth{api: d.API, urls: []string{d.APIURL}, edges: []string{d.Gateway}, key: d.Key, dir: dir}
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, condition func() error) {
	t.Helper()
	stack.Eventually(t, what, condition)
}

// rest calls the API over REST through the n-th gateway and returns the status and body.
func (s *berth) rest(t testing.TB, gateway int, method, path, body string, header ...string) (int, []byte) {
	t.Helper()
	return do(t, method, s.urls[gateway]+path, body, append([]string{"Authorization", "Bearer " + s.key}, header...)...)
}

func do(t testing.TB, method, url, body string, header ...string) (int, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, out
}

// ok is rest for calls that must succeed; it fills out. A call that changes nothing is repeated while the answer is UNAVAILABLE, as every
// client does: a store that is failing over answers so for a moment, and a test that asks just then has found no defect.
func (s *berth) ok(t testing.TB, gateway int, method, path, body string, out proto.Message) {
	t.Helper()
	changes := method != http.MethodGet && !strings.HasSuffix(path, ":connect")
	var raw []byte
	eventually(t, method+" "+path+" is answered", func() error {
		var status int
		status, raw = s.rest(t, gateway, method, path, body)
		if status == http.StatusServiceUnavailable && !changes {
			return fmt.Errorf("%d %s", status, raw)
		}
		if status != http.StatusOK {
			t.Fatalf("%s %s: %d %s", method, path, status, raw)
		}
		return nil
	})
	if out == nil {
		return
	}
	if err := protojson.Unmarshal(raw, out); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, raw)
	}
}

const instances = "/v1/namespaces/default/instances"

// create creates an instance over REST.
func (s *berth) create(t testing.TB, build string, players ...string) *instancev1.GameInstance {
	t.Helper()
	var list []string
	for _, p := range players {
		list = append(list, fmt.Sprintf(`{"id":%q}`, p))
	}
	var out instancev1.CreateGameInstanceResponse
	s.ok(t, 0, "POST", instances, fmt.Sprintf(`{"placement":{"build":%q},"players":[%s],"timeouts":{"disconnectGrace":"120s"}}`, build, strings.Join(list, ",")), &out)
	return out.GetInstance()
}

func (s *berth) get(t testing.TB, id string) *instancev1.GameInstance {
	t.Helper()
	var out instancev1.GetGameInstanceResponse
	s.ok(t, len(s.urls)-1, "GET", instances+"/"+id, "", &out)
	return out.GetInstance()
}

// becomes waits until an instance is in a state; a final state that is not wanted fails at once.
func (s *berth) becomes(t testing.TB, id string, want instancev1.GameInstance_State) *instancev1.GameInstance {
	t.Helper()
	var inst *instancev1.GameInstance
	eventually(t, "instance becomes "+want.String(), func() error {
		inst = s.get(t, id)
		if inst.GetState() == want {
			return nil
		}
		if inst.GetEndTime() != nil {
			t.Fatalf("instance is %s (%s): %s", inst.GetState(), inst.GetReason(), inst.GetMessage())
		}
		return fmt.Errorf("it is %s", inst.GetState())
	})
	return inst
}

// events returns the names of an instance's history, in order.
func (s *berth) events(t testing.TB, id string) []string {
	t.Helper()
	var out instancev1.ListHistoryResponse
	s.ok(t, 0, "GET", instances+"/"+id+"/history", "", &out)
	var names []string
	for _, e := range out.GetEntries() {
		if e.GetActor() == "" || e.GetTime() == nil || e.GetRevision() == 0 {
			t.Errorf("history entry without who, when or revision: %v", e)
		}
		names = append(names, e.GetEvent())
	}
	return names
}

// errorOf reads reason and message of a REST error.
func errorOf(t *testing.T, body []byte) (reason, message string) {
	t.Helper()
	var e struct {
		Message string
		Details []struct{ Reason, Domain string }
	}
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatalf("error body %s: %v", body, err)
	}
	for _, d := range e.Details {
		if d.Domain == "berth.dev" {
			reason = d.Reason
		}
	}
	return reason, e.Message
}

// grpcClient returns a client of the API over gRPC, and a context with the key.
func (s *berth) grpcClient(t *testing.T) (instancev1.GameInstanceServiceClient, context.Context) {
	t.Helper()
	conn, err := grpc.NewClient(s.api, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return instancev1.NewGameInstanceServiceClient(conn), metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.key)
}
