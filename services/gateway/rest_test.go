package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/token"
)

const (
	instancePath = "/v1/namespaces/default/instances/" + knownInstance
	serversPath  = "/v1/namespaces/default/game-servers"
	poolPath     = "/v1/pools/metal:join"
	poolKey      = "berth_pool"
)

// asPool shows the key of a pool.
func asPool(h http.Header) { h.Set("Authorization", "Bearer "+poolKey) }

// A server that started by itself joins at the edge, over REST and gRPC.
func TestAServerJoinsItsPoolAtTheEdge(t *testing.T) {
	w := start(t, nil)
	resp, raw := w.ask("POST", "http://"+w.edge+poolPath, `{"name":"rack-7","builds":["b"],"capacity":2}`, asPool)
	var joined gameserverv1.JoinPoolResponse
	if err := protojson.Unmarshal(raw, &joined); err != nil || resp.StatusCode != 200 || joined.GetServer().GetPool() != "metal" || joined.GetServer().GetName() != "key:pool" || joined.GetGameToken() != "g" {
		t.Errorf("%d %s %v", resp.StatusCode, raw, err)
	}
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+poolKey)), patience)
	defer cancel()
	out, err := gameserverv1.NewGameServerRegistryServiceClient(dialGRPC(t, w.edge)).JoinPool(ctx, &gameserverv1.JoinPoolRequest{Pool: "metal", Name: "rack-7", Builds: []string{"b"}})
	if err != nil || out.GetServer().GetId() != knownServer {
		t.Errorf("over gRPC: %v, %v", out, err)
	}
}

// ask makes an HTTP request with the API key, and returns the answer with its body.
func (w *world) ask(method, url, body string, change func(http.Header)) (*http.Response, []byte) {
	w.tb.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		w.tb.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+apiKey)
	if change != nil {
		change(req.Header)
	}
	resp, err := w.http.Do(req)
	if err != nil {
		w.tb.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		w.tb.Fatal(err)
	}
	return resp, raw
}

// restError is the one shape of errors over REST.
type restError struct {
	Code    int
	Message string
	Details []struct {
		Type   string `json:"@type"`
		Reason string
		Domain string
	}
}

func decodeError(tb testing.TB, raw []byte) restError {
	tb.Helper()
	var e restError
	if err := json.Unmarshal(raw, &e); err != nil {
		tb.Fatalf("body %q: %v", raw, err)
	}
	return e
}

