package redisstore

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	recordv1 "github.com/berth-dev/berth/pkg/gen/berth/record/v1"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/fleet"
)

var (
	//go:embed scripts/set_provider.lua
	setProviderSource string
	//go:embed scripts/settings.lua
	settingsSource string
)

var _ fleet.Store = (*Store)(nil)

// Settings implements fleet.Store.
func (s *Store) Settings(ctx context.Context) (map[string]fleet.Setting, time.Time, error) {
	reply, err := s.redis.Read(ctx, s.scripts.settings, []string{settingsKey()}).StringSlice()
	switch {
	case err != nil:
		return nil, time.Time{}, err
	case len(reply)%2 != 1:
		return nil, time.Time{}, errors.New("settings of providers: unexpected reply")
	}
	now, err := strconv.ParseInt(reply[0], 10, 64)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("settings of providers: time: %w", err)
	}
	settings := make(map[string]fleet.Setting, len(reply)/2)
	for n := 1; n < len(reply); n += 2 {
		r := new(recordv1.ProviderSettingRecord)
		if err := proto.Unmarshal([]byte(reply[n+1]), r); err != nil {
			return nil, time.Time{}, fmt.Errorf("setting of provider %q: %w", reply[n], err)
		}
		setting := fleet.Setting{Draining: r.GetDraining(), MoveTime: moment(r.GetMoveTime()), Stored: []byte(reply[n+1])}
		if r.Weight != nil {
			weight := int(r.GetWeight())
			setting.Weight = &weight
		}
		settings[reply[n]] = setting
	}
	return settings, time.UnixMicro(now), nil
}

// SetSetting implements fleet.Store.
func (s *Store) SetSetting(ctx context.Context, provider string, setting fleet.Setting) error {
	r := new(recordv1.ProviderSettingRecord)
	if err := proto.Unmarshal(setting.Stored, r); err != nil {
		return fmt.Errorf("setting of provider %q: %w", provider, err)
	}
	r.Weight, r.Draining, r.MoveTime = nil, setting.Draining, micros(setting.MoveTime)
	if setting.Weight != nil {
		r.Weight = proto.Int32(int32(*setting.Weight))
	}
	raw, err := proto.Marshal(r)
	if err != nil {
		return err
	}
	done, err := s.redis.Write(ctx, s.scripts.set, []string{settingsKey()}, provider, setting.Stored, raw).Int()
	if err == nil && done == 0 {
		err = allocator.ErrConflict
	}
	return err
}
