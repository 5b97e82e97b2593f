package token

import "time"

// Revocation is one entry of the list of what was revoked. Exactly one of its targets is set.
type Revocation struct {
	// Namespace is the one whose tokens it concerns; empty only with KeyID, which concerns all.
	Namespace string
	// PairID revokes the tokens of one pair, whenever they were issued.
	PairID string
	// ServerID revokes the tokens of one game server.
	ServerID string
	// InstanceID revokes the tickets to one instance. The servers that were started for it are on the list by their own ids.
	InstanceID string
	// IssuedBefore revokes all tokens and tickets of the namespace that were issued before this time.
	IssuedBefore time.Time
	// KeyID revokes everything that one key has signed.
	KeyID string
}

// Revocations tells whether what was verified has been revoked. It does not change, so it is safe for concurrent use, and it costs a few
// map look-ups to ask. A nil *Revocations has nothing revoked: who must not admit anybody before knowing the list has to see to that.
type Revocations struct {
	version                   int64
	pairs, servers, instances map[named]struct{}
	issuedBefore              map[string]time.Time // by namespace, the latest
	keys                      map[string]struct{}
}

// named is an id in a namespace.
type named struct{ namespace, id string }

// NewRevocations returns the revocations of a list. The version is the list's; a higher one is newer.
func NewRevocations(version int64, list []Revocation) *Revocations {
	r := &Revocations{
		version: version,
		pairs:   make(map[named]struct{}), servers: make(map[named]struct{}), instances: make(map[named]struct{}),
		issuedBefore: make(map[string]time.Time), keys: make(map[string]struct{}),
	}
	for _, e := range list {
		switch {
		case e.PairID != "":
			r.pairs[named{e.Namespace, e.PairID}] = struct{}{}
		case e.ServerID != "":
			r.servers[named{e.Namespace, e.ServerID}] = struct{}{}
		case e.InstanceID != "":
			r.instances[named{e.Namespace, e.InstanceID}] = struct{}{}
		case e.KeyID != "":
			r.keys[e.KeyID] = struct{}{}
		case e.IssuedBefore.After(r.issuedBefore[e.Namespace]):
			r.issuedBefore[e.Namespace] = e.IssuedBefore
		}
	}
	return r
}

// Version is the version of the list; 0 for nil.
func (r *Revocations) Version() int64 {
	if r == nil {
		return 0
	}
	return r.version
}

// Server reports whether the pair that a server showed has been revoked: the pair, the server, a key that signed one of its tokens, or everything in its
// namespace that was issued before some time. A pair that does not say when it was issued counts as issued before any time.
func (r *Revocations) Server(s Server) bool {
	return r != nil && (has(r.pairs, named{s.Namespace, s.PairID}) || has(r.servers, named{s.Namespace, s.ID}) ||
		has(r.keys, s.GameKeyID) || has(r.keys, s.SocialKeyID) || r.IssuedBefore(s.Namespace).After(s.IssueTime))
}

// Ticket reports whether a player's ticket has been revoked: its instance, the key that signed it, or everything in its namespace that was issued
// before some time.
func (r *Revocations) Ticket(t Ticket) bool {
	return r != nil && (has(r.instances, named{t.Namespace, t.InstanceID}) || has(r.keys, t.KeyID) || r.IssuedBefore(t.Namespace).After(t.IssueTime))
}

// Claim reports whether a claim code has been revoked: its server, its pair, its instance, the key that signed it, or everything in its namespace
// that was issued before some time.
func (r *Revocations) Claim(c Claim) bool {
	return r.Server(Server{ID: c.ServerID, PairID: c.PairID, Namespace: c.Namespace, IssueTime: c.IssueTime, GameKeyID: c.KeyID, SocialKeyID: c.KeyID}) ||
		r.Ticket(Ticket{InstanceID: c.InstanceID, Namespace: c.Namespace, IssueTime: c.IssueTime, KeyID: c.KeyID})
}

// IssuedBefore is the time before which everything that was issued in a namespace is revoked; the zero time if there is none. Tokens know whole
// seconds: one that was issued in the same second as this time counts as issued before it.
func (r *Revocations) IssuedBefore(namespace string) time.Time {
	if r == nil {
		return time.Time{}
	}
	return r.issuedBefore[namespace]
}

func has[K comparable](set map[K]struct{}, key K) bool {
	_, ok := set[key]
	return ok
}
