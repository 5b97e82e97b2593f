package kit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/services/berth/dev"
	"github.com/berth-dev/berth/test/stack"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// berth is all of Berth in this process.
type berth struct{ *dev.Stack }

func start(t *testing.T) *berth {
	t.Helper()
	return &berth{stack.AllInOne(t, dev.Options{Attach: true, Dir: t.TempDir()})}
}

// call calls the API over REST.
func (s *berth) call(ctx context.Context, path string, body any, out proto.Message) error {
	var raw []byte
	var err error
	if m, ok := body.(proto.Message); ok {
		raw, err = protojson.Marshal(m)
	} else {
		raw, err = json.Marshal(body)
	}
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", s.APIURL+"/v1/namespaces/default/"+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.Key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", path, resp.StatusCode, answer)
	}
	if err != nil || out == nil {
		return err
	}
	return protojson.Unmarshal(answer, out)
}

// server registers a game server with an instance of its own, as created by create.
func (s *berth) server(ctx context.Context, create map[string]any) (*bootstrap.Document, error) {
	doc, err := s.registered(ctx)
	if err != nil {
		return nil, err
	}
	if create == nil {
		create = map[string]any{}
	}
	create["serverId"] = doc.Server
	var instance instancev1.CreateGameInstanceResponse
	err = s.call(ctx, "instances", create, &instance)
	doc.Instance = instance.GetInstance().GetId()
	return doc, err
}

// registered registers a game server.
func (s *berth) registered(ctx context.Context) (*bootstrap.Document, error) {
	var server gameserverv1.RegisterGameServerResponse
	err := s.call(ctx, "game-servers", map[string]any{"capacity": 1, "endpoints": []any{map[string]any{"name": "game", "host": "127.0.0.1", "port": 7777, "protocol": "PROTOCOL_TCP"}}}, &server)
	return &bootstrap.Document{
		Version: bootstrap.Version, Namespace: "default", Server: server.GetServer().GetId(), Gateway: s.Gateway,
		Game: bootstrap.Secret(server.GetGameToken()), Social: bootstrap.Secret(server.GetSocialToken()),
	}, err
}
