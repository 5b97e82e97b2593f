package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
)

// ListGameInstances answers with the request, as a token.
func (i *instances) ListGameInstances(_ context.Context, req *instancev1.ListGameInstancesRequest) (*instancev1.ListGameInstancesResponse, error) {
	raw, err := protojson.Marshal(req)
	return &instancev1.ListGameInstancesResponse{NextPageToken: string(raw)}, err
}

// WatchGameInstances sends one step of each kind, the first with the request, and ends.
func (i *instances) WatchGameInstances(req *instancev1.WatchGameInstancesRequest, stream grpc.ServerStreamingServer[instancev1.WatchGameInstancesResponse]) error {
	raw, err := protojson.Marshal(req)
	for _, m := range []*instancev1.WatchGameInstancesResponse{
		{Update: &instancev1.WatchGameInstancesResponse_Instance{Instance: &instancev1.GameInstance{Message: string(raw)}}},
		{Update: &instancev1.WatchGameInstancesResponse_SnapshotComplete{SnapshotComplete: &instancev1.SnapshotComplete{}}},
		{Update: &instancev1.WatchGameInstancesResponse_Removed{Removed: &instancev1.RemovedInstance{InstanceId: knownInstance}}},
	} {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return err
}

func TestFiltersAreQueryParameters(t *testing.T) {
	w := start(t, nil)
	path := "http://" + w.api + "/v1/namespaces/default/instances"
	query := "?filter.states=STATE_RUNNING&filter.states=STATE_LINKED&filter.region=eu&filter.labels[mode]=duel&filter.labels[a.b]=c%20d&filter.player_id=ann&filter.build=game"
	filter := &instancev1.InstanceFilter{
		States: []instancev1.GameInstance_State{instancev1.GameInstance_STATE_RUNNING, instancev1.GameInstance_STATE_LINKED}, Region: "eu",
		Labels: map[string]string{"mode": "duel", "a.b": "c d"}, PlayerId: "ann", Build: "game",
	}
	resp, raw := w.ask("GET", path+query+"&page_size=7&page_token=t", "", nil)
	var list struct{ NextPageToken string }
	var asked instancev1.ListGameInstancesRequest
	if err := json.Unmarshal(raw, &list); err != nil || resp.StatusCode != 200 || protojson.Unmarshal([]byte(list.NextPageToken), &asked) != nil {
		t.Fatalf("%d %s", resp.StatusCode, raw)
	}
	if want := (&instancev1.ListGameInstancesRequest{Namespace: "default", PageSize: 7, PageToken: "t", Filter: filter}); !proto.Equal(&asked, want) {
		t.Errorf("asked for %v, want %v", &asked, want)
	}

	resp, raw = w.ask("GET", path+":watch"+query, "", nil)
	var lines []map[string]any
	for s := bufio.NewScanner(bytes.NewReader(raw)); s.Scan(); {
		var line struct{ Result map[string]any }
		if err := json.Unmarshal(s.Bytes(), &line); err != nil {
			t.Fatalf("line %q: %v", s.Text(), err)
		}
		lines = append(lines, line.Result)
	}
	if len(lines) != 3 || lines[1]["snapshotComplete"] == nil || lines[2]["removed"].(map[string]any)["instanceId"] != knownInstance {
		t.Fatalf("%d %s", resp.StatusCode, raw)
	}
	var watched instancev1.WatchGameInstancesRequest
	message, _ := lines[0]["instance"].(map[string]any)["message"].(string)
	if err := protojson.Unmarshal([]byte(message), &watched); err != nil || !proto.Equal(&watched, &instancev1.WatchGameInstancesRequest{Namespace: "default", Filter: filter}) {
		t.Errorf("watched %v, %v", &watched, err)
	}
	resp, raw = w.ask("GET", "http://"+w.api+instancePath+":watch?after_revision=x", "", nil)
	if resp.StatusCode != 400 {
		t.Errorf("a revision that is none: %d %s", resp.StatusCode, raw)
	}
}
