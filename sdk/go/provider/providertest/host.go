package providertest

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
)

// ErrUnsupported is what a Host answers that cannot do something. The check is skipped then.
var ErrUnsupported = errors.New("this host cannot be made to")

// inapplicable is why a host cannot do something.
type inapplicable string

func (why inapplicable) Error() string    { return string(why) }
func (inapplicable) Is(target error) bool { return target == ErrUnsupported }

// NotApplicable is what a Host answers instead of [ErrUnsupported] where there is nothing of the kind behind the provider, however good the test: the check
// is skipped, and the result says why.
func NotApplicable(why string) error { return inapplicable(why) }

// Host makes the host behind a provider misbehave, and looks into it. What a method begins lasts until Heal, for each call of the provider in that time. Embed
// [Unsupported] and implement what your host can do.
type Host interface {
	// Throttle refuses all calls because there were too many, and says that a repeat makes sense after that time. Allocate is the one that is called.
	Throttle(ctx context.Context, after time.Duration) error
	// Exhaust has no room for another server.
	Exhaust(ctx context.Context) error
	// Quota refuses another server because of a quota or a bill.
	Quota(ctx context.Context) error
	// Refuse refuses the provider's credentials.
	Refuse(ctx context.Context) error
	// Down cannot be reached, or says that it is away.
	Down(ctx context.Context) error
	// Garble answers with what is no answer. What was asked may or may not be done. It is asked several times: there are many ways, such as half of an answer, or
	// the page of a proxy.
	Garble(ctx context.Context) error
	// LoseReply does what it is asked, and the answer does not arrive.
	LoseReply(ctx context.Context) error
	// Duplicate gets each request twice.
	Duplicate(ctx context.Context) error
	// Late does what it is asked after that time, whether or not somebody still waits for the answer.
	Late(ctx context.Context, after time.Duration) error
	// Slow answers after that time only.
	Slow(ctx context.Context, by time.Duration) error
	// Hang answers nothing and does nothing.
	Hang(ctx context.Context) error
	// Heal ends all that.
	Heal(ctx context.Context) error

	// Bootstrap returns what the attempt's server got as its bootstrap document. It may wait until the server has it.
	Bootstrap(ctx context.Context, attempt string) ([]byte, error)
	// Started returns how many servers were ever started for the attempt.
	Started(ctx context.Context, attempt string) (int, error)
}

// Unsupported is a Host that can do nothing.
type Unsupported struct{}

var _ Host = Unsupported{}

// Throttle implements Host.
func (Unsupported) Throttle(context.Context, time.Duration) error { return ErrUnsupported }

// Exhaust implements Host.
func (Unsupported) Exhaust(context.Context) error { return ErrUnsupported }

// Quota implements Host.
func (Unsupported) Quota(context.Context) error { return ErrUnsupported }

// Refuse implements Host.
func (Unsupported) Refuse(context.Context) error { return ErrUnsupported }

// Down implements Host.
func (Unsupported) Down(context.Context) error { return ErrUnsupported }

// Garble implements Host.
func (Unsupported) Garble(context.Context) error { return ErrUnsupported }

// LoseReply implements Host.
func (Unsupported) LoseReply(context.Context) error { return ErrUnsupported }

// Duplicate implements Host.
func (Unsupported) Duplicate(context.Context) error { return ErrUnsupported }

// Late implements Host.
func (Unsupported) Late(context.Context, time.Duration) error { return ErrUnsupported }

// Slow implements Host.
func (Unsupported) Slow(context.Context, time.Duration) error { return ErrUnsupported }

// Hang implements Host.
func (Unsupported) Hang(context.Context) error { return ErrUnsupported }

// Heal implements Host.
func (Unsupported) Heal(context.Context) error { return ErrUnsupported }

// Bootstrap implements Host.
func (Unsupported) Bootstrap(context.Context, string) ([]byte, error) { return nil, ErrUnsupported }

// Started implements Host.
func (Unsupported) Started(context.Context, string) (int, error) { return 0, ErrUnsupported }

// bootstrapSize is about what a real document has: two tokens make most of it.
const bootstrapSize = 2560

// awkward is text that a shell, a template or a wrong encoding on the way to the server would change.
const awkward = "“ünï-çødé” 'single' \"double\" `tick` $HOME ${HOME} %PATH% \\ \\n <tag> & ; | * ? ~ #\ttab\r\nline\u2028end 日本語 🎮"

// Bootstrap returns a document of 2.5 KB that has what servers need, and text that is easily mangled on the way. Its tokens are none and its gateway is nowhere.
func Bootstrap(attempt, instance string) []byte {
	document := struct {
		bootstrap.Document
		Note string `json:"note"`
	}{
		Document: bootstrap.Document{
			Version: bootstrap.Version, Namespace: "default", Instance: instance, Server: attempt, Gateway: "http://127.0.0.1:9", Social: "social." + bootstrap.Secret(random(100)),
		},
		Note: awkward,
	}
	document.Game = "game"
	raw, _ := json.Marshal(document) // these types have a JSON form
	document.Game += bootstrap.Secret(strings.Repeat("x", max(0, bootstrapSize-len(raw))))
	raw, _ = json.Marshal(document)
	return raw
}
