package hostapi_test

import (
	"strings"
	"testing"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// A build or region that no placement can name would be configured in vain.
func TestNamesThatNobodyCanAskFor(t *testing.T) {
	long := strings.Repeat("x", 63)
	one := func(name string) map[string]int { return map[string]int{name: 1} }
	for _, name := range []string{"shooter", "7", "shooter_v1.2-eu", long} {
		if err := hostapi.CheckMaps("host", one(name), one("eu")); err != nil {
			t.Errorf("build %q: %v", name, err)
		}
	}
	for _, name := range []string{"eu", "us-east-1", long} {
		if err := hostapi.CheckMaps("host", one("shooter"), one(name)); err != nil {
			t.Errorf("region %q: %v", name, err)
		}
	}
	for _, c := range []struct {
		build, region string
		want          []string
	}{
		{"", "eu", []string{`host.builds: "" is no name`}},
		{"Shooter", "eu", []string{`host.builds: "Shooter" is no name`, `; call it "shooter"`}},
		{"my shooter", "eu", []string{`host.builds: "my shooter"`, "a-z, 0-9, and '.', '_' and '-' between them"}},
		{"shooter-", "eu", []string{`host.builds: "shooter-"`}},
		{long + "x", "eu", []string{`host.builds: "` + long, "up to 63"}},
		{"shooter", "EU", []string{`host.regions: "EU" is no name`, `; call it "eu"`}},
		{"shooter", "eu_west", []string{`host.regions: "eu_west"`, "a-z, 0-9, and '-' between them"}},
		{"shooter", "eu.west", []string{`host.regions: "eu.west"`}},
		{"shooter", "eu\n", []string{`host.regions: "eu\n"`}},
	} {
		err := hostapi.CheckMaps("host", one(c.build), one(c.region))
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q in %q: %v; want %q", c.build, c.region, err, want)
			}
		}
	}
	if err := hostapi.CheckMaps("host", map[string]int{}, one("eu")); err == nil || err.Error() != "host.builds: at least one is needed" {
		t.Errorf("got %v", err)
	}
	if err := hostapi.CheckMaps("host", one("shooter"), map[string]int{}); err == nil || err.Error() != "host.regions: at least one is needed" {
		t.Errorf("got %v", err)
	}
}
