package session_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/services/gateway/internal/session"
)

// machine drives a session with the frames and events of a connection, as wsserver does, and checks after each what always holds.
type machine struct {
	t         rapid.TB
	s         *session.Session
	greeted   bool
	open      bool
	inFlight  int
	instances map[string]*mailbox
}

// mailbox is an instance as the services know it.
type mailbox struct {
	epoch   int64              // of the link here; 0: none
	last    int64              // the highest epoch that there was
	newest  int64              // the last offset of the mailbox
	sent    int64              // what the server has
	pulling *session.Position  // the read that is under way
	until   int64              // what it will bring
	stale   []session.Position // reads for links that are no more
	holds   []int64            // epochs under which it is being linked anew, answers outstanding
}

// held reports whether the server may be sent nothing for now.
func (b *mailbox) held() bool { return b.epoch != 0 && slices.Contains(b.holds, b.epoch) }

const maxInFlight = 3

func newMachine(t rapid.TB) *machine {
	m := &machine{t: t, s: session.New(maxInFlight), instances: make(map[string]*mailbox)}
	for _, id := range []string{"a", "b", "c"} {
		m.instances[id] = new(mailbox)
	}
	return m
}

// step does one thing. op says what, arg with which number.
func (m *machine) step(op, arg byte) {
	id := string(rune('a' + op/32%3))
	box := m.instances[id]
	switch op % 16 {
	case 0:
		m.hello(int(arg) * 8)
	case 1:
		m.welcome(id, box)
	case 2:
		m.request(int64(arg) - 8)
	case 3:
		if m.inFlight > 0 {
			m.s.Answered()
			m.inFlight--
		}
	case 4:
		m.link(id, box, int64(arg%4)-1)
	case 5:
		m.unlink(id, box, int64(arg%3)-1)
	case 6:
		for _, gone := range m.s.Over(id, m.s.Epoch(id)) {
			m.instances[gone].moveTo(0)
		}
	case 7:
		box.newest += 1 + int64(arg%3)
	case 8: // published, perhaps late, perhaps twice, perhaps with others lost before it
		m.offer(id, box, box.newest-int64(arg%4), box.newest-int64(arg%8))
	case 9:
		m.hold(id, box)
	case 10:
		m.startPull(id, box)
	case 11:
		m.endPull(id, box, int64(arg))
	case 12:
		m.release(id, box, arg%2 == 0)
	case 13:
		for _, resumed := range m.s.ResumePull(int(arg % 3)) {
			m.startPull(resumed, m.instances[resumed])
		}
	default:
		m.ack(id, box, box.newest+int64(arg)-128)
	}
	m.check()
}

// moveTo begins another link, or none. A read for the one before may still end.
func (b *mailbox) moveTo(epoch int64) {
	if b.pulling != nil {
		b.stale = append(b.stale, *b.pulling)
	}
	b.epoch, b.last, b.pulling = epoch, max(b.last, epoch), nil
}

func (m *machine) hello(instances int) {
	breach := m.s.Hello(instances)
	if want := m.greeted || instances > session.MaxInstances; want != (breach != nil) {
		m.t.Fatalf("hello of %d: %v", instances, breach)
	}
	m.greeted = m.greeted || breach == nil
}

func (m *machine) welcome(id string, box *mailbox) {
	if !m.greeted || m.open { // wsserver welcomes once, after hello
		return
	}
	m.open = true
	box.moveTo(1)
	box.sent = box.newest
	m.s.Open([]session.Link{{Instance: id, Epoch: 1, Offset: box.newest}})
}

func (m *machine) request(number int64) {
	breach := m.s.Request(number)
	switch {
	case !m.open || number < 1:
		if breach == nil || breach.Rule != session.Order {
			m.t.Fatalf("request %d out of turn: %v", number, breach)
		}
	case m.inFlight == maxInFlight:
		if breach == nil || breach.Rule != session.InFlight {
			m.t.Fatalf("one too many: %v", breach)
		}
	case breach != nil:
		m.t.Fatalf("request %d: %v", number, breach)
	default:
		m.inFlight++
	}
}

