package session

// Link is how an instance is linked through the connection.
type Link struct {
	// Instance is the instance's id.
	Instance string
	// Epoch numbers the instance's links.
	Epoch int64
	// Offset is up to where the server has, or needs not have, the notifications.
	Offset int64
}

// Position is a place in an instance's mailbox.
type Position struct {
	// Instance is the instance's id.
	Instance string
	// Epoch is that of the link.
	Epoch int64
	// Offset is the place.
	Offset int64
}

// Verdict says what to do with a notification that was published.
type Verdict int

// The verdicts.
const (
	// Drop it: the instance is not linked here, the server has it, or a pull that is under way or due brings it.
	Drop Verdict = iota
	// Send it: it is the next one.
	Send
	// Pull: some are missing before it; read the mailbox.
	Pull
)

// link is how far the notifications of one instance are. A mailbox is read by one pull at a time.
type link struct {
	instance string
	epoch    int64
	start    int64 // the offset up to which the server had everything when it linked
	sent     int64 // the offset last sent on this connection
	acked    int64 // the offset last acknowledged on it
	over     bool  // the instance is over: nothing new will happen to it
	pull     pullState
	seen     int64 // the highest offset that was dropped during a pull
	again    bool  // the pull under way may have read what a new start of the sequence has changed since
	linking  int   // how many requests to link it anew have no answer yet
}

// settled reports whether the server has dealt with all that was sent.
func (l *link) settled() bool { return l.pull == idle && (l.sent <= l.start || l.sent <= l.acked) }

type pullState int

const (
	idle pullState = iota
	pulling
	paused // until the connection has room for what the mailbox holds
)

// Linked starts an instance's notifications after the link's offset. An answer that says the same link again only moves it forward, and one of an
// older link changes nothing.
func (s *Session) Linked(l Link) {
	if old, ok := s.links[l.Instance]; ok && old.epoch >= l.Epoch {
		if old.epoch == l.Epoch {
			old.start, old.sent = max(old.start, l.Offset), max(old.sent, l.Offset)
		}
		return
	}
	s.drop(l.Instance)
	if s.links == nil {
		s.links = make(map[string]*link)
	}
	s.links[l.Instance] = &link{instance: l.Instance, epoch: l.Epoch, start: l.Offset, sent: l.Offset}
}

// Hold says that a linked instance is being linked anew. Until Release none of its notifications is sent: one that happened after the start data must not
// come before it, since the server would take older data for newer, and acknowledge what it has to be sent again. Hold returns the epoch of the link for
// Release; 0 when the instance is not linked here.
func (s *Session) Hold(instance string) (epoch int64) {
	l, ok := s.links[instance]
	if !ok {
		return 0
	}
	l.linking++
	return l.epoch
}

// Release ends a Hold, after Linked where there is new start data. What was held back has to be pulled then.
func (s *Session) Release(instance string, epoch int64) {
	l, ok := s.links[instance]
	if !ok || l.epoch != epoch || l.linking == 0 {
		return
	}
	l.linking--
	l.again = l.again || l.pull == pulling
}

// Epoch returns the epoch of an instance's link; 0 when it is not linked here.
func (s *Session) Epoch(instance string) int64 {
	if l, ok := s.links[instance]; ok {
		return l.epoch
	}
	return 0
}

// LinkedUnder returns the id of an instance if it is linked here under the epoch. It allocates nothing.
func (s *Session) LinkedUnder(instance []byte, epoch int64) (id string, ok bool) {
	l, ok := s.links[string(instance)]
	if !ok || l.epoch != epoch {
		return "", false
	}
	return l.instance, true
}

// Live reports whether an instance is linked here and not known to be over.
func (s *Session) Live(instance string) bool {
	l, ok := s.links[instance]
	return ok && !l.over
}

// Full reports whether there is no room for a link of an instance. One that is linked already has its place.
func (s *Session) Full(instance string) bool {
	return len(s.links) >= maxLinks && s.links[instance] == nil
}

