package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/berth-dev/berth/pkg/freeport"
)

// patience is how long a process may take to be there, or a line of work to be done.
const patience = 2 * time.Minute

// child is a process of its own: one that is measured, or one that makes work for those.
type child struct {
	cmd     *exec.Cmd
	addr    string // where it serves
	release func()
	orders  *json.Encoder // to one of the roles
	answers *json.Decoder
	in      io.Closer
}

// launch starts a program. What it says goes to a file in dir, for people who look for why it failed.
func launch(dir, path string, env []string, args ...string) (*child, error) {
	said, err := os.Create(filepath.Join(dir, filepath.Base(path)+".log"))
	if err != nil {
		return nil, err
	}
	defer said.Close()
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Stderr = append(os.Environ(), env...), said
	return &child{cmd: cmd, release: func() {}}, cmd.Start()
}

// role starts a program that says where it serves, takes orders on its standard input, and ends with that.
func role(path string, env []string, args ...string) (*child, error) {
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Stderr = append(os.Environ(), env...), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, release: func() {}, orders: json.NewEncoder(in), answers: json.NewDecoder(out), in: in}
	if err := c.answers.Decode(&c.addr); err != nil {
		c.stop()
		return nil, fmt.Errorf("%s %v: %w", path, args, err)
	}
	return c, nil
}

// part starts this program in one of its roles.
func part(env []string, name string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return role(self, env, append([]string{"-role", name}, args...)...)
}

// order has one of the roles do something.
func (c *child) order(order, answer any) error {
	if err := c.orders.Encode(order); err != nil {
		return err
	}
	return c.answers.Decode(answer)
}

// stop ends the process.
func (c *child) stop() {
	if c.in != nil {
		_ = c.in.Close()
	}
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	c.release()
}

// cpu returns how long the process has been on a processor, all its threads together.
func (c *child) cpu() (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", c.cmd.Process.Pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d has no schedstat: %w", c.cmd.Process.Pid, errors.Join(err, os.ErrNotExist))
	}
	var sum time.Duration
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) { // the thread has ended
			continue
		}
		if err != nil {
			return 0, err
		}
		on, _, _ := strings.Cut(string(raw), " ")
		ns, err := strconv.ParseInt(on, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// rss returns the process's resident memory in KiB.
func (c *child) rss() (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	return strconv.ParseFloat(strings.Fields(rest)[0], 64)
}

// get reads a page of an admin port.
func get(addr, path string) (string, error) {
	resp, err := http.Get("http://" + addr + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s%s: %s: %.200s", addr, path, resp.Status, raw)
	}
	return string(raw), err
}

// profile writes a profile of an admin port into the folder for profiles, if there is one.
func (o options) profile(addr, name, kind string) error {
	if o.profiles == "" {
		return nil
	}
	page, err := get(addr, "/debug/pprof/"+kind)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.profiles, name), []byte(page), 0o600)
}

// metric reads a number from /metrics.
func metric(addr, name string) (float64, error) {
	page, err := get(addr, "/metrics")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(page, "\n"+name+" ")
	if !ok {
		return 0, fmt.Errorf("no metric %s at %s", name, addr)
	}
	value, _, _ := strings.Cut(rest, "\n")
	return strconv.ParseFloat(value, 64)
}

// redisServer starts an empty redis-server.
func redisServer(dir, appendonly string) (*child, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, err
	}
	addr, release, err := freeport.Hold()
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(addr, ":")
	c, err := launch(dir, path, nil, "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", appendonly)
	if err != nil {
		release()
		return nil, err
	}
	c.addr, c.release = addr, release
	if err := until(func() error {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			err = conn.Close()
		}
		return err
	}); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// until asks again and again until there is no error.
func until(ask func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := ask()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