// link links an instance anew, again, or with the answer of an older link that comes late.
func (m *machine) link(id string, box *mailbox, ahead int64) {
	if !m.open {
		return
	}
	epoch := box.epoch + ahead
	if box.epoch == 0 { // nobody gives an epoch twice
		epoch = box.last + 1
	}
	m.s.Linked(session.Link{Instance: id, Epoch: epoch, Offset: box.newest})
	switch {
	case epoch > box.epoch:
		box.moveTo(epoch)
		box.sent = box.newest
	case epoch == box.epoch:
		box.sent = max(box.sent, box.newest)
	}
}

// hold begins to link an instance anew.
func (m *machine) hold(id string, box *mailbox) {
	epoch := m.s.Hold(id)
	if epoch != box.epoch {
		m.t.Fatalf("%s is held under epoch %d, and has %d", id, epoch, box.epoch)
	}
	if epoch != 0 {
		box.holds = append(box.holds, epoch)
	}
}

// release is the answer to that, with new start data or with a refusal.
func (m *machine) release(id string, box *mailbox, linked bool) {
	if len(box.holds) == 0 {
		return
	}
	epoch := box.holds[0]
	box.holds = box.holds[1:]
	if linked && epoch == box.epoch {
		m.link(id, box, 0)
	}
	m.s.Release(id, epoch)
	m.startPull(id, box)
}

func (m *machine) unlink(id string, box *mailbox, ahead int64) {
	was := box.epoch != 0
	done := m.s.Unlinked(id, box.epoch+ahead)
	if done != (was && ahead == 0) {
		m.t.Fatalf("unlinked by epoch %+d: %v", ahead, done)
	}
	if done {
		box.moveTo(0)
	}
}

func (m *machine) offer(id string, box *mailbox, offset, previous int64) {
	switch m.s.Offer(id, offset, min(previous, offset-1)) {
	case session.Send:
		m.sends(id, box, offset)
	case session.Pull:
		m.startPull(id, box)
	case session.Drop:
	}
}

// sends is a notification that goes out.
func (m *machine) sends(id string, box *mailbox, offset int64) {
	if box.epoch == 0 || box.held() || offset <= box.sent {
		m.t.Fatalf("%s: %d is sent after %d, over a link of epoch %d, held: %v", id, offset, box.sent, box.epoch, box.held())
	}
	box.sent = offset
}

func (m *machine) startPull(id string, box *mailbox) {
	at, ok := m.s.StartPull(id)
	if !ok {
		return
	}
	if box.pulling != nil || box.held() {
		m.t.Fatalf("%s is read twice at a time, or while it is held", id)
	}
	if at != (session.Position{Instance: id, Epoch: box.epoch, Offset: box.sent}) {
		m.t.Fatalf("%s is read from %v, and the server has %d of epoch %d", id, at, box.sent, box.epoch)
	}
	box.pulling, box.until = &at, box.newest
}

// endPull brings some of what was read, and finds no room for the rest.
func (m *machine) endPull(id string, box *mailbox, room int64) {
	for _, at := range box.stale {
		if m.s.Accept(at, box.newest+1) || m.s.EndPull(at) {
			m.t.Fatalf("%s: what was read for epoch %d is taken in epoch %d", id, at.Epoch, box.epoch)
		}
		m.s.PausePull(at)
	}
	box.stale = nil
	if box.pulling == nil {
		return
	}
	at := *box.pulling
	box.pulling = nil
	for offset := at.Offset + 1; offset <= box.until; offset++ {
		if room--; room < 0 {
			m.s.PausePull(at)
			return
		}
		if m.s.Accept(at, offset) {
			m.sends(id, box, offset)
		}
	}
	if m.s.EndPull(at) {
		m.startPull(id, box)
	}
}

