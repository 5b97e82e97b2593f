package gamelift_test

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/services/allocation/providers/gamelift"
)

// Each mistake's message names the setting.
func TestConfigurationIsChecked(t *testing.T) {
	for setting, change := range map[string]func(*gamelift.Config){
		"gamelift.url":                 func(c *gamelift.Config) { c.URL = "http://gamelift.example.com" },
		"gamelift.credentials_file":    func(c *gamelift.Config) { c.CredentialsFile = filepath.Join(t.TempDir(), "none") },
		"gamelift.credentials_file: /": func(c *gamelift.Config) { c.CredentialsFile = file(t, "\x00\xff garbage "+secretKey) },
		"gamelift.credentials_file:": func(c *gamelift.Config) {
			c.CredentialsFile = file(t, "[default]\naws_access_key_id = "+accessKey+"\n")
		},
		"gamelift.regions.eu.location: \"c": func(c *gamelift.Config) {
			c.Regions["eu"] = gamelift.Region{Region: "eu-central-1", Location: "custom-" + strings.Repeat("a", 58)}
		},
		"gamelift.regions.eu.location: \"M": func(c *gamelift.Config) {
			c.Regions["eu"] = gamelift.Region{Region: "eu-central-1", Location: "My office"}
		},
		"gamelift.builds:":             func(c *gamelift.Config) { c.Builds = nil },
		"gamelift.regions:":            func(c *gamelift.Config) { c.Regions = nil },
		"gamelift.builds.none: one of": func(c *gamelift.Config) { c.Builds = map[string]gamelift.Build{"none": {}} },
		"gamelift.builds.both: one of": func(c *gamelift.Config) { c.Builds = map[string]gamelift.Build{"both": {Queue: "q", Fleet: fleet}} },
		"gamelift.builds.few: players": func(c *gamelift.Config) { c.Builds = map[string]gamelift.Build{"few": {Queue: "q", Players: -1}} },
		"gamelift.builds.old: also_f": func(c *gamelift.Config) {
			c.Builds = map[string]gamelift.Build{"old": {Queue: "q", AlsoFleets: []string{alias}}}
		},
		"gamelift.builds.mixed: fleet: \"alias-": func(c *gamelift.Config) { c.Builds = map[string]gamelift.Build{"mixed": {Fleet: alias}} },
		"gamelift.builds.mixed: fleet: \"arn": func(c *gamelift.Config) {
			c.Builds = map[string]gamelift.Build{"mixed": {Fleet: "arn:aws:gamelift:eu-central-1::alias/" + alias}}
		},
		"gamelift.builds.mixed: alias: \"fleet":                 func(c *gamelift.Config) { c.Builds = map[string]gamelift.Build{"mixed": {Alias: fleet}} },
		"gamelift.regions.eu.region":                            func(c *gamelift.Config) { c.Regions = map[string]gamelift.Region{"eu": {Region: "Frankfurt"}} },
		"gamelift.sweep":                                        func(c *gamelift.Config) { c.Sweep = 500 * time.Millisecond },
		"gamelift.stop_grace":                                   func(c *gamelift.Config) { c.StopGrace = -time.Second },
		"gamelift.events.queue_url: is no base":                 func(c *gamelift.Config) { c.Events.QueueURL = "berth-placements" },
		"gamelift.events.queue_url: sqs.example.com is another": func(c *gamelift.Config) { c.Events.QueueURL = "http://sqs.example.com/1/q" },
		"gamelift.events.region":                                func(c *gamelift.Config) { c.Events.QueueURL = "https://queue.example.com/1/q" },
	} {
		cfg := gamelift.Config{
			CredentialsFile: credentials(t, accessKey, secretKey), Builds: map[string]gamelift.Build{"shooter": {Queue: "plain"}},
			Regions: map[string]gamelift.Region{"eu": {Region: "eu-central-1"}},
		}
		change(&cfg)
		if _, err := gamelift.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), setting) || strings.Contains(err.Error(), secretKey) {
			t.Errorf("%s: %v", setting, err)
		}
	}
}

// file is a file with that in it.
func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// The policy that the page names allows what the client calls, and no more.
func TestThePolicyIsTheLeast(t *testing.T) {
	raw, err := os.ReadFile("../../../../docs/providers/gamelift-iam.json")
	if err != nil {
		t.Fatal(err)
	}
	var policy struct{ Statement []struct{ Action []string } }
	if err := json.Unmarshal(raw, &policy); err != nil {
		t.Fatal(err)
	}
	allowed := make(map[string]bool)
	for _, s := range policy.Statement {
		for _, action := range s.Action {
			allowed[action] = true
		}
	}
	want := map[string]bool{"sqs:ReceiveMessage": true, "sqs:DeleteMessage": true} // the latter for a batch too
	client, err := os.ReadFile("client.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`c\.api\.([A-Z]\w+)[,)]`).FindAllStringSubmatch(string(client), -1) {
		want["gamelift:"+m[1]] = true
	}
	if len(want) < 8 || !maps.Equal(allowed, want) {
		t.Errorf("the policy allows %q, and the client calls %q", slices.Sorted(maps.Keys(allowed)), slices.Sorted(maps.Keys(want)))
	}
}

// A file of credentials is read anew, and one without keys is said to be the reason before anything is sent.
func TestCredentialsFile(t *testing.T) {
	host, cfg := start(t)
	cfg.Builds = map[string]gamelift.Build{"shooter": {Fleet: fleet}}
	file := gamelift.CredentialsFile(cfg.CredentialsFile)
	first, err := file.Retrieve(t.Context())
	if err != nil || first.AccessKeyID != accessKey || !first.CanExpire || time.Until(first.Expires) > time.Minute {
		t.Fatalf("%v, %v", first.AccessKeyID, err)
	}
	if err := os.WriteFile(cfg.CredentialsFile, []byte("[default]\naws_access_key_id = OTHER\naws_secret_access_key = x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if second, err := file.Retrieve(t.Context()); err != nil || second.AccessKeyID != "OTHER" {
		t.Errorf("a changed file: %v, %v", second.AccessKeyID, err)
	}
	_, err = open(t, cfg).Allocate(t.Context(), order())
	failsWith(t, err, "UNAUTHENTICATED", "UnrecognizedClientException")
	p, cutOff := open(t, cfg), open(t, cfg)
	if err := os.WriteFile(cfg.CredentialsFile, []byte("[default]\nregion = eu-central-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = p.Allocate(t.Context(), order())
	failsWith(t, err, "UNAUTHENTICATED", "gamelift.credentials_file")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = cutOff.Allocate(ctx, order())
	failsWith(t, err, "UNAVAILABLE", "")
	if n := host.Calls("CreateGameSession"); n != 0 {
		t.Errorf("%d calls without valid credentials", n)
	}
}
