package hostapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
)

const (
	// maxRetryAfter is the longest time that a host is left alone because it said so.
	maxRetryAfter = time.Hour
	// usualRest is how long it is left alone when there were too many calls, and it does not say.
	usualRest = time.Second
)

// Refusal is an answer of a host that is no success.
type Refusal struct {
	// Host and Operation say who refused what.
	Host      string
	Operation *Operation
	// Status is that of HTTP.
	Status int
	// Header and Body are the answer's.
	Header http.Header
	Body   []byte

	secrets []string // that were sent
}

// Decode reads the body, which is JSON if the host's API and not something on the way answered.
func (r Refusal) Decode(into any) error { return json.Unmarshal(r.Body, into) }

// Failure is the failure of that reason, with the host's own words, but for the credentials that it was sent, and, where it names one, the time until a repeat.
func (r Refusal) Failure(reason providerv1.FailureReason, words string) error {
	err := provider.Failure(reason, "%s refuses to %s: %s (HTTP %d)", r.Host, r.Operation.Name, Clean(without(words, r.secrets)), r.Status)
	if after := r.RetryAfter(); after > 0 {
		err = provider.RetryAfter(err, after)
	}
	return err
}

// RetryAfter is the time that the host wants to be left alone, up to an hour; 0: it does not say.
func (r Refusal) RetryAfter() time.Duration {
	value := r.Header.Get("Retry-After")
	if seconds, err := strconv.ParseFloat(value, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		if !(seconds > 0) { // or it is no number
			return 0
		}
		return time.Duration(min(seconds, maxRetryAfter.Seconds()) * float64(time.Second)) // a larger one has no Duration
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(0, time.Until(at)), maxRetryAfter)
	}
	return 0
}

// Reason is what the status says. Nothing is NOT_FOUND but by an object of JSON, in which every host says so; a page of HTML has no refusal of the host's.
func (r Refusal) Reason() providerv1.FailureReason {
	if r.foreign() {
		return r.doubt()
	}
	switch r.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return provider.Unauthenticated
	case http.StatusPaymentRequired:
		return provider.Quota
	case http.StatusNotFound, http.StatusGone:
		if !isObject(r.Body) { // of something on the way, such as an ingress, which knows nothing of servers
			return provider.Unavailable
		}
		return provider.NotFound
	case http.StatusTooManyRequests:
		return provider.RateLimited
	case http.StatusServiceUnavailable:
		return provider.Unavailable
	}
	if r.Status >= 400 && r.Status < 500 && r.Status != http.StatusRequestTimeout {
		return provider.Invalid
	}
	return r.doubt() // it broke while at it
}

// doubt is the reason of a failure that does not say whether the host did what it was asked.
func (r Refusal) doubt() providerv1.FailureReason {
	if r.Operation.Write {
		return provider.Ambiguous
	}
	return provider.Unavailable
}

// foreign reports whether a refusal for good is a page of something on the way, such as a firewall: the host's own are JSON, or text. Such a thing may have kept back
// the host's answer as well as the call. It may speak for itself: a proxy wants credentials (407), or a call took too long (408) or is one too many (429).
func (r Refusal) foreign() bool {
	switch r.Status {
	case http.StatusNotFound, http.StatusGone, http.StatusProxyAuthRequired, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	default:
		return r.Status >= 400 && r.Status < 500 && isPage(r.Body)
	}
}

// Words are what the host says for people, as far as that can be told.
func (r Refusal) Words() string {
	var said struct {
		Message any `json:"message"`
		Error   any `json:"error"`
		Detail  any `json:"detail"`
	}
	if r.Decode(&said) == nil {
		for _, one := range []any{said.Message, said.Detail, said.Error} {
			if text, ok := one.(string); ok && text != "" {
				return text
			}
		}
	}
	return describe(r.Header, r.Body)
}

func (c *Client) explain(op *Operation, r Refusal) error {
	var err error
	if c.cfg.Explain != nil {
		err = c.cfg.Explain(r)
	}
	if err == nil || r.foreign() && believed(err) {
		err = r.Failure(r.Reason(), r.Words())
	}
	op.Heed(err)
	return err
}

// believed reports whether a failure takes a refusal for the host's word.
func believed(err error) bool {
	switch provider.ReasonOf(err) {
	case provider.Unavailable, provider.Ambiguous:
		return false
	default:
		return true
	}
}

// unanswered is the failure of a call that got no answer.
func (c *Client) unanswered(op *Operation, err error, sent bool) error {
	return Unanswered(c.cfg.Host, op, err, sent)
}

// Unanswered is the failure of a call that got no answer; sent says that the host may have it.
func Unanswered(host string, op *Operation, err error, sent bool) error {
	reason, what := provider.Unavailable, words(err)
	if sent && op.Write {
		reason = provider.Ambiguous
	}
	if !sent {
		what = "it cannot be reached: " + what
	}
	return provider.Failure(reason, "%s: %s: %s", host, op.Name, what)
}

// senseless is the failure of a call that succeeded, with an answer that makes no sense.
func (c *Client) senseless(op *Operation, what string) error {
	return Senseless(c.cfg.Host, op, what)
}

// Senseless is the failure of a call whose answer says that it succeeded, and makes no sense otherwise.
func Senseless(host string, op *Operation, what string) error {
	reason := provider.Unavailable
	if op.Write {
		reason = provider.Ambiguous
	}
	return provider.Failure(reason, "%s: %s: its answer makes no sense: %s", host, op.Name, what)
}

// words says what went wrong without the address, which is in the configuration.
func words(err error) string {
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "the call was cut off"
	default:
		return Clean(err.Error())
	}
}

// isObject reports whether a body is an object of JSON.
func isObject(body []byte) bool {
	var members map[string]json.RawMessage
	return json.Unmarshal(body, &members) == nil && members != nil
}

// isPage reports whether a body is a page of HTML or another document of that kind.
func isPage(body []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(body), []byte("<")) }

// describe says what an answer is that was to be JSON.
func describe(h http.Header, body []byte) string {
	text := strings.TrimSpace(string(body[:min(len(body), 4*maxWords)]))
	switch {
	case text == "":
		return "an empty answer"
	case isPage(body):
		return fmt.Sprintf("a page of %s in place of JSON; is it the API's address, and is there a proxy?", kindOf(h))
	default:
		return Clean(text)
	}
}

func kindOf(h http.Header) string {
	if kind, _, _ := strings.Cut(h.Get("Content-Type"), ";"); kind != "" {
		return Clean(kind)
	}
	return "HTML"
}