func (m *machine) ack(id string, box *mailbox, offset int64) {
	at, ok := m.s.Ack(id, offset)
	if ok && box.epoch == 0 || !ok && box.epoch != 0 && min(offset, box.sent) > 0 {
		m.t.Fatalf("%s of epoch %d, of which %d was sent, is acknowledged up to %d: %v", id, box.epoch, box.sent, offset, ok)
	}
	if ok && (at.Epoch != box.epoch || at.Offset > box.sent) {
		m.t.Fatalf("%s: %v is passed on, and %d was sent of epoch %d", id, at, box.sent, box.epoch)
	}
}

// check holds after each step.
func (m *machine) check() {
	var linked []string
	for id, box := range m.instances {
		if box.epoch != 0 {
			linked = append(linked, id)
		}
		if got := m.s.Epoch(id); got != box.epoch {
			m.t.Fatalf("%s has epoch %d, want %d", id, got, box.epoch)
		}
		if m.s.Live(id) && box.epoch == 0 {
			m.t.Fatalf("%s lives without a link", id)
		}
		if at, ok := m.s.Acked(id); ok && (box.epoch == 0 || at.Offset > box.sent) {
			m.t.Fatalf("%s: %v counts as acknowledged, and %d was sent", id, at, box.sent)
		}
	}
	slices.Sort(linked)
	if got := m.s.Instances(); !slices.Equal(got, linked) {
		m.t.Fatalf("linked are %v, want %v", got, linked)
	}
}

// heal does what reminders do, after which every server has everything.
func (m *machine) heal() {
	for id, box := range m.instances {
		for len(box.holds) > 0 {
			m.release(id, box, true)
		}
		for range 3 {
			for _, resumed := range m.s.ResumePull(len(m.instances)) {
				m.startPull(resumed, m.instances[resumed])
			}
			m.startPull(id, box)
			m.endPull(id, box, 1<<40)
		}
		if box.epoch != 0 && box.sent != box.newest {
			m.t.Fatalf("%s has %d entries, and %d arrived", id, box.newest, box.sent)
		}
		m.check()
	}
}

// Whatever frames, answers, notifications and reads come in whatever order: frames out of turn are breaches, what is sent is in order and once, a mailbox is
// read once at a time, nothing is acknowledged that was not sent, and at last everything has arrived. Two bytes are a step.
func FuzzSession(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x00\x00\x01\x00\x02\x09\x02\x0a\x02\x0b\x02\x0c\x03\x00\x02\x0d"))                 // hello, welcome, requests, one too many
	f.Add([]byte("\x02\x09\x00\xff\x00\x00\x00\x00\x02\x09"))                                         // out of turn
	f.Add([]byte("\x00\x00\x01\x00\x07\x00\x08\x00\x07\x00\x07\x00\x08\x00\x0b\xff\x0e\x80\x0e\xff")) // a gap, a read, acks
	f.Add([]byte("\x00\x00\x01\x00\x07\x02\x0a\x00\x07\x02\x0b\x01\x0d\x02\x0b\xff\x04\x03\x05\x01")) // a read without room, linked anew, unlinked
	f.Add([]byte("\x00\x00\x01\x00\x24\x02\x27\x01\x28\x03\x2a\x00\x2b\x00\x26\x00\x44\x02\x46\x00")) // several instances, one of them over
	f.Add([]byte("\x00\x00\x01\x00\x07\x00\x0a\x00\x09\x00\x0b\xff\x07\x01\x0c\x00\x0b\xff\x0c\x01")) // linked anew while it is read
	f.Fuzz(func(t *testing.T, steps []byte) {
		play(t, steps)
	})
}

// The same of connections that are open, with other steps at each run of the tests.
func TestASessionKeepsItsWord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		play(t, append([]byte{0, 0, 1, 0}, rapid.SliceOfN(rapid.Byte(), 200, 400).Draw(t, "steps")...))
	})
}

// play takes the steps, and heals.
func play(t rapid.TB, steps []byte) {
	m := newMachine(t)
	for ; len(steps) >= 2; steps = steps[2:] {
		m.step(steps[0], steps[1])
	}
	m.heal()
}
