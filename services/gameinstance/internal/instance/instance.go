// Package instance is the life of a game instance: what it is, which commands change it, and the use-cases around them. It knows nothing of
// gRPC, protobuf, Redis or HTTP.
package instance

import (
	"maps"
	"slices"
	"time"

	"github.com/berth-dev/berth/pkg/ids"
)

// State is where an instance is in its life. The numbers are stored.
type State int32

// The states, in the order of a good life.
const (
	Pending State = iota + 1
	Allocating
	Allocated
	Linked
	Running
	Ended
	Terminated
)

var stateNames = [...]string{"", "PENDING", "ALLOCATING", "ALLOCATED", "LINKED", "RUNNING", "ENDED", "TERMINATED"}

// String returns the name that callers know.
func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return "UNKNOWN"
	}
	return stateNames[s]
}

// Final reports whether nothing can follow.
func (s State) Final() bool { return s == Ended || s == Terminated }

// Reason says why an instance was terminated. The numbers are stored.
type Reason int32

// The reasons.
const (
	ReasonNone Reason = iota
	Requested
	AllocationFailed
	AllocationTimeout
	LinkTimeout
	ConnectTimeout
	ServerExited
	ServerLost
	LifetimeExceeded
	ClaimedTwice
)

// Fate is what became of an attempt. The numbers are stored.
type Fate int32

// The fates.
const (
	Open Fate = iota + 1
	Accepted
	Abandoned
)

// Presence is whether the server says that a player is in the game. The numbers are stored.
type Presence int32

// The presences.
const (
	PresenceUnknown Presence = iota
	Present
	Absent
)

// DeadlineKind names a deadline. The numbers are stored.
type DeadlineKind int32

// The deadlines.
const (
	DeadlineAllocation DeadlineKind = iota + 1
	DeadlineLink
	DeadlineConnectPlayers
	DeadlineDisconnect
	DeadlineLifetime
	DeadlineRetention
)

// CallKind names a call to allocation or, for an attempt on a registered server, to the registry. The numbers are stored.
type CallKind int32

// The calls: for a server, to have it no longer, and to tell a registered one of the instance until it links.
const (
	CallAllocate CallKind = iota + 1
	CallRelease
	CallAssign
)

// Instance is a game instance as it is at one revision.
type Instance struct {
	Revision  int64
	stored    int64 // the revision before, where Revision is undecided
	Namespace string
	ID        string
	State     State
	Reason    Reason
	Message   string
	// Players are those that were loaded (Needs), by id; PlayerCount counts all.
	Players     map[string]Player
	PlayerCount int
	// GameData is set if it was loaded; GameDataBytes and PlayersBytes are the sizes whether or not it was.
	GameData                    Data
	GameDataBytes, PlayersBytes int
	Settings                    []byte // a JSON object, or nil
	Placement                   Placement
	Labels                      map[string]string
	Endpoints                   []Endpoint
	Link                        *Link
	Attempts                    []Attempt
	Result                      Data
	Timeouts                    Timeouts
	OnLoss                      OnLoss
	CreateTime                  time.Time
	UpdateTime                  time.Time
	StartTime                   time.Time
	EndTime                     time.Time
	ExpireTime                  time.Time
	Deadlines                   map[DeadlineKind]time.Time
	Outbox                      []Call
	// LastOffset is the mailbox's newest offset so far; 0 if it never had an entry.
	LastOffset int64
	// LastLinkEpoch is the highest link epoch so far.
	LastLinkEpoch int64
	// LastSession and LastRequest name the highest request over the link that was committed.
	LastSession string
	LastRequest int64
	// MailCount and MailBytes are what waits in the mailbox.
	MailCount, MailBytes int
	// LastSaid is the newest offset of the messages to the instance's backends so far, 0 if there never was one; SaidCount and SaidBytes are what
	// waits of them.
	LastSaid             int64
	SaidCount, SaidBytes int
	// CreateDigest tells a repeated create from another one with the same request id.
	CreateDigest []byte
	Traceparent  string
	// Stored is the store's own: the record that the instance was read from, so that what a newer version wrote into it is kept.
	Stored any
}

// Data is a game's own data: a JSON object or bytes. The zero value is none.
type Data struct {
	JSON   []byte
	Binary []byte
	Set    bool
	// Size is how many bytes the data has as a public message.
	Size int
	// Visibility says who is given the data.
	Visibility Visibility
}

// Visibility says who is given data. The numbers are stored.
type Visibility int32

// The visibilities.
const (
	VisibilityDefault Visibility = iota
	VisibleToServer
	VisibleToBackend
	VisibleToPlayers
)

// OnLoss says what becomes of an instance whose server is lost. The numbers are stored.
type OnLoss int32

// What becomes of it. The zero value is OnLossTerminate.
const (
	OnLossTerminate OnLoss = iota + 1
	OnLossReplace
)

