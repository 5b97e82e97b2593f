package gamelift

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
)

// maxRemembered is how many attempts are remembered.
const maxRemembered = 50_000

// sighting is what GameLift said of an attempt's server.
type sighting struct {
	region  string // of AWS, that knows it
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
}

func (r record) state() providerv1.ServerState { return r.server.GetState() }

// memory has what is known of attempts, so that GameLift is not asked each time. It is safe for concurrent use.
type memory struct {
	mu sync.Mutex
	// records by attempt, and the attempts, the oldest first. Overflow: the oldest is forgotten, and GameLift is asked when somebody wants to know.
	records map[string]*record
	order   []string
}

func newMemory() *memory { return &memory{records: make(map[string]*record)} }

func (m *memory) get(attempt string) (record, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.records[attempt]; r != nil {
		return *r, true
	}
	return record{}, false
}

// put adds what was seen, and returns what is known with it. Answers and events may come out of order: a server never goes back.
func (m *memory) put(attempt string, s sighting, direct bool) *providerv1.Server {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.records[attempt]
	if r == nil {
		if len(m.order) == maxRemembered {
			delete(m.records, m.order[0])
			m.order = slices.Delete(m.order, 0, 1)
		}
		r = &record{direct: direct}
		m.records[attempt], m.order = r, append(m.order, attempt)
	}
	r.region, r.session = cmp.Or(s.region, r.region), cmp.Or(s.session, r.session)
	r.server, r.seen = newer(r.server, s.server), time.Now()
	return r.server
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
	if len(out.Endpoints) == 0 {
		out.Endpoints = other.GetEndpoints()
	}
	return out
}

// note changes how far an attempt that is known is with its end.
func (m *memory) note(attempt string, change func(*record)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.records[attempt]; r != nil {
		change(r)
	}
}
