// Package allocator gets game servers from providers and gives them back: what an allocation is, how it moves from state to state, and
// the worker that moves it. It knows nothing of gRPC, Redis or the providers' own interfaces.
package allocator

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

// State is where an allocation is in its life. The numbers are those of berth.allocation.v1.Allocation.State.
type State int

// The states.
const (
	// Queued: no provider has anything of it.
	Queued State = iota + 1
	// Placing: a provider is being asked, or was when a worker was lost; it may have a server.
	Placing
	// Starting: the provider has named a server.
	Starting
	// Ready: the server runs.
	Ready
	// Bound: the instance has accepted the server.
	Bound
	// Releasing: the server is given back.
	Releasing
	// Released is final: the server is gone.
	Released
	// Failed is final: no server could be had.
	Failed
	// Cancelled is final: given up while no provider had anything of it.
	Cancelled
)

// String returns the state's name in the API.
func (s State) String() string {
	names := [...]string{"UNSPECIFIED", "QUEUED", "PLACING", "STARTING", "READY", "BOUND", "RELEASING", "RELEASED", "FAILED", "CANCELLED"}
	if s < 0 || int(s) >= len(names) {
		return "STATE_" + strconv.Itoa(int(s))
	}
	return names[s]
}

// Final reports whether the state is never left, except to give back a server that turned up late.
func (s State) Final() bool { return s == Released || s == Failed || s == Cancelled }

// Report is what the instance has to be told of its attempt. The numbers are those of berth.record.v1.AttemptReport.
type Report int

// The reports.
const (
	// ReportNone: nothing is owed.
	ReportNone Report = iota
	// ReportAllocated: a provider has named a server. It is repeated until the instance has decided about the server.
	ReportAllocated
	// ReportFailed: no server could be had. It is repeated until the instance has decided, which may have the server linked by then.
	ReportFailed
	// ReportExited: the server's process ended by itself.
	ReportExited
	// ReportReleased: the server is gone.
	ReportReleased
)

// Verdict is what an instance says of its attempt.
type Verdict int

// The verdicts.
const (
	// Open: undecided.
	Open Verdict = iota
	// Accepted: the server is, or was, linked.
	Accepted
	// Abandoned: the instance does not want the server, or no longer.
	Abandoned
	// Unknown: nothing is known of the instance. If its allocation is known, it does not want the server.
	Unknown
)

// Placement is what an instance asks for.
type Placement struct {
	// Build is the configured name of what to run.
	Build string
	// Regions are acceptable, best first; empty: any.
	Regions []string
	// Labels are passed on to the provider.
	Labels map[string]string
	// Latencies are what the players measured.
	Latencies map[string]time.Duration
	// Priority says who comes first while nobody has room: each point is worth 30 s of waiting.
	Priority int
}

func (p Placement) equal(q Placement) bool {
	return p.Build == q.Build && p.Priority == q.Priority && slices.Equal(p.Regions, q.Regions) && maps.Equal(p.Labels, q.Labels) && maps.Equal(p.Latencies, q.Latencies)
}

// request is the question where an allocation's server is looked for; without an id it is that of any allocation.
func (p Placement) request(id, namespace string) placement.Request {
	return placement.Request{ID: id, Namespace: namespace, Build: p.Build, Regions: p.Regions, Labels: p.Labels, Latencies: p.Latencies}
}

// Endpoint is a public address of a server.
type Endpoint struct {
	// Name is the build's name for the port.
	Name string
	// Host is a DNS name or IP address.
	Host string
	// Port is the port.
	Port uint32
	// Protocol is a berth.type.v1.Protocol.
	Protocol int32
}

