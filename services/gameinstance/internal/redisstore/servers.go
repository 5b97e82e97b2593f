package redisstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/proto"

	recordv1 "github.com/berth-dev/berth/pkg/gen/berth/record/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/registry"
)

// Fields of a game server's hash. Those of its session are read by the session's own scripts.
const (
	fieldSession  = "record"
	fieldServer   = "server"
	fieldCapacity = "cap"
	fieldMade     = "made"
	fieldDraining = "drain"
	fieldJoined   = "join"
	fieldEpoch    = "epoch"
	assignPrefix  = "a:"
)

// RegisterServer implements registry.Store.
func (s *Store) RegisterServer(ctx context.Context, v registry.Server) (registry.Server, error) {
	return s.register(ctx, v, "")
}

// What a registration does to a server that is there already.
const joinAgain = "join" // it is what it says now

func (s *Store) register(ctx context.Context, v registry.Server, mode string) (registry.Server, error) {
	record := &recordv1.ServerRecord{
		Id: v.ID, Namespace: v.Namespace, Labels: v.Labels, Actor: v.Actor, Digest: v.Digest, Pool: v.Pool, Name: v.Name, Builds: v.Builds, Region: v.Region,
	}
	for _, e := range v.Endpoints {
		record.Endpoints = append(record.Endpoints, &typev1.Endpoint{Name: e.Name, Host: e.Host, Port: e.Port, Protocol: typev1.Protocol(e.Protocol)})
	}
	b, err := proto.Marshal(record)
	if err != nil {
		return registry.Server{}, fmt.Errorf("encode game server: %w", err)
	}
	p := s.redis.Partition(v.ID)
	reply, err := s.redis.Write(ctx, s.scripts.register, []string{serverKey(p, v.ID), serversKey(p, v.Namespace)}, v.ID, b, v.Namespace, v.Capacity, mode).StringSlice()
	if err != nil {
		return registry.Server{}, err
	}
	kept, err := decodeServer(v.ID, fieldsOf(reply))
	if err == nil && kept == nil {
		err = fmt.Errorf("game server %s is not there after its registration", v.ID)
	}
	if err != nil {
		return registry.Server{}, err
	}
	return *kept, nil
}

// LoadServer implements registry.Store.
func (s *Store) LoadServer(ctx context.Context, id string) (*registry.Server, error) {
	fields, err := s.redis.HGetAll(ctx, serverKey(s.redis.Partition(id), id)).Result()
	if err != nil {
		return nil, redisx.Err(err)
	}
	return decodeServer(id, fields)
}

// Assign implements registry.Store.
func (s *Store) Assign(ctx context.Context, namespace, id string, a registry.Assignment) (registry.Server, error) {
	p := s.redis.Partition(id)
	reply, err := s.redis.Write(ctx, s.scripts.assign, []string{serverKey(p, id), assignedKey(p)}, namespace, a.InstanceID, a.AttemptID, id).StringSlice()
	switch {
	case err != nil:
		return registry.Server{}, err
	case slices.Equal(reply, []string{"unknown"}):
		return registry.Server{}, registry.Unknown(id)
	case slices.Equal(reply, []string{"full"}):
		return registry.Server{}, registry.Full(id)
	case slices.Equal(reply, []string{"later"}):
		return registry.Server{}, registry.Overtaken(id, a)
	case len(reply) == 0 || reply[0] != "ok":
		return registry.Server{}, fmt.Errorf("assign answered %q", reply)
	}
	server, err := decodeServer(id, fieldsOf(reply[1:]))
	if err == nil && server == nil {
		err = fmt.Errorf("game server %s is not there after an assignment", id)
	}
	if err != nil {
		return registry.Server{}, err
	}
	return *server, nil
}

// Unassign implements registry.Store.
func (s *Store) Unassign(ctx context.Context, namespace, id string, a registry.Assignment) error {
	_, err := s.unassign(ctx, namespace, id, a)
	return err
}

// DeregisterServer implements registry.Store.
func (s *Store) DeregisterServer(ctx context.Context, namespace, id string) (*registry.Server, error) {
	return s.unassign(ctx, namespace, id, registry.Assignment{})
}

func (s *Store) unassign(ctx context.Context, namespace, id string, a registry.Assignment) (*registry.Server, error) {
	p := s.redis.Partition(id)
	keys := []string{serverKey(p, id), serversKey(p, namespace), assignedKey(p)}
	reply, err := s.redis.Write(ctx, s.scripts.unassign, keys, id, a.InstanceID, a.AttemptID, int64(sessionLife/time.Second)).StringSlice()
	if err != nil {
		return nil, err
	}
	return decodeServer(id, fieldsOf(reply))
}