func TestRESTErrorsHaveOneShape(t *testing.T) {
	w := start(t, nil)
	api := "http://" + w.api
	data := instancePath + ":updateGameData"
	for name, c := range map[string]struct {
		method, url, body string
		change            func(http.Header)
		status            int
		reason            errs.Reason
		says              string
	}{
		"malformed":            {"POST", api + data, `{"gameData": nope}`, nil, 400, errs.Malformed, "line 1:14"},
		"cut short":            {"POST", api + data, `{"gameData": {`, nil, 400, errs.Malformed, "unexpected"},
		"two values":           {"POST", api + data, `{} {}`, nil, 400, errs.Malformed, "line 1:4"},
		"unknown field":        {"POST", api + data, "{\n \"gameDatum\": 1}", nil, 400, errs.Malformed, `line 2:2): unknown field "gameDatum"`},
		"wrong type":           {"POST", api + data, `{"requestId": 7}`, nil, 400, errs.Malformed, "requestId"},
		"not an object":        {"POST", api + data, `[]`, nil, 400, errs.Malformed, "line 1:1"},
		"too large":            {"POST", api + data, `{"requestId":"` + strings.Repeat("x", 2<<20) + `"}`, nil, 413, errs.LimitExceeded, "2097152"},
		"breaks a rule":        {"POST", api + data, `{}`, nil, 400, errs.ValidationFailed, "game_data"},
		"to be repeated":       {"POST", api + data, `{"gameData": {"json": {"a": 1}}}`, nil, 409, errs.Contended, "writers"},
		"unknown instance":     {"GET", api + "/v1/namespaces/default/instances/0b8f4e52-5f0e-4a63-9f0c-0e4d2a6f1c12", "", nil, 404, errs.InstanceUnknown, "default"},
		"unknown path":         {"GET", api + "/v1/nonsense", "", nil, 404, errs.PathUnknown, "/v1/nonsense"},
		"root":                 {"GET", api + "/", "", nil, 404, errs.PathUnknown, "/"},
		"wrong verb":           {"DELETE", api + instancePath, "", nil, 405, errs.MethodUnknown, "DELETE"},
		"bad query value":      {"GET", api + "/v1/namespaces/default/instances?page_size=x", "", nil, 400, errs.Malformed, "page_size"},
		"no key":               {"GET", api + instancePath, "", func(h http.Header) { h.Del("Authorization") }, 401, errs.CredentialsMissing, "API key"},
		"unknown key":          {"GET", api + instancePath, "", func(h http.Header) { h.Set("Authorization", "Bearer berth_other") }, 401, errs.CredentialsInvalid, "API key"},
		"two keys":             {"GET", api + instancePath, "", func(h http.Header) { h.Add("Authorization", "Bearer "+apiKey) }, 401, errs.CredentialsInvalid, "authorization"},
		"not built":            {"GET", api + "/v1/providers", "", nil, 501, errs.MethodUnknown, ""},
		"API path at the edge": {"GET", "http://" + w.edge + instancePath, "", nil, 404, errs.PathUnknown, instancePath},
		"unknown server":       {"GET", api + serversPath + "/" + knownInstance, "", nil, 404, errs.GameServerUnknown, "default"},
		"no server's id":       {"GET", api + serversPath + "/x", "", nil, 400, errs.ValidationFailed, "server_id"},
		"far too capable":      {"POST", api + serversPath, `{"capacity": 1001}`, nil, 400, errs.ValidationFailed, "capacity"},
		"server without a key": {"POST", api + serversPath, `{}`, func(h http.Header) { h.Del("Authorization") }, 401, errs.CredentialsMissing, "API key"},
		"registry at the edge": {"POST", "http://" + w.edge + serversPath, `{}`, nil, 404, errs.PathUnknown, serversPath},
		"pool without a key":   {"POST", "http://" + w.edge + poolPath, `{}`, func(h http.Header) { h.Del("Authorization") }, 401, errs.CredentialsMissing, "API key"},
		"pool with other key":  {"POST", "http://" + w.edge + poolPath, `{"name":"n","builds":["b"]}`, nil, 403, errs.RoleRequired, ""},
		"pool without a name":  {"POST", "http://" + w.edge + poolPath, `{"builds":["b"]}`, asPool, 400, errs.ValidationFailed, "name"},
		"pool, wrong verb":     {"GET", "http://" + w.edge + poolPath, "", asPool, 405, errs.MethodUnknown, "GET"},
		"pool, something else": {"POST", "http://" + w.edge + "/v1/pools/metal:leave", `{}`, asPool, 404, errs.PathUnknown, ""},
		"watch of nothing":     {"GET", api + "/v1/namespaces/default/instances/0b8f4e52-5f0e-4a63-9f0c-0e4d2a6f1c12:watch", "", nil, 404, errs.InstanceUnknown, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w.tb = t
			resp, raw := w.ask(c.method, c.url, c.body, c.change)
			e := decodeError(t, raw)
			if resp.StatusCode != c.status || e.Code != int(c.reason.Kind()) || !strings.Contains(e.Message, c.says) || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%d %s %s", resp.StatusCode, resp.Header.Get("Content-Type"), raw)
			}
			if len(e.Details) == 0 || e.Details[0].Reason != string(c.reason) || e.Details[0].Domain != rpc.Domain || e.Details[0].Type != "type.googleapis.com/google.rpc.ErrorInfo" {
				t.Errorf("details %+v, want reason %s", e.Details, c.reason)
			}
			if c.reason == errs.Contended && resp.Header.Get("Retry-After") != "2" {
				t.Errorf("Retry-After %q", resp.Header.Get("Retry-After"))
			}
		})
	}
}

func TestRESTSpeaksPlainJSON(t *testing.T) {
	w := start(t, nil)
	resp, raw := w.ask("GET", "http://"+w.api+instancePath, "", nil)
	var out struct {
		Instance map[string]any
	}
	if err := json.Unmarshal(raw, &out); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %s: %v", resp.StatusCode, raw, err)
	}
	if out.Instance["id"] != knownInstance || out.Instance["revision"] != "5" || len(out.Instance) != 3 {
		t.Errorf("%s", raw)
	}
}

// Game servers are registered, looked at and let go over REST.
func TestRegisteredServersOverREST(t *testing.T) {
	w := start(t, nil)
	for _, c := range []struct{ method, path, body, want string }{
		{"POST", serversPath, `{"requestId": "r", "capacity": 20, "labels": {"rack": "7"}, "endpoints": [{"name": "game", "host": "h", "port": 7777}]}`,
			`{"server":{"namespace":"default","id":"` + knownServer + `","capacity":20},"gameToken":"g","socialToken":"s"}`},
		{"GET", serversPath + "/" + knownServer, "", `{"server":{"id":"` + knownServer + `","assignments":[{"instanceId":"` + knownInstance + `"}]}}`},
		{"GET", serversPath + "?pageSize=7&page_token=t", "", `{"nextPageToken":"default/7/t"}`},
		{"POST", serversPath + "/" + knownServer + ":deregister", `{}`, `{"server":{"id":"` + knownServer + `","draining":true}}`},
	} {
		resp, raw := w.ask(c.method, "http://"+w.api+c.path, c.body, nil)
		var got, want any
		if err := errors.Join(json.Unmarshal(raw, &got), json.Unmarshal([]byte(c.want), &want)); err != nil || resp.StatusCode != 200 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s %s: %d %s, %v", c.method, c.path, resp.StatusCode, raw, err)
		}
	}
	req := next(t, "the registration", w.backend.registry.registered)
	if req.GetNamespace() != "default" || req.GetRequestId() != "r" || req.GetLabels()["rack"] != "7" || req.GetEndpoints()[0].GetPort() != 7777 {
		t.Errorf("it arrived as %v", req)
	}
}

