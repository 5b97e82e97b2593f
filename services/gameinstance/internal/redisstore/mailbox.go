package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/errs"
	recordv1 "github.com/berth-dev/berth/pkg/gen/berth/record/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// maxPull bounds one read, so that it fits into one message; a first entry is returned whatever its size.
const maxPull = 2 << 20

// fenceField of an instance has the epoch of its last fresh link. The mailbox is not for links of lower ones, whose server, or life of it, is another.
const fenceField = "fence"

// Pull implements session.Mailboxes.
func (s *Store) Pull(ctx context.Context, instanceID string, linkEpoch, after int64, limit int) (deliveries []instance.Delivery, more bool, err error) {
	p := s.redis.Partition(instanceID)
	pipe := s.redis.Pipeline()
	read := pipe.ZRangeByScore(ctx, mailboxKey(p, instanceID), &redis.ZRangeBy{
		Min: "(" + strconv.FormatInt(after, 10), Max: "+inf", Count: int64(limit) + 1,
	})
	fence := pipe.HGet(ctx, instanceKey(p, instanceID), fenceField) // after the mailbox: what was read before a fresh link is nobody else's
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, false, redisx.Err(err)
	}
	if epoch, err := fence.Int64(); err == nil && linkEpoch < epoch {
		return nil, false, errs.New(errs.StaleLinkEpoch, "link_epoch: the instance was linked anew since %d", linkEpoch)
	}
	entries := read.Val()
	size := 0
	for n, e := range entries {
		d, err := decodeDelivery(instanceID, e)
		if err != nil {
			return nil, false, fmt.Errorf("mailbox of %s: %w", instanceID, err)
		}
		if size += d.Event.Bytes(); n == limit || n > 0 && size > maxPull {
			return deliveries, true, nil
		}
		deliveries = append(deliveries, d)
	}
	return deliveries, false, nil
}

// Ack implements session.Mailboxes.
func (s *Store) Ack(ctx context.Context, instanceID string, linkEpoch, offset int64) error {
	p := s.redis.Partition(instanceID)
	return s.redis.Write(ctx, s.scripts.ack, []string{instanceKey(p, instanceID), mailboxKey(p, instanceID), undeliveredKey(p)}, instanceID, offset, linkEpoch).Err()
}

// undeliveredLimit bounds how many mailboxes of a partition are looked at in one round.
const undeliveredLimit = 128

// Undelivered implements session.Mailboxes.
func (s *Store) Undelivered(ctx context.Context, gatewayID string, age time.Duration) ([]string, error) {
	now, err := s.redis.Time(ctx).Result()
	if err != nil {
		return nil, redisx.Err(err)
	}
	waiting, err := s.membersUntil(ctx, undeliveredKey, now.Add(-age), undeliveredLimit)
	if err != nil || len(waiting) == 0 {
		return nil, err
	}
	pipe := s.redis.Pipeline()
	owners := make([]*redis.StringCmd, len(waiting))
	for n, id := range waiting {
		owners[n] = pipe.HGet(ctx, linksKey(s.redis.Partition(id)), id)
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, redisx.Err(err)
	}
	var mine []string
	for n, id := range waiting {
		if owners[n].Val() == gatewayID {
			mine = append(mine, id)
		}
	}
	return mine, nil
}

func encodeEvent(e instance.Event) ([]byte, error) {
	r := &recordv1.EventRecord{}
	switch {
	case e.PlayersAdded != nil:
		r.PlayersAdded = encodePlayers(e.PlayersAdded)
	case e.PlayersRemoved != nil:
		r.PlayersRemoved = &recordv1.PlayerIds{Ids: e.PlayersRemoved}
	case e.PlayersUpdated != nil:
		r.PlayersUpdated = encodePlayers(e.PlayersUpdated)
	case e.GameDataUpdated != nil:
		r.GameDataUpdated = encodeData(*e.GameDataUpdated)
	case e.Message != nil:
		r.Message = &recordv1.MessageRecord{Id: e.Message.ID, Topic: e.Message.Topic, Data: encodeStored(e.Message.Data)}
	case e.Resync != nil:
		r.Resync = &recordv1.ResyncRecord{Revision: e.Resync.Revision}
	case e.Superseded != nil:
		r.Superseded = &recordv1.SupersessionRecord{Message: e.Superseded.Message}
	case e.Terminated != nil:
		r.Terminated = &recordv1.TerminationRecord{Reason: instancev1.GameInstance_Reason(e.Terminated.Reason), Message: e.Terminated.Message}
	}
	return proto.Marshal(r)
}

func encodePlayers(players []instance.Player) *recordv1.PlayerRecords {
	r := &recordv1.PlayerRecords{}
	for _, p := range players {
		r.Players = append(r.Players, encodePlayer(p))
	}
	return r
}

func decodePlayers(r *recordv1.PlayerRecords) []instance.Player {
	out := make([]instance.Player, 0, len(r.GetPlayers()))
	for _, p := range r.GetPlayers() {
		out = append(out, decodePlayer(p))
	}
	return out
}

// decodeDelivery reads "OFFSET:PREVIOUS:EVENT".
func decodeDelivery(instanceID, entry string) (instance.Delivery, error) {
	parts := strings.SplitN(entry, ":", 3)
	if len(parts) != 3 {
		return instance.Delivery{}, errors.New("entry without its numbers")
	}
	offset, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil {
		return instance.Delivery{}, err
	}
	previous, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return instance.Delivery{}, err
	}
	var r recordv1.EventRecord
	if err := proto.Unmarshal([]byte(parts[2]), &r); err != nil {
		return instance.Delivery{}, err
	}
	return instance.Delivery{InstanceID: instanceID, Offset: offset, Previous: previous, Event: decodeEvent(&r)}, nil
}

func decodeEvent(r *recordv1.EventRecord) instance.Event {
	switch {
	case r.GetPlayersAdded() != nil:
		return instance.Event{PlayersAdded: decodePlayers(r.GetPlayersAdded())}
	case r.GetPlayersRemoved() != nil:
		return instance.Event{PlayersRemoved: r.GetPlayersRemoved().GetIds()}
	case r.GetPlayersUpdated() != nil:
		return instance.Event{PlayersUpdated: decodePlayers(r.GetPlayersUpdated())}
	case r.GetGameDataUpdated() != nil:
		data := decodeStored(r.GetGameDataUpdated())
		return instance.Event{GameDataUpdated: &data}
	case r.GetMessage() != nil:
		m := r.GetMessage()
		return instance.Event{Message: &instance.Message{ID: m.GetId(), Topic: m.GetTopic(), Data: decodeStored(m.GetData())}}
	case r.GetResync() != nil:
		return instance.Event{Resync: &instance.Resync{Revision: r.GetResync().GetRevision()}}
	case r.GetTerminated() != nil:
		return instance.Event{Terminated: &instance.Termination{Reason: instance.Reason(r.GetTerminated().GetReason()), Message: r.GetTerminated().GetMessage()}}
	case r.GetSuperseded() != nil:
		return instance.Event{Superseded: &instance.Supersession{Message: r.GetSuperseded().GetMessage()}}
	default:
		return instance.Event{}
	}
}

// PublishToGateways implements courier.Publisher.
func (s *Store) PublishToGateways(ctx context.Context, messages map[string][]byte) error {
	channels := make(map[string][]byte, len(messages))
	for gateway, m := range messages {
		channels[redisx.GatewayChannel(gateway)] = m
	}
	return s.redis.PublishAll(ctx, channels)
}