// Allocation is the wish for one game server and what became of it. It holds no token. Times are the store's.
type Allocation struct {
	// ID is the id of the instance's attempt.
	ID string
	// Namespace is the instance's.
	Namespace string
	// InstanceID is the instance that wants the server.
	InstanceID string
	// Rev is the stored revision that this value was read at; 0: not stored.
	Rev int64
	// Stored is the record as the store holds it, which the store patches, so that fields of newer versions survive. Nobody else looks inside.
	Stored []byte

	// State is where it is in its life.
	State State
	// Placement is what is asked for; zero in a tombstone.
	Placement Placement
	// Deadline is when the instance gives up: no provider is asked after it. Zero: never.
	Deadline time.Time
	// Traceparent is handed on to the server.
	Traceparent string
	// Setbacks are where earlier attempts of the instance failed, oldest first.
	Setbacks []Setback

	// Explanation is where the server was looked for in the last round; without candidates before the first.
	Explanation Explanation
	// RoundAt is when the round that is on began; zero: none is. Rounds is how many there were.
	RoundAt time.Time
	Rounds  int
	// WaitSince is since when it waits for room; zero: it does not.
	WaitSince time.Time

	// Provider and Region are where a server may be, or is; empty: no provider has anything of it.
	Provider, Region string
	// GiveUpAt is when the instance is told that the provider does not say whether it has a server. Zero: never.
	GiveUpAt time.Time
	// ExternalID is the provider's own id of the server.
	ExternalID string
	// PoolServer is the server's id, if it is one of a pool; empty: the one that follows from ID.
	PoolServer string
	// Endpoints are the server's public addresses.
	Endpoints []Endpoint
	// Message is why it waits, why it failed, what its provider says of the server or how that ended, in words.
	Message string

	// Report is what the instance has to be told, ReportAt when, and ReportTries how often in a row that did not settle it.
	Report      Report
	ReportAt    time.Time
	ReportTries int
	// Doubtful says that a call to the provider went without a certain answer: it may start a server yet, whatever is answered to later calls. So nobody else
	// is asked, and the provider has to take back what it may have.
	Doubtful bool
	// Failure says of ReportFailed that another attempt may do better, because this one failed where it is, and for which reason: the name of a FailureKind. Empty:
	// none may.
	Failure string

	// CallAt is when to turn to the provider, and Tries how often in a row it could not do what it was asked.
	CallAt time.Time
	Tries  int
	// Missing is how often in a row the provider did not know a server that it had named.
	Missing int

	// Gone says of a releasing allocation that the provider has nothing left of it, and End the state that it ends in.
	Gone bool
	End  State

	// CreateTime and UpdateTime are when it was created and last changed; ExpireAt is when it is deleted, once it is final.
	CreateTime, UpdateTime, ExpireAt time.Time
}

// ServerID is the id of the server that the allocation is for.
func (a *Allocation) ServerID() string { return cmp.Or(a.PoolServer, ids.Server(a.ID)) }

// Wish is what an instance asks for.
type Wish struct {
	// ID is the allocation's id: the attempt's.
	ID string
	// Namespace, InstanceID, Placement, Deadline, Traceparent and Setbacks are as in Allocation.
	Namespace, InstanceID string
	Placement             Placement
	Deadline              time.Time
	Traceparent           string
	Setbacks              []Setback
}

// checkID returns an error unless the allocation's id is that of an attempt of the instance.
func checkID(id, instanceID string) error {
	if ids.AttemptInstance(id) != instanceID || instanceID == "" {
		return errs.New(errs.ValidationFailed, "allocation_id: must be the id of an attempt of instance_id: the instance's id, \"-\" and a number")
	}
	return nil
}

// newAllocation returns the allocation that a wish makes.
func newAllocation(w Wish, now time.Time) Allocation {
	return Allocation{
		ID: w.ID, Namespace: w.Namespace, InstanceID: w.InstanceID, State: Queued,
		Placement: w.Placement, Deadline: w.Deadline, Traceparent: w.Traceparent, Setbacks: w.Setbacks,
		CallAt: now, CreateTime: now, UpdateTime: now,
	}
}

// newTombstone returns what is stored for the release of an allocation that nobody has created yet.
func newTombstone(namespace, id, instanceID string, now time.Time) Allocation {
	a := Allocation{ID: id, Namespace: namespace, InstanceID: instanceID, CreateTime: now}
	a.become(Released, now)
	a.say("released before it was created")
	a.owe(ReportReleased, now)
	return a
}

// answers reports whether the stored allocation is what the wish asks for, so that asking again is asking once.
func (a *Allocation) answers(w Wish) bool {
	tombstone := a.Placement.Build == ""
	return a.Namespace == w.Namespace && a.InstanceID == w.InstanceID && (tombstone || a.Placement.equal(w.Placement))
}
