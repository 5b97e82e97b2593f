package gameservertest

import (
	"fmt"
	"slices"
	"strings"

	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/protobuf/proto"
)

// Call is a request that came.
type Call struct {
	// Number is the request's number.
	Number int64
	// Method is the rpc of GameServerService, such as "EndGameInstance".
	Method string
	// Request is the rpc's request message, such as *gameserverv1.EndGameInstanceRequest; nil if it could not be read. Do not change it.
	Request proto.Message
	// Repeated says that the request came before under this number, and was sent again.
	Repeated bool
	// Answered says that the request was answered over the connection that it came over; if not, that was cut.
	Answered bool
	// Reason is what the request was refused with; "" for success.
	Reason string
	// Connection is the connection that it came over, counted from 1.
	Connection int

	payload []byte
	session string
}

// String says what the call was, for messages.
func (c Call) String() string {
	var more string
	if c.Repeated {
		more += ", repeated"
	}
	if c.Reason != "" {
		more += ", " + c.Reason
	}
	if !c.Answered {
		more += ", not answered"
	}
	return fmt.Sprintf("%d %s%s", c.Number, c.Method, more)
}

// Message is what the game server has sent to its backends.
type Message struct {
	// Topic is what it is about.
	Topic string
	// Data is what it says.
	Data *typev1.Data
	// Ephemeral says that it may be lost on the way: it came as a Message frame, and not as a SendMessage.
	Ephemeral bool
}

// Calls returns the requests that have come so far, in order, repeats and refused ones included.
func (b *Backend) Calls() []Call {
	b.mu.Lock()
	defer b.mu.Unlock()
	calls := make([]Call, 0, len(b.calls))
	for _, c := range b.calls {
		calls = append(calls, *c)
	}
	return calls
}

// Methods returns the methods of the requests that took effect so far, in order: what a test compares with what it wants to see.
func (b *Backend) Methods() []string {
	var methods []string
	for _, c := range b.Calls() {
		if c.Reason == "" && !c.Repeated {
			methods = append(methods, c.Method)
		}
	}
	return methods
}

// Messages returns what the game server has said so far: first what it sent with SendMessage, then ephemeral messages, each in order.
func (b *Backend) Messages() []Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append(slices.Clone(b.match.posted), b.messages...)
}

// Instance returns the instance as it is now.
func (b *Backend) Instance() *instancev1.GameInstance {
	b.mu.Lock()
	defer b.mu.Unlock()
	return proto.CloneOf(b.match.in)
}

// Result returns the result that the game was ended with; nil before that, or if it has none.
func (b *Backend) Result() *typev1.Data { return b.Instance().GetResult() }

// Connections returns how many connections there were so far.
func (b *Backend) Connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened
}

// Violations returns what the game server did against the protocol, which has failed the test already.
func (b *Backend) Violations() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.broken)
}

// WaitForCall waits for the next call of a method that took no part in an earlier WaitForCall, and returns it. Refused and repeated ones count.
func (b *Backend) WaitForCall(method string) Call {
	b.tb.Helper()
	var found Call
	b.await(func() string {
		return fmt.Sprintf("no (further) call of %s came. What came: %s", method, b.told())
	}, func() bool {
		seen := 0
		for _, c := range b.calls {
			if c.Method != method {
				continue
			}
			if seen++; seen > b.awaited[method] {
				b.awaited[method], found = seen, *c
				return true
			}
		}
		return false
	})
	return found
}

// WaitForState waits until the instance is in a state, and returns it.
func (b *Backend) WaitForState(state instancev1.GameInstance_State) *instancev1.GameInstance {
	b.tb.Helper()
	return b.WaitFor(state.String(), func(in *instancev1.GameInstance) bool { return in.GetState() == state })
}

// WaitFor waits until a condition holds for the instance, and returns it. what says in messages what is waited for. The condition must not change
// the instance, and not call the backend.
func (b *Backend) WaitFor(what string, condition func(*instancev1.GameInstance) bool) *instancev1.GameInstance {
	b.tb.Helper()
	var found *instancev1.GameInstance
	b.await(func() string {
		return fmt.Sprintf("the instance did not become %s; it is %s. What came: %s", what, b.match.stateName(), b.told())
	}, func() bool {
		if !condition(b.match.in) {
			return false
		}
		found = proto.CloneOf(b.match.in)
		return true
	})
	return found
}

// WaitForConnection waits until the server is connected, and so many connections were made in all: after the first Disconnect, 2.
func (b *Backend) WaitForConnection(n int) {
	b.tb.Helper()
	b.await(func() string {
		return fmt.Sprintf("there were %d connections, not %d. What came: %s", b.opened, n, b.told())
	}, func() bool { return b.opened >= n && b.session.conn != nil })
}

// WaitForAcks waits until the server has acknowledged everything that was sent to it: until its game has dealt with it.
func (b *Backend) WaitForAcks() {
	b.tb.Helper()
	b.await(func() string {
		return fmt.Sprintf("the server has not acknowledged %v", b.unacknowledged())
	}, func() bool { return b.match.taken != "" || len(b.match.mailbox) == 0 })
}

// WaitForMessage waits until the server has said something about a topic, and returns the first of it.
func (b *Backend) WaitForMessage(topic string) Message {
	b.tb.Helper()
	var found Message
	b.await(func() string {
		return fmt.Sprintf("nothing was said about %q. What came: %s", topic, b.told())
	}, func() bool {
		all := append(slices.Clone(b.match.posted), b.messages...)
		i := slices.IndexFunc(all, func(m Message) bool { return m.Topic == topic })
		if i >= 0 {
			found = all[i]
		}
		return i >= 0
	})
	return found
}

// WaitForLeave waits until the server has closed its connection with 1000, as one does that is done.
func (b *Backend) WaitForLeave() {
	b.tb.Helper()
	b.await(func() string { return "the server has not left. What came: " + b.told() }, func() bool { return b.session.left })
}

// told lists the calls, for messages. The caller holds mu.
func (b *Backend) told() string {
	if len(b.calls) == 0 {
		return fmt.Sprintf("no request, over %d connections", b.opened)
	}
	lines := make([]string, 0, len(b.calls))
	for _, c := range b.calls {
		lines = append(lines, c.String())
	}
	return strings.Join(lines, "; ")
}