// Player is somebody who is expected in the instance.
type Player struct {
	ID, PartyID, TeamID string
	Data                Data
	Connectable         bool
	Presence            Presence
	AddTime             time.Time
	// Stored is the store's own, as Instance.Stored is.
	Stored any
}

// Placement says which server an instance wants, and where.
type Placement struct {
	Build     string
	Regions   []string
	Labels    map[string]string
	Latencies map[string]time.Duration
	// Priority says who comes first while nobody has room.
	Priority int
}

// Endpoint is a public address of a server.
type Endpoint struct {
	Name     string
	Host     string
	Port     uint32
	Protocol int32 // berth.type.v1.Protocol
}

// Link is the bond between an instance and its server.
type Link struct {
	ServerID     string
	SessionEpoch int64
	GatewayID    string
	Epoch        int64
	Connected    bool
	LinkTime     time.Time
	ChangeTime   time.Time
	// Floor is the mailbox's newest offset when the server linked: its start data has everything up to here.
	Floor int64
}

// Attempt is one try to get a server.
type Attempt struct {
	ID           string
	ServerID     string
	Fate         Fate
	Provider     string
	Region       string
	CreateTime   time.Time
	AllocateTime time.Time
	ReleaseTime  time.Time
	// Registered says that the server is a registered one: it was there before, and stays.
	Registered bool
	// Failure and Message are why no server came of it where it was; Failure is the reason's name in the provider contract. Empty otherwise, but for a Message that
	// says why none can be asked for yet.
	Failure, Message string
	// ClaimNonceHash is the SHA-256 of the nonce with which the server's claim code was used; nil as long as it was not.
	ClaimNonceHash []byte
}

// Timeouts bound the phases of a life; 0 is off.
type Timeouts struct {
	Allocation      time.Duration
	Link            time.Duration
	ConnectPlayers  time.Duration
	DisconnectGrace time.Duration
	Lifetime        time.Duration
	Retention       time.Duration
}

// Call is a call that has not been answered yet.
type Call struct {
	Kind      CallKind
	AttemptID string
	Due       time.Time
	Tries     int32
}

// HistoryEntry is one thing that happened.
type HistoryEntry struct {
	Time     time.Time
	Revision int64
	Event    string
	From, To State
	Actor    string
	Detail   string
	// Fold says that the entry may be counted into one like it that stands right before it.
	Fold bool
	// Count is how many events the entry stands for, FirstTime when the first of them was.
	Count     int64
	FirstTime time.Time
}

// Pooled reports whether the attempt's server is one of a pool: it was there before and stays, as a registered one does, and a provider gives its room back.
func (a *Attempt) Pooled() bool { return !a.Registered && a.ServerID != ids.Server(a.ID) }

// Attempt returns the newest attempt; nil if there is none.
func (i *Instance) Attempt() *Attempt {
	if len(i.Attempts) == 0 {
		return nil
	}
	return &i.Attempts[len(i.Attempts)-1]
}

// words end a sentence with why there is no server yet, where that is known.
func (a *Attempt) words() string {
	if a == nil || a.Message == "" {
		return ""
	}
	return ": " + a.Message
}

// Waits reports whether a server is the one that the instance waits for, or has.
func (i *Instance) Waits(serverID string) bool {
	a := i.Attempt()
	return a != nil && a.ServerID == serverID && a.Fate != Abandoned
}

// attempt returns the attempt with an id.
func (i *Instance) attempt(id string) *Attempt {
	for n := range i.Attempts {
		if i.Attempts[n].ID == id {
			return &i.Attempts[n]
		}
	}
	return nil
}

// NextDue returns when the instance next wants attention by itself; the zero time if never.
func (i *Instance) NextDue() time.Time {
	var next time.Time
	earlier := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, t := range i.Deadlines {
		earlier(t)
	}
	for _, c := range i.Outbox {
		earlier(c.Due)
	}
	return next
}

// clone returns a copy that can be changed without changing the original. Byte slices are shared: nobody writes into them.
func (i *Instance) clone() *Instance {
	c := *i
	c.Players = maps.Clone(i.Players)
	c.Deadlines = maps.Clone(i.Deadlines)
	c.Attempts = slices.Clone(i.Attempts)
	c.Outbox = slices.Clone(i.Outbox)
	if i.Link != nil {
		link := *i.Link
		c.Link = &link
	}
	if c.Players == nil {
		c.Players = map[string]Player{}
	}
	if c.Deadlines == nil {
		c.Deadlines = map[DeadlineKind]time.Time{}
	}
	return &c
}

// gameBytes is how much data of its game an instance has.
func (i *Instance) gameBytes() int {
	return i.GameDataBytes + i.PlayersBytes + i.Result.Size + len(i.Settings)
}
