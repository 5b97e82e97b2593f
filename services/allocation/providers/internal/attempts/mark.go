package attempts

import (
	"strings"

	"github.com/berth-dev/berth/pkg/ids"
)

// Marked is the name of an attempt's server at a host that has no place for a mark but the name: at most 112 of [a-zA-Z0-9-].
func Marked(deployment, attempt string) string { return deployment + "-" + attempt }

// Unmarked returns the attempt of a name that has the deployment's mark; false if it has not.
func Unmarked(deployment, name string) (attempt string, ok bool) {
	attempt, ok = strings.CutPrefix(name, deployment+"-")
	return attempt, ok && ids.AttemptInstance(attempt) != ""
}
