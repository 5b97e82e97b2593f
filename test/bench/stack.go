package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/freeport"
)

// stack is Berth as it runs in production: a process for each service. Nothing is allocated here, so that service is left out.
type stack struct {
	redis, issuer, instance, gateway *child
	gatewayAdmin, key                string
	all                              []*child
}

// startStack starts all of it. Everything that costs something is on, as it is by default; limits are on, and higher than any of the work that is measured
// here gets. more is environment of all services.
func startStack(o options, appendonly string, more ...string) (*stack, error) {
	dir, err := os.MkdirTemp(o.dir, "stack-")
	if err != nil {
		return nil, err
	}
	o.dir = dir
	s := &stack{key: apikey.Prefix + rand.Text()}
	if err := s.start(o, appendonly, more); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *stack) start(o options, appendonly string, more []string) (err error) {
	if s.redis, err = redisServer(o.dir, appendonly); err != nil {
		return err
	}
	s.all = append(s.all, s.redis)
	ports, err := hold(7)
	if err != nil {
		return err
	}
	hash := apikey.Hash(s.key)
	env := append([]string{
		"BERTH_LOG_LEVEL=error", "BERTH_REDIS_ADDRS=" + s.redis.addr, "BERTH_AUTH_INTERNAL_KEY=" + rand.Text() + rand.Text(), "BERTH_AUTH_API_KEY_SHA256=" + hash,
		"BERTH_TOKEN_ISSUER=" + ports[0], "BERTH_GAME_INSTANCE=" + ports[1], "BERTH_ALLOCATION=" + ports[6],
	}, more...)
	many := func(name string) []string {
		return []string{"BERTH_LIMIT_" + name + "_PER_SECOND=1000000", "BERTH_LIMIT_" + name + "_BURST=1000000"}
	}
	for _, p := range []struct {
		to          **child
		name, admin string
		env         []string
	}{
		{&s.issuer, "berth-token-issuer", ports[2], []string{"BERTH_GRPC_ADDR=" + ports[0], "BERTH_SEALING_KEY=" + rand.Text() + rand.Text()}},
		{&s.instance, "berth-game-instance", ports[3], []string{"BERTH_GRPC_ADDR=" + ports[1]}},
		{&s.gateway, "berth-gateway", ports[4], append(append([]string{"BERTH_EDGE_ADDR=" + ports[5], "BERTH_API_ADDR=127.0.0.1:0"}, many("UPGRADES")...), many("FRAMES")...)},
	} {
		c, err := launch(o.dir, filepath.Join(o.bin, p.name), append(append(p.env, env...), "BERTH_ADMIN_ADDR="+p.admin))
		if err != nil {
			return err
		}
		*p.to, s.all = c, append(s.all, c)
		if err := until(func() error { _, err := get(p.admin, "/readyz"); return err }); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	s.instance.addr, s.gatewayAdmin, s.gateway.addr = ports[1], ports[4], ports[5]
	return nil
}

// hold returns addresses that are free. They stay this process's until it ends.
func hold(n int) ([]string, error) {
	var all []string
	for range n {
		addr, _, err := freeport.Hold()
		if err != nil {
			return nil, err
		}
		all = append(all, addr)
	}
	return all, nil
}

func (s *stack) stop() {
	for n := len(s.all) - 1; n >= 0; n-- {
		s.all[n].stop()
	}
}

// inside starts what is measured of game-instance without its service, against the stack's store.
func (s *stack) inside(o options, args ...string) (*child, error) {
	path := filepath.Join(o.dir, "inside")
	build := exec.Command("go", "build", "-o", path, "./services/gameinstance/internal/bench")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, err
	}
	return role(path, nil, append(args, s.redis.addr)...)
}
