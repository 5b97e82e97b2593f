package wire

import (
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/registry"
)

// Server returns the public message of a registered game server.
func Server(s registry.Server) *gameserverv1.GameServer {
	out := &gameserverv1.GameServer{
		Namespace: s.Namespace, Id: s.ID, Capacity: int32(s.Capacity), Labels: s.Labels, Endpoints: Endpoints(s.Endpoints),
		Connected: s.Connected, ConnectedChangeTime: timestamp(s.ChangeTime), Draining: s.Draining, CreateTime: timestamp(s.CreateTime),
		Pool: s.Pool, Name: s.Name, Builds: s.Builds, Region: s.Region,
	}
	for _, a := range s.Assignments {
		out.Assignments = append(out.Assignments, &gameserverv1.GameServer_Assignment{InstanceId: a.InstanceID, AttemptId: a.AttemptID, AssignTime: timestamp(a.Time)})
	}
	return out
}
