// Package names checks the names that configurations give to builds, regions and ports: any other ones no request can have.
package names

import (
	"fmt"
	"regexp"
	"strings"
)

// kind is a kind of names.
type kind struct {
	pattern *regexp.Regexp
	words   string
}

var (
	builds = kind{regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`), "a-z, 0-9, and '.', '_' and '-' between them"}
	labels = kind{regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`), "a-z, 0-9, and '-' between them"}
)

// Builds returns an error unless a placement (berth.instance.v1.Placement) can ask for builds of all of these names.
func Builds(configured []string) error { return builds.check(configured) }

// Regions returns an error unless a placement can ask for regions of all of these names.
func Regions(configured []string) error { return labels.check(configured) }

// Label reports whether a name can be that of a port, or of a pool.
func Label(name string) bool { return labels.pattern.MatchString(name) }

func (k kind) check(configured []string) error {
	for _, name := range configured {
		if k.pattern.MatchString(name) {
			continue
		}
		better := ""
		if lower := strings.ToLower(name); k.pattern.MatchString(lower) {
			better = fmt.Sprintf("; call it %q", lower)
		}
		return fmt.Errorf("%q is no name that a placement can ask for: up to 63 of %s%s", name, k.words, better)
	}
	return nil
}
