// Package ids derives the ids that follow from one another, so that two services that never spoke agree on them and
// asking twice is asking once.
package ids

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// DefaultNamespace stands in for an empty namespace.
const DefaultNamespace = "default"

// Spaces for name-based UUIDs (RFC 9562, version 5). They are part of the contract between services.
var (
	instanceSpace     = uuid.NewSHA1(uuid.NameSpaceDNS, []byte("instance.berth.dev"))
	registrationSpace = uuid.NewSHA1(uuid.NameSpaceDNS, []byte("registration.berth.dev"))
	poolSpace         = uuid.NewSHA1(uuid.NameSpaceDNS, []byte("pool.berth.dev"))
	serverSpace       = uuid.NewSHA1(uuid.NameSpaceDNS, []byte("server.berth.dev"))
	messageSpace      = uuid.NewSHA1(uuid.NameSpaceDNS, []byte("message.berth.dev"))
	pairSpace         = uuid.NewSHA1(uuid.NameSpaceDNS, []byte("pair.berth.dev"))
)

// Namespace returns the namespace that a request means.
func Namespace(ns string) string {
	if ns == "" {
		return DefaultNamespace
	}
	return ns
}

// Instance returns the id of the instance that a caller creates with a request id; a fresh one if it is empty.
func Instance(namespace, caller, requestID string) string {
	return made(instanceSpace, namespace, caller, requestID)
}

// Registration returns the id under which a caller registers a game server with a request id; a fresh one if it is empty. It stands where an attempt's
// id does for a server that a provider starts: the server's id and its pair's follow from it.
func Registration(namespace, caller, requestID string) string {
	return made(registrationSpace, namespace, caller, requestID)
}

// Member returns the id under which a server joins a warm pool by its name. It stands where a registration's does.
func Member(namespace, pool, name string) string {
	return made(poolSpace, namespace, pool, name)
}

// Message returns the id of a durable message that a caller sends to an instance's server with a request id; a fresh one if it is empty.
func Message(instanceID, caller, requestID string) string {
	return made(messageSpace, instanceID, caller, requestID)
}

func made(space uuid.UUID, namespace, caller, requestID string) string {
	if requestID == "" {
		return uuid.NewString()
	}
	return uuid.NewSHA1(space, fmt.Appendf(nil, "%d:%s%d:%s%s", len(namespace), namespace, len(caller), caller, requestID)).String()
}

// MaxAttempts is how many attempts, and so how many servers, an instance can have in its life.
const MaxAttempts = 10

// Attempt returns the id of an instance's n-th attempt, counted from 1 up to MaxAttempts.
func Attempt(instanceID string, n int) string { return fmt.Sprintf("%s-%d", instanceID, n) }

// AttemptInstance returns the instance that an attempt belongs to; empty if it is no attempt's id.
func AttemptInstance(attemptID string) string {
	id, _, ok := cutLast(attemptID, "-")
	if !ok || uuid.Validate(id) != nil {
		return ""
	}
	return id
}

// Server returns the id of the game server that an attempt, or a registration, is for.
func Server(attemptID string) string { return uuid.NewSHA1(serverSpace, []byte(attemptID)).String() }

// Pair returns the id of the token pair that an attempt's server gets.
func Pair(attemptID string) string { return uuid.NewSHA1(pairSpace, []byte(attemptID)).String() }

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