// Unlinked ends an instance's notifications if its link still is the one of this epoch.
func (s *Session) Unlinked(instance string, epoch int64) bool {
	l, ok := s.links[instance]
	if !ok || l.epoch != epoch {
		return false
	}
	s.drop(instance)
	return true
}

// Over records that an instance whose link is the one of this epoch is over. The link stays, because there may be notifications to acknowledge and the end
// of the connection to be told; but a server that plays one match after the other must not gather links. So from time to time, when there are many,
// those that are settled are dropped. Over returns their instances.
func (s *Session) Over(instance string, epoch int64) (dropped []string) {
	l, ok := s.links[instance]
	if !ok || l.epoch != epoch || l.over {
		return nil
	}
	l.over = true
	s.over++
	if s.over <= maxOver {
		return nil
	}
	for id, l := range s.links {
		if l.over && l.settled() {
			s.drop(id)
			dropped = append(dropped, id)
		}
	}
	return dropped
}

// drop forgets a link, if there is one.
func (s *Session) drop(instance string) {
	if l, ok := s.links[instance]; ok && l.over {
		s.over--
	}
	delete(s.links, instance)
}

// Offer asks what to do with a published notification and, where it is to be sent, records that.
func (s *Session) Offer(instance string, offset, previous int64) Verdict {
	l, ok := s.links[instance]
	switch {
	case !ok, offset <= l.sent:
		return Drop
	case l.pull != idle, l.linking > 0:
		l.seen = max(l.seen, offset)
		return Drop
	case previous > l.sent:
		return Pull
	default:
		// An entry whose predecessor lies before what was sent follows as well: a link starts at the head of the sequence, not at an entry.
		l.sent = offset
		return Send
	}
}

// StartPull begins a pull and returns after which place to read; false when the instance is not linked or held, or a pull is under way.
func (s *Session) StartPull(instance string) (Position, bool) {
	l, ok := s.links[instance]
	if !ok || l.pull != idle || l.linking > 0 {
		return Position{}, false
	}
	l.pull, l.seen, l.again = pulling, 0, false
	return Position{instance, l.epoch, l.sent}, true
}

// Accept reports whether a pulled notification is to be sent, and records that it is. The mailbox is the authority: it is not checked for gaps.
func (s *Session) Accept(at Position, offset int64) bool {
	l, ok := s.links[at.Instance]
	if !ok || l.epoch != at.Epoch || l.linking > 0 || offset <= l.sent {
		return false
	}
	l.sent = offset
	return true
}

// EndPull ends a pull, and reports whether another one is needed because more was published, or the instance was linked anew, meanwhile.
func (s *Session) EndPull(at Position) (again bool) {
	l, ok := s.links[at.Instance]
	if !ok || l.epoch != at.Epoch {
		return false
	}
	l.pull = idle
	return l.again || l.seen > l.sent
}

// PausePull ends a pull whose rest has no room on the connection; ResumePull goes on.
func (s *Session) PausePull(at Position) {
	if l, ok := s.links[at.Instance]; ok && l.epoch == at.Epoch {
		l.pull = paused
	}
}

// ResumePull lets at most n paused pulls start again and returns their instances.
func (s *Session) ResumePull(n int) []string {
	var instances []string
	for id, l := range s.links {
		if len(instances) == n {
			break
		}
		if l.pull == paused {
			l.pull = idle
			instances = append(instances, id)
		}
	}
	return instances
}

// Ack records an acknowledgement. It returns false when the instance is not linked here.
//
// What is above all that was sent is remembered, and counts once it was sent: a server may finish with a notification of the connection before, but what
// it was never given must not be dropped for its word.
func (s *Session) Ack(instance string, offset int64) (Position, bool) {
	l, ok := s.links[instance]
	if !ok {
		return Position{}, false
	}
	l.acked = max(l.acked, offset)
	return s.Acked(instance)
}

// Acked returns what was last acknowledged on this connection; false when nothing was.
func (s *Session) Acked(instance string) (Position, bool) {
	l, ok := s.links[instance]
	if !ok {
		return Position{}, false
	}
	known := min(l.acked, l.sent)
	return Position{instance, l.epoch, known}, known > 0
}
