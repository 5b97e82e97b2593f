// Package audit records who was refused and who changed something, from where and with which outcome: as lines on standard output, and in a bounded
// stream in Redis from which it can be read. It never holds a call up, and never has a secret.
package audit

import (
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// Entry is one act, one refusal, or a number of equal refusals. Its fields are those of berth.audit.v1.AuditEntry.
type Entry struct {
	// ID, Service and, if they are zero, Time, LastTime and Count are filled in by the Recorder.
	ID             string
	Time, LastTime time.Time
	Count          int64
	Service        string
	// Namespace, Actor and Role say whose act it is; Role and Namespace may be empty.
	Namespace, Actor, Role string
	// Action is the full name of an rpc, or an event.
	Action string
	// Resource is what it is done to, such as "instance:ID".
	Resource string
	// Address is the peer's, host:port; ForwardedFor is for whom that peer says it passes the call on.
	Address, ForwardedFor string
	// Outcome is OK, or a reason.
	Outcome string
	// Detail is what happened, exactly. Secrets do not belong into it; what looks like one is taken out.
	Detail string
	// RequestID is the call's.
	RequestID string
	// Proven says that the caller did not choose Namespace and Resource freely, but showed a credential that is good for them. Refusals about others
	// are then not equal.
	Proven bool
}

// OK is the outcome of what succeeded.
const OK = "OK"

// Events, for what is no rpc.
const (
	// Link is an upgrade of a game server's connection.
	Link = "link"
	// CredentialsInUse is a second connection with the pair of one that lives.
	CredentialsInUse = "credentials_in_use"
	// Handshake is a TLS handshake.
	Handshake = "tls_handshake"
	// Refusals stands for refusals of several kinds.
	Refusals = "refusals"
	// Overflow stands for entries that the stream did not get.
	Overflow = "audit_overflow"
)

// Lost is the outcome of an Overflow.
const Lost = "LOST"

// Unknown is the actor whose credentials are not valid.
const Unknown = "unknown"

// Longest texts of an entry, in bytes: much of it comes from callers.
const (
	maxText   = 256
	maxDetail = 1024
)

// clean bounds the texts and takes out what looks like a secret. No text should have one: callers can put a token where a name belongs.
func (e *Entry) clean() {
	for _, text := range []*string{&e.Namespace, &e.Actor, &e.Role, &e.Action, &e.Resource, &e.Address, &e.ForwardedFor, &e.Outcome, &e.RequestID} {
		*text = clip(redact(*text), maxText)
	}
	e.Detail = clip(redact(e.Detail), maxDetail)
}

// clip cuts a text at a number of bytes and makes it UTF-8.
func clip(s string, limit int) string {
	const mark = "…"
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > limit {
		cut := limit - len(mark)
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + mark
	}
	return s
}

// secrets are the forms of tokens and keys: a JSON Web Token, also without its signature or cut short; an API key; whatever follows "Bearer".
var secrets = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{4,}(\.[A-Za-z0-9_-]*)*|berth_[A-Za-z0-9_-]{6,}|(?i:bearer)[ :]+[A-Za-z0-9._~+/=-]{8,}`)

func redact(s string) string {
	if !strings.Contains(s, "eyJ") && !strings.Contains(s, "berth_") && !strings.Contains(strings.ToLower(s), "bearer") { // nearly always
		return s
	}
	return secrets.ReplaceAllLiteralString(s, "(secret)")
}
