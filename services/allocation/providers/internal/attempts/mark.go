package attempts

import (
	"strings"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/ids"
)

// Marked is the name of an attempt's server at a host that has no place for a mark but the name: at most 112 of [a-zA-Z0-9-].
func Marked(deployment, attempt string) string { return deployment + "-" + attempt }

// space is that of the names that have to be UUIDs. It outlives a release of Berth: servers are found again by it.
var space = uuid.NewSHA1(uuid.NameSpaceDNS, []byte("attempt.berth.dev"))

// UUID is the name of an attempt's server at a host where names are UUIDs. It follows from the mark, which cannot be read from it.
func UUID(deployment, attempt string) string {
	return uuid.NewSHA1(space, []byte(Marked(deployment, attempt))).String()
}

// Unmarked returns the attempt of a name that has the deployment's mark; false if it has not.
func Unmarked(deployment, name string) (attempt string, ok bool) {
	attempt, ok = strings.CutPrefix(name, deployment+"-")
	return attempt, ok && ids.AttemptInstance(attempt) != ""
}
