package gamelift

import (
	"cmp"
	"time"

	"google.golang.org/protobuf/proto"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
)

// maxRemembered is how many attempts are remembered.
const maxRemembered = 50_000

// sighting is what GameLift said of an attempt's server.
type sighting struct {
	region  string // of AWS, that knows it
	home    string // Region of the fleet that has its session; "": not seen yet
	session string // ARN of its game session; "": none yet
	server  *providerv1.Server
}

// record is what is known of an attempt's server. Nobody changes what it points to.
type record struct {
	sighting
	direct  bool      // made without a queue: no event tells of it
	seen    time.Time // when GameLift said so
	told    time.Time // when the server was told to end; zero: not yet
	noForce bool      // its fleet ends nothing by force
	target  target    // where it was asked for; zero: nowhere, as far as this process knows
	spread  bool      // it may be elsewhere too: it was asked for in several places
}

// only is where a server must be, if it is anywhere; zero: that is not known.
func (r record) only() target {
	if r.spread {
		return target{}
	}
	return r.target
}

func (r record) state() providerv1.ServerState { return r.server.GetState() }

// memory has what is known of attempts, so that GameLift is not asked each time; what is forgotten it is asked for. It is safe for concurrent use.
type memory struct{ attempts.Recent[record] }

func newMemory() *memory { return &memory{attempts.Recent[record]{Max: maxRemembered}} }

// put adds what was seen, and returns what is known with it. Answers and events may come out of order: a server never goes back. direct counts the first time.
func (m *memory) put(attempt string, s sighting, direct bool) (server *providerv1.Server) {
	m.Update(attempt, func(r *record) {
		if r.server == nil {
			r.direct = direct
		}
		r.region, r.home, r.session = cmp.Or(s.region, r.region), cmp.Or(s.home, r.home), cmp.Or(s.session, r.session)
		r.server, r.seen = newer(r.server, s.server), time.Now()
		server = r.server
	})
	return server
}

// newer is the later of what is known and what was seen, with what only one of them says.
func newer(known, seen *providerv1.Server) *providerv1.Server {
	if known == nil {
		return seen
	}
	later, other := seen, known
	if known.GetState() > seen.GetState() {
		later, other = known, seen
	}
	out := proto.CloneOf(later)
	out.ExternalId = cmp.Or(known.GetExternalId(), seen.GetExternalId()) // the first one stays
	out.Region = cmp.Or(known.GetRegion(), seen.GetRegion())
	if known.GetState() == stateRunning { // whatever is said of its placement later
		out.Failure = 0
	}
	if len(out.Endpoints) == 0 {
		out.Endpoints = other.GetEndpoints()
	}
	return out
}