// Nothing that a caller sends becomes metadata of the call to a service, apart from credentials and the trace.
func TestHeadersCannotBeSmuggledIntoCalls(t *testing.T) {
	w := start(t, nil)
	c := w.backend.issuer.pair(t)
	smuggle := func(h http.Header) {
		for _, key := range []string{"Berth-Internal-Key", "Grpc-Metadata-Berth-Internal-Key", "Grpcgateway-Berth-Internal-Key", "X-Forwarded-For", "X-Forwarded-Host", "Berth-Other", "Cookie", "X-Berth"} {
			h.Set(key, internalKey.Reveal())
		}
		h.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	}
	check := func(what string, md map[string][]string, want ...string) {
		t.Helper()
		for key, values := range md {
			if strings.HasPrefix(key, "berth-") && key != "berth-social-token" || strings.Contains(strings.Join(values, ""), internalKey.Reveal()) {
				t.Errorf("%s: %s arrived", what, key)
			}
			switch key {
			case ":authority", "content-type", "user-agent", "grpc-accept-encoding":
			default:
				if key == rpc.MetadataForwardedFor && len(values) == 1 && values[0] == "127.0.0.1" {
					continue // what the gateway itself has seen
				}
				if !strings.Contains(" authorization berth-social-token traceparent ", " "+key+" ") {
					t.Errorf("%s: %s arrived", what, key)
				}
			}
		}
		for _, key := range append(want, rpc.MetadataForwardedFor) {
			if len(md[key]) != 1 {
				t.Errorf("%s: %s arrived %d times", what, key, len(md[key]))
			}
		}
	}

	w.ask("GET", "http://"+w.api+instancePath, "", smuggle)
	check("REST", next(t, "the call", w.backend.instances.metadata), "authorization", "traceparent")

	resp, raw := w.ask("POST", "http://"+w.edge+"/v1/game-server/instances/"+knownInstance+":updateGameData", `{"gameData":{"json":{}}}`, func(h http.Header) {
		smuggle(h)
		h.Set("Authorization", "Bearer "+c.game)
		h.Set("Berth-Social-Token", c.social)
	})
	if resp.StatusCode != 200 || !bytes.Contains(raw, []byte(`"revision":"7"`)) {
		t.Errorf("%d %s", resp.StatusCode, raw)
	}
	check("REST at the edge", next(t, "the call", w.backend.servers.metadata), "authorization", "berth-social-token", "traceparent")

	conn := dialGRPC(t, w.edge)
	md := metadata.Pairs("authorization", "Bearer "+c.game, "berth-social-token", c.social, "berth-internal-key", internalKey.Reveal(), "berth-other", "x", "traceparent", "t", "x-forwarded-for", internalKey.Reveal())
	if _, err := gameserverv1.NewGameServerServiceClient(conn).UpdateGameData(metadata.NewOutgoingContext(t.Context(), md), gameData()); err != nil {
		t.Fatal(err)
	}
	check("gRPC", next(t, "the call", w.backend.servers.metadata), "authorization", "berth-social-token", "traceparent")
}

func gameData() *gameserverv1.UpdateGameDataRequest {
	return &gameserverv1.UpdateGameDataRequest{InstanceId: knownInstance, GameData: &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte("x")}}}
}