// ServersPage implements registry.Store, in one pipelined read of all partitions' indexes and one of the servers.
func (s *Store) ServersPage(ctx context.Context, namespace string, limit int, after instance.Cursor) ([]registry.Server, instance.Cursor, error) {
	entries, more, err := s.index(ctx, func(p int) string { return serversKey(p, namespace) }, limit, after)
	if err != nil || len(entries) == 0 {
		return nil, instance.Cursor{}, err
	}
	page, err := s.servers(ctx, idsOf(entries))
	if err != nil || !more {
		return page, instance.Cursor{}, err
	}
	return page, entries[len(entries)-1].cursor(), nil
}

// AssignedServers implements registry.Store.
func (s *Store) AssignedServers(ctx context.Context) ([]registry.Server, time.Time, error) {
	now, err := s.redis.Time(ctx).Result()
	if err != nil {
		return nil, time.Time{}, redisx.Err(err)
	}
	pipe := s.redis.Pipeline()
	parts := make([]*redis.StringSliceCmd, s.redis.Partitions())
	for p := range parts {
		parts[p] = pipe.SMembers(ctx, assignedKey(p))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, time.Time{}, redisx.Err(err)
	}
	var ids []string
	for _, part := range parts {
		ids = append(ids, part.Val()...)
	}
	servers, err := s.servers(ctx, ids)
	return servers, now, err
}

// servers reads many servers at once, and leaves out those that are not registered any more.
func (s *Store) servers(ctx context.Context, ids []string) ([]registry.Server, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	pipe := s.redis.Pipeline()
	reads := make([]*redis.MapStringStringCmd, len(ids))
	for n, id := range ids {
		reads[n] = pipe.HGetAll(ctx, serverKey(s.redis.Partition(id), id))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, redisx.Err(err)
	}
	var out []registry.Server
	for n, read := range reads {
		server, err := decodeServer(ids[n], read.Val())
		if err != nil {
			return nil, err
		}
		if server != nil {
			out = append(out, *server)
		}
	}
	return out, nil
}

// fieldsOf reads what HGETALL answers within a script.
func fieldsOf(reply []string) map[string]string {
	fields := map[string]string{}
	for n := 0; n+1 < len(reply); n += 2 {
		fields[reply[n]] = reply[n+1]
	}
	return fields
}

// decodeServer reads a server from its fields; nil if it is not registered.
func decodeServer(id string, fields map[string]string) (*registry.Server, error) {
	raw, ok := fields[fieldServer]
	if !ok {
		return nil, nil
	}
	var r recordv1.ServerRecord
	var session recordv1.SessionRecord
	if err := proto.Unmarshal([]byte(raw), &r); err != nil {
		return nil, fmt.Errorf("decode game server %s: %w", id, err)
	}
	if err := proto.Unmarshal([]byte(fields[fieldSession]), &session); err != nil {
		return nil, fmt.Errorf("decode session of %s: %w", id, err)
	}
	out := &registry.Server{
		Namespace: r.GetNamespace(), ID: r.GetId(), Labels: r.GetLabels(), Actor: r.GetActor(), Digest: r.GetDigest(), Draining: fields[fieldDraining] != "",
		Pool: r.GetPool(), Name: r.GetName(), Builds: r.GetBuilds(), Region: r.GetRegion(),
		Connected: session.GetConnected(), ChangeTime: at(session.GetChangeTime()), GatewayID: session.GetGatewayId(),
	}
	for _, e := range r.GetEndpoints() {
		out.Endpoints = append(out.Endpoints, instance.Endpoint{Name: e.GetName(), Host: e.GetHost(), Port: e.GetPort(), Protocol: int32(e.GetProtocol())})
	}
	var capacity, made, joined int64
	for field, into := range map[string]*int64{fieldCapacity: &capacity, fieldMade: &made, fieldJoined: &joined, fieldEpoch: &out.Epoch} {
		if err := parse(fields[field], into); err != nil {
			return nil, fmt.Errorf("decode %s of game server %s: %w", field, id, err)
		}
	}
	out.Capacity, out.CreateTime, out.JoinTime = int(capacity), at(made), at(joined)
	for field, value := range fields {
		if instanceID, ok := strings.CutPrefix(field, assignPrefix); ok {
			us, attempt, _ := strings.Cut(value, ":")
			since, err := strconv.ParseInt(us, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("decode an assignment of game server %s: %w", id, err)
			}
			out.Assignments = append(out.Assignments, registry.Assignment{InstanceID: instanceID, AttemptID: attempt, Time: at(since)})
		}
	}
	slices.SortFunc(out.Assignments, func(a, b registry.Assignment) int {
		return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.InstanceID, b.InstanceID))
	})
	return out, nil
}
