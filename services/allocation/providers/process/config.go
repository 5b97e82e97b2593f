package process

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/services/allocation/providers/internal/names"
)

// The ways of handing the bootstrap document to a server. A command line is none of them: everybody on the machine can read it.
const (
	// HandoverEnv puts it into BERTH_BOOTSTRAP.
	HandoverEnv = "env"
	// HandoverPipe writes it to an inherited pipe, whose number is in BERTH_BOOTSTRAP_FD.
	HandoverPipe = "pipe"
)

// ErrFolderInUse is why a Provider cannot be opened whose folder another one has.
var ErrFolderInUse = errors.New("is in use by another provider or service; each needs a folder of its own")

// Config configures a Provider.
type Config struct {
	// Name of the provider, for messages. Set by the service.
	Name string `yaml:"-"`
	// Log is where the provider logs. Set by the service.
	Log *slog.Logger `yaml:"-"`
	// StateDir is the folder that holds a state file and the output of each server. It survives the service, and is one provider's own. Needed.
	StateDir string `yaml:"state_dir"`
	// AdvertiseHost is the name or address on which players reach this machine. Default 127.0.0.1.
	AdvertiseHost string `yaml:"advertise_host"`
	// Regions that this machine counts as. Default: local.
	Regions []string `yaml:"regions"`
	// MaxServers is how many servers may run at once. Default 100.
	MaxServers int `yaml:"max_servers"`
	// Ports is the range that the servers' ports come from, such as 27000-27999, for a machine behind a firewall. Default: whichever the system has free.
	Ports string `yaml:"ports"`
	// OutputBytes is how large the file with a server's output gets before it is begun anew. What was in it is kept as one older file. Default 16 MiB.
	OutputBytes int64 `yaml:"output_bytes"`
	// StopGrace is how long a server has between being asked to stop (TERM) and being made to (KILL). Default 10 s.
	StopGrace time.Duration `yaml:"stop_grace"`
	// KeepEnded is how long the state file and the output of an ended server stay. Default 24 h.
	KeepEnded time.Duration `yaml:"keep_ended"`
	// Handover is env (default) or pipe.
	Handover string `yaml:"handover"`
	// StopWithService stops all servers when the service stops. Otherwise they go on, and the next start of the service takes them up again.
	StopWithService bool `yaml:"stop_with_service"`
	// Builds are the commands, by the name of the build.
	Builds map[string]Build `yaml:"builds"`
}

// Build is how to run a build.
type Build struct {
	// Command is the program: a path (relative to Dir), or a name that is looked up in PATH.
	Command string `yaml:"command"`
	// Args are its arguments.
	Args []string `yaml:"args"`
	// Env is added to a minimal environment (PATH and Berth's own variables); nothing of the service's environment is passed on.
	Env map[string]string `yaml:"env"`
	// Dir is the working directory. Default: the service's.
	Dir string `yaml:"dir"`
	// Endpoints are the ports that the server wants.
	Endpoints []Endpoint `yaml:"endpoints"`
	// MaxServers is how many servers of this build may run at once. Default: as many as of all.
	MaxServers int `yaml:"max_servers"`
	// Limits bound what each process of a server may use. The system enforces them.
	Limits Limits `yaml:"limits"`
}

// Limits bound what a process may use. 0: as the service itself.
type Limits struct {
	// MemoryBytes bounds the memory that a process has for itself (RLIMIT_DATA). It is refused more.
	MemoryBytes uint64 `yaml:"memory_bytes"`
	// OpenFiles bounds its open files and sockets (RLIMIT_NOFILE).
	OpenFiles uint64 `yaml:"open_files"`
}

// portRange is where ports come from; zero: wherever the system has one.
type portRange struct{ first, last uint16 }

func parsePorts(s string) (portRange, error) {
	if s == "" {
		return portRange{}, nil
	}
	first, last, ok := strings.Cut(s, "-")
	low, err := strconv.ParseUint(first, 10, 16)
	high, err2 := strconv.ParseUint(last, 10, 16)
	if !ok || err != nil || err2 != nil || low == 0 || low > high {
		return portRange{}, fmt.Errorf("process.ports: %q is no range such as 27000-27999", s)
	}
	return portRange{uint16(low), uint16(high)}, nil
}

// Endpoint is a port that a server wants.
type Endpoint struct {
	// Name of the port.
	Name string `yaml:"name"`
	// Protocol is tcp or udp.
	Protocol string `yaml:"protocol"`
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// complete checks the configuration and fills in defaults.
func (c Config) complete() (Config, error) {
	if c.AdvertiseHost == "" {
		c.AdvertiseHost = "127.0.0.1"
	}
	if len(c.Regions) == 0 {
		c.Regions = []string{"local"}
	}
	if c.MaxServers == 0 {
		c.MaxServers = 100
	}
	if c.StopGrace == 0 {
		c.StopGrace = 10 * time.Second
	}
	if c.KeepEnded == 0 {
		c.KeepEnded = 24 * time.Hour
	}
	if c.OutputBytes == 0 {
		c.OutputBytes = 16 << 20
	}
	if c.Handover == "" {
		c.Handover = HandoverEnv
	}
	switch {
	case c.Log == nil:
		return c, errors.New("log: is needed")
	case c.StateDir == "":
		return c, errors.New("process.state_dir: is needed: a folder of its own for this provider")
	case c.Handover != HandoverEnv && c.Handover != HandoverPipe:
		return c, fmt.Errorf("process.handover: %q is neither %s nor %s", c.Handover, HandoverEnv, HandoverPipe)
	case c.MaxServers < 0 || c.StopGrace < 0 || c.KeepEnded < 0 || c.OutputBytes < 0:
		return c, errors.New("process.max_servers, stop_grace, keep_ended, output_bytes: must not be negative")
	case len(c.Builds) == 0:
		return c, errors.New("process.builds: at least one build is needed")
	}
	if _, err := parsePorts(c.Ports); err != nil {
		return c, err
	}
	if err := names.Regions(c.Regions); err != nil {
		return c, fmt.Errorf("process.regions: %w", err)
	}
	builds := slices.Sorted(maps.Keys(c.Builds))
	if err := names.Builds(builds); err != nil {
		return c, fmt.Errorf("process.builds: %w", err)
	}
	for _, name := range builds {
		if err := c.Builds[name].check(); err != nil {
			return c, fmt.Errorf("process.builds.%s.%w", name, err)
		}
	}
	return c, nil
}

func (b Build) check() error {
	switch {
	case b.Command == "":
		return errors.New("command: is needed")
	case b.MaxServers < 0:
		return errors.New("max_servers: must not be negative")
	}
	for name := range b.Env {
		if !envName.MatchString(name) || strings.HasPrefix(name, bootstrap.EnvDocument) || name == envAttempt {
			return fmt.Errorf("env: %q is no name, or one that Berth sets itself", name)
		}
	}
	seen := make(map[string]bool, len(b.Endpoints))
	for i, e := range b.Endpoints {
		switch {
		case !names.Label(e.Name):
			return fmt.Errorf("endpoints[%d].name: %q is none: lower-case letters, digits and '-'", i, e.Name)
		case seen[e.Name]:
			return fmt.Errorf("endpoints[%d].name: %q is there twice", i, e.Name)
		case e.Protocol != "tcp" && e.Protocol != "udp":
			return fmt.Errorf("endpoints[%d].protocol: %q is neither tcp nor udp", i, e.Protocol)
		}
		seen[e.Name] = true
	}
	return nil
}

// envAttempt is the variable that marks the processes of a server.
const envAttempt = "BERTH_ATTEMPT"
