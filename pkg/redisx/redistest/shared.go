package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/freeport"
)

// shared is the Cluster of this test binary. No goroutine belongs to it, so that checks for leaks find none.
type shared struct {
	addrs []string
	err   error
	inUse sync.Mutex // by one test at a time

	life *os.File // the Cluster lives as long as this end of its pipe is open
	held []func() // the claims on its ports go when these are collected
}

var startShared = sync.OnceValue(newShared)

// sharedCluster returns the addresses of the Cluster, emptied and for this test alone.
func sharedCluster(t *testing.T) []string {
	t.Helper()
	redisServer(t)
	c := startShared()
	if c.err != nil {
		t.Fatalf("the Cluster is not formed: %v", c.err)
	}
	c.inUse.Lock()
	t.Cleanup(c.inUse.Unlock)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.addrs})
	defer func() { _ = client.Close() }()
	err := client.ForEachMaster(context.Background(), func(ctx context.Context, m *redis.Client) error { return m.FlushAll(ctx).Err() })
	if err != nil {
		t.Fatal(err)
	}
	return c.addrs
}

// keeper starts the servers whose configurations lie in the folders of $1, and ends them when its input does: the end of the test binary, however
// it comes, closes that.
const keeper = `
for conf in "$1"/*/redis.conf; do
  "$2" "$conf" >"${conf%/*}/log" 2>&1 &
  servers="$servers $!"
done
read -r _
kill -KILL $servers
wait
rm -rf "$1"`

// sharedTimeout, in milliseconds, is long: nobody hurts this Cluster, and a busy machine is no reason for a failover.
const sharedTimeout = "15000"

func newShared() *shared {
	c := new(shared)
	dir, err := os.MkdirTemp("", "berth-cluster-")
	if err != nil {
		c.err = err
		return c
	}
	all, err := c.configure(dir)
	if err == nil {
		err = c.start(dir)
	}
	if err == nil {
		err = poll(func(context.Context) error { return listening(all) })
	}
	if err == nil {
		err = form(all, sharedTimeout)
	}
	c.err = err
	return c
}

// listening returns an error unless all servers have started.
func listening(all []node) error {
	for _, n := range all {
		conn, err := net.Dial("tcp", n.addr)
		if err != nil {
			return err
		}
		_ = conn.Close()
	}
	return nil
}

// configure writes a folder for each node.
func (c *shared) configure(dir string) ([]node, error) {
	var all []node
	for n := range nodes {
		var at [2]string
		for i := range at {
			addr, release, err := freeport.Hold()
			if err != nil {
				return nil, err
			}
			at[i], c.held = addr, append(c.held, release)
		}
		made := node{addr: at[0], bus: at[1]}
		all, c.addrs = append(all, made), append(c.addrs, made.addr)
		if err := writeConfig(filepath.Join(dir, fmt.Sprint(n)), made); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func writeConfig(dir string, n node) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	host, port := split(n.addr)
	words := append([]string{"port", port, "bind", host, "dir", dir, "save", `""`, "appendonly", "no"}, n.settings()...)
	var conf strings.Builder
	for i := 0; i < len(words); i += 2 {
		fmt.Fprintf(&conf, "%s %s\n", words[i], words[i+1])
	}
	return os.WriteFile(filepath.Join(dir, "redis.conf"), []byte(conf.String()), 0o600)
}

// start leaves the servers to the keeper.
func (c *shared) start(dir string) error {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return err
	}
	in, life, err := os.Pipe()
	if err != nil {
		return err
	}
	c.life = life
	cmd := exec.Command("/bin/sh", "-c", keeper, "keeper", dir, path)
	cmd.Stdin = in
	cmd.SysProcAttr = ownGroup()
	err = cmd.Start()
	_ = in.Close()
	return err
}
