package gameservertest

import (
	"slices"
	"time"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// faults are what goes wrong next. They are guarded by the backend's mu.
type faults struct {
	refusals         []Refusal
	failures         []failure
	cuts             []cutting
	expired, revoked bool
	forgetLink       bool
}

type failure struct {
	reason     string
	retryAfter time.Duration
}

type when int

const (
	notAtAll when = iota
	cutBeforeEffect
	cutBeforeAnswer
	cutAfterAnswer
)

type cutting struct {
	method string
	when   when
}

// cutFor returns when the connection is to be cut over a request of a method.
func (f *faults) cutFor(method string) when {
	i := slices.IndexFunc(f.cuts, func(c cutting) bool { return c.method == method })
	if i < 0 {
		return notAtAll
	}
	c := f.cuts[i]
	f.cuts = slices.Delete(f.cuts, i, i+1)
	return c.when
}

// faulty returns what a request is to be refused with, if it is. The caller holds mu.
func (b *Backend) faulty(method string) *linkv1.Error {
	f := &b.faults
	switch {
	case f.revoked:
		return refusal(reasonRevoked, "auth: the tokens were revoked")
	case f.expired && method != methodRefresh:
		return refusal(reasonExpired, "auth: the tokens have expired; refresh them")
	case len(f.failures) == 0:
		return nil
	}
	next := f.failures[0]
	f.failures = f.failures[1:]
	out := refusal(next.reason, "refused by the test's backend")
	if next.retryAfter > 0 {
		out.RetryAfter = durationpb.New(next.retryAfter)
	}
	return out
}

// inject changes what goes wrong next.
func (b *Backend) inject(f func(*faults)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.faults)
	b.notify()
}

// Fail answers the next n requests with a reason of docs/errors.md, such as "STORE_UNAVAILABLE", and with a time after which a repeat makes sense,
// if that is not 0. None of them takes effect.
func (b *Backend) Fail(n int, reason string, retryAfter time.Duration) {
	b.inject(func(f *faults) {
		for range n {
			f.failures = append(f.failures, failure{reason, retryAfter})
		}
	})
}

// RefuseConnections refuses the next n tries to connect.
func (b *Backend) RefuseConnections(n int, how Refusal) {
	if how.Reason == "" {
		how.Reason = reasonUnavailable
	}
	b.inject(func(f *faults) {
		for range n {
			f.refusals = append(f.refusals, how)
		}
	})
}

// LoseRequest cuts the connection when the next request of a method comes, before it takes effect: it was lost on the way.
func (b *Backend) LoseRequest(method string) { b.cutAt(method, cutBeforeEffect) }

// LoseAnswer cuts the connection when the next request of a method has taken effect, before it is answered.
func (b *Backend) LoseAnswer(method string) { b.cutAt(method, cutBeforeAnswer) }

// CutAfter cuts the connection when the next request of a method was answered.
func (b *Backend) CutAfter(method string) { b.cutAt(method, cutAfterAnswer) }

func (b *Backend) cutAt(method string, at when) {
	b.inject(func(f *faults) { f.cuts = append(f.cuts, cutting{method, at}) })
}

// ForgetLink has Berth not know the link any more when the server connects again: it is not in welcome, and the server has to link anew.
func (b *Backend) ForgetLink() { b.inject(func(f *faults) { f.forgetLink = true }) }

// ExpireTokens has the tokens expire. Until they are refreshed, requests and new connections are refused with CREDENTIALS_EXPIRED.
func (b *Backend) ExpireTokens() { b.inject(func(f *faults) { f.expired = true }) }

// Revoke revokes the tokens, and closes the connection for that.
func (b *Backend) Revoke() {
	b.inject(func(f *faults) { f.revoked = true })
	b.Goodbye(linkv1.CloseCode_CLOSE_CODE_REVOKED)
}

// LoseStore has Berth know the instance no more, as after the loss of its store: every request about it is answered INSTANCE_UNKNOWN.
func (b *Backend) LoseStore() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.match.lost = true
	b.notify()
}

// current runs f with the connection that there is, if there is one.
func (b *Backend) current(f func(*conn)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.session.conn; c != nil {
		f(c)
	}
	b.notify()
}

// Disconnect cuts the connection, if there is one, without a word, after what was said over it.
func (b *Backend) Disconnect() { b.current(func(c *conn) { c.cut() }) }

// Goodbye says goodbye with a close code, and closes the connection with it. The code says whether the server is to come back.
func (b *Backend) Goodbye(code linkv1.CloseCode) {
	b.current(func(c *conn) { c.bye(code, "said by the test's backend") })
}

// Silence has the gateway say nothing any more over the connection, pings included, and hear nothing. The connection is not closed.
func (b *Backend) Silence() { b.current(func(c *conn) { c.silent = true }) }

// Move asks the server to open its next connection before it leaves this one, which gets Goodbye with GOING_AWAY when the deadline is over.
func (b *Backend) Move(notBefore, deadline time.Duration) {
	b.current(func(c *conn) {
		c.send(&linkv1.Frame{Kind: &linkv1.Frame_Move{Move: &linkv1.Move{NotBefore: durationpb.New(notBefore), Deadline: durationpb.New(deadline)}}})
		if c.move != nil {
			c.move.Stop()
		}
		c.move = time.AfterFunc(deadline, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if c.phase == open && !c.finished {
				c.bye(linkv1.CloseCode_CLOSE_CODE_GOING_AWAY, "the time to move is over")
			}
		})
	})
}

// Redeliver sends the newest notification again, as Berth does that has not heard an acknowledgement. The server must take it for the one that it has.
func (b *Backend) Redeliver() {
	b.current(func(c *conn) {
		if c.linked && b.match.last != nil {
			c.deliver(b.match.last)
		}
	})
}

// SendUnknown sends a frame of a kind of a later version, which the server must ignore.
func (b *Backend) SendUnknown() {
	b.current(func(c *conn) { c.queue(outgoing{raw: c.codec.Unknown()}) })
}