func dialGRPC(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestTheEdgePassesGameServersCallsAndNoOthers(t *testing.T) {
	w := start(t, nil)
	conn := dialGRPC(t, w.edge)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	keys, err := tokenv1.NewTokenServiceClient(conn).GetJsonWebKeySet(ctx, &tokenv1.GetJsonWebKeySetRequest{})
	if err != nil || len(keys.GetKeys()) != 1 {
		t.Errorf("keys: %v, %v", keys, err)
	}
	c := w.backend.issuer.pair(t)
	pair := metadata.NewOutgoingContext(ctx, metadata.Pairs("authorization", "Bearer "+c.game, "berth-social-token", c.social))
	servers := gameserverv1.NewGameServerServiceClient(conn)
	if resp, err := servers.UpdateGameData(pair, gameData()); err != nil || resp.GetRevision() != 7 {
		t.Errorf("%v, %v", resp, err)
	}
	if _, err := servers.UpdateGameData(ctx, gameData()); !errs.Is(rpc.FromStatus(err), errs.CredentialsMissing) {
		t.Errorf("without tokens: %v", err)
	}
	if _, err := servers.UpdateGameData(pair, &gameserverv1.UpdateGameDataRequest{}); !errs.Is(rpc.FromStatus(err), errs.ValidationFailed) {
		t.Errorf("invalid: %v", err)
	}
	internal := metadata.NewOutgoingContext(ctx, metadata.Pairs("berth-internal-key", internalKey.Reveal()))
	_, err = tokenv1.NewTokenServiceClient(conn).IssueTokenPair(internal, &tokenv1.IssueTokenPairRequest{Namespace: "default", AttemptId: "a"})
	if !errs.Is(rpc.FromStatus(err), errs.MethodUnknown) || status.Code(err) != codes.Unimplemented {
		t.Errorf("IssueTokenPair at the edge: %v", err)
	}
	_, err = instancev1.NewGameInstanceServiceClient(conn).GetGameInstance(internal, &instancev1.GetGameInstanceRequest{InstanceId: knownInstance})
	if !errs.Is(rpc.FromStatus(err), errs.MethodUnknown) {
		t.Errorf("GetGameInstance at the edge: %v", err)
	}
	if _, err = gameserverv1.NewGameServerRegistryServiceClient(conn).RegisterGameServer(internal, &gameserverv1.RegisterGameServerRequest{}); !errs.Is(rpc.FromStatus(err), errs.MethodUnknown) {
		t.Errorf("RegisterGameServer at the edge: %v", err)
	}
	w.backend.stop()
	if _, err := servers.UpdateGameData(pair, gameData()); !errs.Is(rpc.FromStatus(err), errs.ServiceUnavailable) || strings.Contains(err.Error(), w.backend.addr) {
		t.Errorf("without a service: %v", err)
	}
}

func TestTheKeysArePublishedAtTheEdge(t *testing.T) {
	w := start(t, nil)
	resp, raw := w.ask("GET", "http://"+w.edge+"/.well-known/jwks.json", "", nil)
	if resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "public, max-age=60" {
		t.Errorf("%d, Cache-Control %q", resp.StatusCode, resp.Header.Get("Cache-Control"))
	}
	if keys, err := token.ParseKeys(raw); err != nil || keys["k1"] == nil || !keys["k1"].Equal(w.backend.issuer.public) {
		t.Errorf("%s: %v", raw, err)
	}
	for _, port := range []string{w.edge, w.api} {
		tag := func(h http.Header) { h.Set("If-None-Match", resp.Header.Get("ETag")) }
		if again, _ := w.ask("GET", "http://"+port+"/.well-known/jwks.json", "", tag); again.StatusCode != 304 {
			t.Errorf("the same keys on %s: %d, ETag %s", port, again.StatusCode, resp.Header.Get("ETag"))
		}
	}
	w.backend.stop() // they stay known while token-issuer is away
	if resp, _ := w.ask("GET", "http://"+w.edge+"/.well-known/jwks.json", "", nil); resp.StatusCode != 200 {
		t.Errorf("%d without token-issuer", resp.StatusCode)
	}
}

func TestOpenAPIIsServed(t *testing.T) {
	w := start(t, nil)
	resp, raw := w.ask("GET", "http://"+w.api+"/openapi.json", "", func(h http.Header) { h.Del("Authorization"); h.Set("Origin", "http://elsewhere") })
	var doc struct {
		Swagger string
		Paths   map[string]any
	}
	if err := json.Unmarshal(raw, &doc); err != nil || doc.Swagger != "2.0" || doc.Paths["/v1/namespaces/{namespace}/instances"] == nil {
		t.Errorf("%v: %.200s", err, raw)
	}
	if resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("there are CORS headers")
	}
}

func TestAWatchIsOneObjectALineAndEndsWithTheGateway(t *testing.T) {
	w := start(t, nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.api+instancePath+":watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+apiKey)
	resp, err := w.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if ct := resp.Header.Get("Content-Type"); ct != "application/x-ndjson" {
		t.Errorf("Content-Type %q", ct)
	}
	lines := bufio.NewScanner(resp.Body)
	for _, revision := range []string{"1", "2"} {
		var line struct {
			Result struct{ Instance struct{ Revision string } }
		}
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &line) != nil || line.Result.Instance.Revision != revision {
			t.Fatalf("line %q", lines.Text())
		}
	}
	began := time.Now()
	go w.stop()
	var last struct{ Error restError }
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &last) != nil || last.Error.Details[0].Reason != string(errs.ServiceUnavailable) {
		t.Errorf("the last line is %q", lines.Text())
	}
	if lines.Scan() || time.Since(began) > 5*time.Second {
		t.Errorf("the watch went on for %v", time.Since(began))
	}
	w.stop()
}
