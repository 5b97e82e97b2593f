// Package session knows what one connection of a game server may do and what it has been told: the order of frames, the limit on requests without
// an answer, the credentials of each frame, and how far the notifications of each linked instance are. It does no I/O.
package session

import (
	"fmt"
	"slices"
)

// Breach says that the peer broke the protocol; its connection has to end.
type Breach struct {
	// Rule is which rule was broken.
	Rule Rule
	// Message says to people what to mend.
	Message string
}

// Error implements error.
func (b *Breach) Error() string { return b.Message }

// Rule is a rule of the protocol whose breach ends a connection.
type Rule int

// The rules.
const (
	// Order: frames come in turn.
	Order Rule = iota
	// InFlight: there are no more requests without an answer than the limit.
	InFlight
	// Instances: Hello names at most MaxInstances.
	Instances
)

// MaxInstances is how many instances a server can have at once, and so how many Hello may name: the largest capacity with which a server is registered.
const MaxInstances = 1000

const (
	// maxLinks bounds the links that are kept: beside MaxInstances those of which it is not known here yet that they are over.
	maxLinks = 2 * MaxInstances
	// maxOver is how many links of instances that are over are kept where they need not be.
	maxOver = 64
)

// phase is where a connection is in its life.
type phase int

const (
	waiting phase = iota // for Hello
	opening              // Hello came, Welcome has not been sent
	open
)

// Session is the state of one connection. It is not safe for concurrent use.
type Session struct {
	phase       phase
	maxInFlight int
	inFlight    int
	links       map[string]*link // by instance id; bounded by maxLinks and the requests in flight
	over        int              // of them, those whose instances are over
}

// New returns the state of a fresh connection, on which maxInFlight requests may wait for an answer.
func New(maxInFlight int) *Session { return &Session{maxInFlight: maxInFlight} }

// Hello records that Hello came, and names so many instances.
func (s *Session) Hello(instances int) *Breach {
	switch {
	case s.phase != waiting:
		return &Breach{Order, "Hello was sent twice; it comes once, as the first frame"}
	case instances > MaxInstances:
		return &Breach{Instances, fmt.Sprintf("Hello names %d instances, and a server can have %d at once; leave out those that are over", instances, MaxInstances)}
	}
	s.phase = opening
	return nil
}

// Open records that the session was accepted, with the instances that go on over this connection.
func (s *Session) Open(links []Link) {
	s.phase = open
	for _, l := range links {
		s.Linked(l)
	}
}

// Request records that a request came.
func (s *Session) Request(id int64) *Breach {
	switch {
	case s.phase != open:
		return &Breach{Order, "a request came before Hello was answered with Welcome"}
	case id < 1:
		return &Breach{Order, "a request's id must be 1 or higher"}
	case s.inFlight >= s.maxInFlight:
		return &Breach{InFlight, "too many requests without an answer; Welcome says how many are allowed"}
	}
	s.inFlight++
	return nil
}

// Message records that a message came that has no answer.
func (s *Session) Message() *Breach {
	if s.phase != open {
		return &Breach{Order, "a message came before Hello was answered with Welcome"}
	}
	return nil
}

// InFlight returns how many requests have no answer yet.
func (s *Session) InFlight() int { return s.inFlight }

// Answered records that a request was answered.
func (s *Session) Answered() { s.inFlight-- }

// Instances returns the ids of the linked instances, sorted.
func (s *Session) Instances() []string {
	ids := make([]string, 0, len(s.links))
	for id := range s.links {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
