// Package gamelift is the provider for Amazon GameLift Servers: a game session for each server, through a queue or directly on a fleet.
package gamelift

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"time"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// Defaults.
const (
	// DefaultSweep is Config.Sweep.
	DefaultSweep = 15 * time.Second
	// DefaultGrace is Config.StopGrace.
	DefaultGrace = 30 * time.Second

	minSweep = time.Second
	maxSweep = 10 * time.Minute
	maxGrace = time.Hour
	// maxLocation is the longest name of a location that GameLift takes.
	maxLocation = 64
)

// Config configures a Provider.
type Config struct {
	// URL is the base URL of the API. Default: AWS's own of each Region.
	URL string `yaml:"url"`
	// CredentialsFile is a shared credentials file of AWS; its profile "default" is read anew each minute. Default: credentials are looked for as the AWS SDKs do.
	CredentialsFile string `yaml:"credentials_file"`
	// Builds are Berth's builds, each a queue, a fleet or an alias. Needed.
	Builds map[string]Build `yaml:"builds"`
	// Regions are Berth's regions. Needed.
	Regions map[string]Region `yaml:"regions"`
	// Events says where GameLift tells of placements. Default: nowhere, and they are asked for.
	Events Events `yaml:"events"`
	// Sweep is how often GameLift is asked about a server of which nothing else is heard. Default: DefaultSweep.
	Sweep time.Duration `yaml:"sweep"`
	// StopGrace is how long a server may take to end by itself before it is ended by force. Default: DefaultGrace.
	StopGrace time.Duration `yaml:"stop_grace"`
	// Log is where it says that events cannot be read. Default: nowhere.
	Log *slog.Logger `yaml:"-"`
}

// Build is what runs a build: one of Queue, Fleet and Alias.
type Build struct {
	// Queue places sessions. It has that name, or is an ARN, in the AWS Region of each region that the build is asked for in.
	Queue string `yaml:"queue"`
	// Fleet has the sessions: an id or an ARN.
	Fleet string `yaml:"fleet"`
	// Alias points to the fleet: an id or an ARN.
	Alias string `yaml:"alias"`
	// AlsoFleets are those that Fleet, Alias or Queue had before, ids or ARNs: nothing is started there, and what runs there is looked for. Default: none.
	AlsoFleets []string `yaml:"also_fleets"`
	// Players is the most player sessions of a game session, a number that GameLift wants. Berth makes none. Default 1.
	Players int32 `yaml:"players"`
}

// Region is where servers run.
type Region struct {
	// Region is the AWS Region of the queue, or the home Region of the fleet. Needed.
	Region string `yaml:"region"`
	// Location is the location of the fleet, such as a remote or a custom one. Default: the home Region, or what the queue chooses.
	Location string `yaml:"location"`
}

// Events says where events are.
type Events struct {
	// QueueURL is the URL of an SQS queue that gets the events of placements. Default: there is none.
	QueueURL string `yaml:"queue_url"`
	// Region is the AWS Region of that queue. Default: that in the URL.
	Region string `yaml:"region"`
}

// regionName is the form of a Region's name.
var regionName = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-\d{1,2}$`)

// locationName is the form of a location's name.
var locationName = regexp.MustCompile(`^[A-Za-z0-9-]+$`)

// fleetID is the form of a fleet's id.
var fleetID = regexp.MustCompile(`^[a-z]*fleet-[a-zA-Z0-9-]+$`)

// aliasID is the form of an alias' id.
var aliasID = regexp.MustCompile(`^alias-[a-zA-Z0-9-]+$`)

func (c Config) validate(ctx context.Context) error {
	if c.URL != "" {
		if err := hostapi.CheckURL(c.URL); err != nil {
			return fmt.Errorf("gamelift.url: %w", err)
		}
	}
	if c.CredentialsFile != "" {
		if _, err := credentialsFile(c.CredentialsFile).Retrieve(ctx); err != nil {
			return fmt.Errorf("gamelift.credentials_file: %w", err)
		}
	}
	if err := hostapi.CheckMaps("gamelift", c.Builds, c.Regions); err != nil {
		return err
	}
	for name, b := range c.Builds {
		if err := b.validate(); err != nil {
			return fmt.Errorf("gamelift.builds.%s: %w", name, err)
		}
	}
	for name, r := range c.Regions {
		if !regionName.MatchString(r.Region) {
			return fmt.Errorf("gamelift.regions.%s.region: %q is no AWS Region, such as eu-central-1", name, r.Region)
		}
		if r.Location != "" && (len(r.Location) > maxLocation || !locationName.MatchString(r.Location)) {
			return fmt.Errorf("gamelift.regions.%s.location: %q is no location of up to %d letters, digits and hyphens, such as eu-west-1 or custom-office", name, r.Location, maxLocation)
		}
	}
	switch {
	case c.Sweep != 0 && (c.Sweep < minSweep || c.Sweep > maxSweep):
		return fmt.Errorf("gamelift.sweep: %v is not %v to %v", c.Sweep, minSweep, maxSweep)
	case c.StopGrace < 0 || c.StopGrace > maxGrace:
		return fmt.Errorf("gamelift.stop_grace: %v is not up to %v", c.StopGrace, maxGrace)
	}
	return c.Events.validate()
}

func (b Build) validate() error {
	targets := 0
	for _, target := range []string{b.Queue, b.Fleet, b.Alias} {
		if target != "" {
			targets++
		}
	}
	if targets != 1 {
		return fmt.Errorf("one of queue, fleet and alias is needed, and there are %d", targets)
	}
	if b.Fleet != "" && !fleetID.MatchString(lastPart(b.Fleet)) {
		return fmt.Errorf("fleet: %q is no id or ARN of a fleet", b.Fleet)
	}
	if b.Alias != "" && !aliasID.MatchString(lastPart(b.Alias)) {
		return fmt.Errorf("alias: %q is no id or ARN of an alias", b.Alias)
	}
	for _, fleet := range b.AlsoFleets {
		if !fleetID.MatchString(lastPart(fleet)) {
			return fmt.Errorf("also_fleets: %q is no id or ARN of a fleet", fleet)
		}
	}
	if b.Players < 0 {
		return fmt.Errorf("players: %d is less than 0", b.Players)
	}
	return nil
}

func (e Events) validate() error {
	if e.QueueURL == "" {
		return nil
	}
	u, err := url.Parse(e.QueueURL)
	if err != nil || u.Path == "" || u.Path == "/" {
		return fmt.Errorf("gamelift.events.queue_url: %q is no URL of a queue, such as https://sqs.eu-central-1.amazonaws.com/123456789012/berth-placements", e.QueueURL)
	}
	if err := hostapi.CheckURL(e.QueueURL); err != nil {
		return fmt.Errorf("gamelift.events.queue_url: %w", err)
	}
	if e.region() == "" {
		return fmt.Errorf("gamelift.events.region: is needed: there is none in %q", e.QueueURL)
	}
	return nil
}

// inQueueURL is the Region in the host of a queue's URL.
var inQueueURL = regexp.MustCompile(`^https://sqs\.([a-z0-9-]+)\.`)

func (e Events) region() string {
	if e.Region != "" {
		return e.Region
	}
	if m := inQueueURL.FindStringSubmatch(e.QueueURL); m != nil {
		return m[1]
	}
	return ""
}
