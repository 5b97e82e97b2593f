package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/berth/dev"
)

// onRedis measures on an empty redis-server, or on the embedded store where there is none.
func onRedis(dir string, measure func(redis string) error) error {
	if _, err := exec.LookPath("redis-server"); err != nil {
		progress("no redis-server on the PATH: the figures are for the embedded store, which is far slower at commits")
		return measure("")
	}
	redis, err := redisServer(dir, "yes")
	if err != nil {
		return err
	}
	defer redis.stop()
	return measure(redis.addr)
}

// with runs f against a running Berth.
func with(o dev.Options, f func(context.Context, *dev.Stack, instancev1.GameInstanceServiceClient) error) error {
	o.AnyPort, o.LogLevel, o.Out = true, "error", io.Discard
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	s, err := dev.New(ctx, o)
	if err != nil {
		return err
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.Serve(ctx) }()
	for s.Ready(ctx) != nil {
		time.Sleep(10 * time.Millisecond)
	}
	conn, err := grpc.NewClient(s.API, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	err = f(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.Key), s, instancev1.NewGameInstanceServiceClient(conn))
	_ = conn.Close()
	cancel()
	if stopErr := <-stopped; err == nil {
		err = stopErr
	}
	return err
}

// starts measures how long it takes from creating an instance until its server, a process of its own, is linked and running.
func starts(bin, dir, redis string, matches int) error {
	server, err := filepath.Abs(filepath.Join(bin, "gameserver"))
	if err != nil {
		return err
	}
	config := filepath.Join(dir, "berth.yaml")
	content := fmt.Sprintf("providers:\n  - name: local\n    kind: process\n    process:\n      builds:\n        hold: {command: %q, args: [--hold], endpoints: [{name: game, protocol: tcp}]}\n", server)
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		return err
	}
	var linked, running, seen []time.Duration
	err = with(dev.Options{Config: config, Dir: filepath.Join(dir, "starts"), Redis: redis}, func(ctx context.Context, _ *dev.Stack, api instancev1.GameInstanceServiceClient) error {
		for n := range matches {
			begin := time.Now()
			inst, err := create(ctx, api, "hold")
			if err != nil {
				return err
			}
			if inst, err = reaches(ctx, api, inst.GetId(), instancev1.GameInstance_STATE_RUNNING); err != nil {
				return err
			}
			seen = append(seen, time.Since(begin))
			created := inst.GetCreateTime().AsTime()
			linked = append(linked, inst.GetLink().GetLinkTime().AsTime().Sub(created))
			running = append(running, inst.GetStartTime().AsTime().Sub(created))
			if _, err := api.TerminateGameInstance(ctx, &instancev1.TerminateGameInstanceRequest{InstanceId: inst.GetId()}); err != nil {
				return err
			}
			if (n+1)%25 == 0 {
				progress("%d of %d matches", n+1, matches)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		all  []time.Duration
		p50  string
	}{{"create_to_linked", linked, "-"}, {"create_to_running", running, "<150"}, {"create_to_running_seen_by_watcher", seen, "-"}} {
		slices.Sort(f.all)
		figure(f.name+"_p50", ms(f.all[len(f.all)/2]), "ms", f.p50)
		figure(f.name+"_p99", ms(f.all[len(f.all)*99/100]), "ms", "-")
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func create(ctx context.Context, api instancev1.GameInstanceServiceClient, build string) (*instancev1.GameInstance, error) {
	out, err := api.CreateGameInstance(ctx, &instancev1.CreateGameInstanceRequest{Placement: &instancev1.Placement{Build: build}, Players: []*instancev1.Player{{Id: "ann"}, {Id: "bob"}}})
	return out.GetInstance(), err
}

// reaches watches an instance until it is in a state.
func reaches(ctx context.Context, api instancev1.GameInstanceServiceClient, id string, want instancev1.GameInstance_State) (*instancev1.GameInstance, error) {
	stream, err := api.WatchGameInstance(ctx, &instancev1.WatchGameInstanceRequest{InstanceId: id})
	if err != nil {
		return nil, err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		if inst := m.GetInstance(); inst.GetState() == want {
			return inst, nil
		}
	}
}

// oneSocket measures how many durable requests (each a commit) a linked server gets answered in a second over its one socket.
func oneSocket(dir, redis string, requests int) error {
	const inFlight = 32
	attach, config := filepath.Join(dir, "attach"), filepath.Join(dir, "socket.yaml")
	// As with --attach, but for the limit on a pair's requests: this is about what a socket can do, and not what it may.
	content := fmt.Sprintf("providers:\n  - {name: attach, kind: attach, attach: {file: %q, builds: [attach], endpoints: [{name: game, port: 7777, protocol: tcp}]}}\nlimits: {frames: {per_second: 0}}\n",
		filepath.Join(attach, "bootstrap.json"))
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		return err
	}
	return with(dev.Options{Config: config, Dir: attach, Redis: redis}, func(ctx context.Context, _ *dev.Stack, api instancev1.GameInstanceServiceClient) error {
		inst, err := create(ctx, api, "attach")
		if err != nil {
			return err
		}
		if _, err := reaches(ctx, api, inst.GetId(), instancev1.GameInstance_STATE_ALLOCATED); err != nil {
			return err
		}
		raw, err := os.ReadFile(filepath.Join(attach, "bootstrap.json"))
		if err != nil {
			return err
		}
		doc, err := bootstrap.Parse(raw)
		if err != nil {
			return err
		}
		server, err := gameserver.Connect(ctx, gameserver.WithBootstrap(doc))
		if err != nil {
			return err
		}
		defer func() { _ = server.Close(ctx) }()
		if err := server.ConnectPlayers(ctx); err != nil {
			return err
		}
		for _, f := range []struct {
			name     string
			parallel int
			total    int
		}{{"socket_requests_one_at_a_time", 1, requests / 10}, {"socket_requests_32_in_flight", inFlight, requests}} {
			rate, err := fire(ctx, server, f.parallel, f.total)
			if err != nil {
				return err
			}
			figure(f.name, rate, "req/s", "-")
		}
		return nil
	})
}

// fire sends requests from several goroutines and returns how many were answered in a second.
func fire(ctx context.Context, server *gameserver.Server, parallel, total int) (float64, error) {
	data := &typev1.Data{Kind: &typev1.Data_Binary{Binary: make([]byte, 128)}}
	failed := make(chan error, parallel)
	begin := time.Now()
	var all sync.WaitGroup
	for range parallel {
		all.Go(func() {
			for range total / parallel {
				if err := server.UpdateGameData(ctx, data); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return 0, err
	default:
		return float64(total) / time.Since(begin).Seconds(), nil
	}
}
