package allocator

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

// maxTries is how many calls to a candidate are kept: the last ones.
const maxTries = 5

// Explanation is where a server was looked for, in order, and why not elsewhere.
type Explanation struct {
	// Rule is the name of the rule that applied; empty: none.
	Rule string
	// Candidates are those that are tried, in order, then the others.
	Candidates []Candidate
}

// Candidate is a provider and one of its regions, and what came of it.
type Candidate struct {
	placement.Candidate
	// Tries are the last calls, oldest first.
	Tries []Try
	// NotBefore is when it may be asked again; zero: at any time.
	NotBefore time.Time
}

// Try is one call to a provider.
type Try struct {
	// At is when, and Took how long.
	At   time.Time
	Took time.Duration
	// Failure is the name of a FailureKind; empty: a server.
	Failure string
	// Message is what the provider said.
	Message string
}

// possible reports whether it could give a server now or later.
func (c *Candidate) possible() bool {
	switch c.Exclusion {
	case placement.None, placement.Full, placement.Resting, placement.Unanswered:
		return true
	default:
		return false
	}
}

// place is the candidate in words.
func (c *Candidate) place() string {
	if c.Region == "" {
		return fmt.Sprintf("provider %q", c.Provider)
	}
	return fmt.Sprintf("provider %q in %s", c.Provider, c.Region)
}

// Words says for people what was the matter with each candidate: those that were asked, or would have been, first.
func (e Explanation) Words() string {
	var asked, others []string
	for _, c := range e.Candidates {
		switch n := len(c.Tries); {
		case n > 0:
			asked = append(asked, fmt.Sprintf("%s: %s (%s)", c.place(), c.Tries[n-1].Message, c.Tries[n-1].Failure))
		case c.Exclusion == placement.None:
			asked = append(asked, c.place()+": not asked, others wait before this one")
		case c.possible():
			asked = append(asked, c.place()+": "+c.Message)
		default:
			others = append(others, c.place()+": "+c.Message)
		}
	}
	if all := slices.Concat(asked, others); len(all) > 0 {
		return strings.Join(all, "; ")
	}
	return "there is no candidate"
}

// Begin begins a round over the candidates as they are now. What earlier rounds found out about them stays.
func (a *Allocation) Begin(e placement.Explanation, now time.Time) {
	old := a.Explanation.Candidates
	a.Explanation = Explanation{Rule: e.Rule, Candidates: make([]Candidate, len(e.Candidates))}
	for i, c := range e.Candidates {
		next := Candidate{Candidate: c}
		if n := slices.IndexFunc(old, func(o Candidate) bool { return o.Provider == c.Provider && o.Region == c.Region }); n >= 0 {
			next.Tries, next.NotBefore = old[n].Tries, old[n].NotBefore
			if o := old[n]; c.Exclusion == placement.None && (o.Exclusion == placement.Refused || o.Exclusion == placement.Bootstrap) {
				next.Exclusion, next.Message = o.Exclusion, o.Message
			}
		}
		a.Explanation.Candidates[i] = next
	}
	a.heed(a.Explanation.Candidates)
	a.RoundAt = now
	a.Rounds++
}

// candidate is the next one of the round; -1: none is left.
func (a *Allocation) candidate() int {
	return slices.IndexFunc(a.Explanation.Candidates, func(c Candidate) bool {
		return c.Exclusion == placement.None && !c.NotBefore.After(a.RoundAt)
	})
}

// current is the candidate where a server may be; -1: it is none of the explanation's.
func (a *Allocation) current() int {
	return slices.IndexFunc(a.Explanation.Candidates, func(c Candidate) bool { return c.Provider == a.Provider && c.Region == a.Region })
}

// change changes a candidate of this allocation alone: its values share what they have until then.
func (a *Allocation) change(i int, change func(c *Candidate)) {
	a.Explanation.Candidates = slices.Clone(a.Explanation.Candidates)
	change(&a.Explanation.Candidates[i])
}

// Exclude passes a candidate over: Full and Resting in this round, Refused and Bootstrap for good.
func (a *Allocation) Exclude(i int, why placement.Exclusion, message string) {
	a.change(i, func(c *Candidate) { c.Exclusion, c.Message = why, message })
}

// Placed records that a provider is going to be asked. Within limit it has to say whether it has a server.
func (a *Allocation) Placed(provider, region string, limit time.Duration, now time.Time) {
	if a.Provider == "" {
		a.GiveUpAt = now.Add(limit)
	}
	a.Provider, a.Region = provider, region
	a.become(Placing, now)
}

// Answered records that the candidate has named a server.
func (a *Allocation) Answered(took time.Duration, now time.Time) { a.tried(nil, took, now) }

func (a *Allocation) tried(f *Failure, took time.Duration, now time.Time) {
	i := a.current()
	if i < 0 {
		return
	}
	t := Try{At: now.Add(-took), Took: took}
	if f != nil {
		t.Failure, t.Message = f.Kind.String(), bounded(f.Message, maxTryMessage)
	}
	a.change(i, func(c *Candidate) {
		kept := c.Tries[max(0, len(c.Tries)+1-maxTries):]
		c.Tries = append(slices.Clone(kept), t)
	})
}

// Refused records that the provider did not start a server, or may not have. Only when it is certain that it did not, the next candidate is turned to.
func (a *Allocation) Refused(f *Failure, took time.Duration, now time.Time) {
	a.tried(f, took, now)
	a.say(fmt.Sprintf("provider %q: %s", a.Provider, f.Message))
	a.CallAt = now
	var wait time.Duration
	switch i := a.current(); f.Kind {
	case Invalid, Quota, Unauthenticated:
		if i >= 0 {
			a.Exclude(i, placement.Refused, bounded(f.Message, maxTryMessage))
		}
		if a.Doubtful { // and there is nothing more to ask it
			a.become(Queued, now)
			a.failsHere(f.Kind, now)
			return
		}
	case NoCapacity:
		wait = max(f.RetryAfter, capacityAgain.after(a.ID, a.Rounds))
	case RateLimited, Unavailable:
		wait = max(f.RetryAfter, callAgain.after(a.ID, a.Rounds))
	default: // stays Placing: look first
		a.Doubtful = true
		a.WaitSince = time.Time{} // it is in nobody's way meanwhile
		return
	}
	a.moveOn(wait, now)
}

// moveOn leaves a candidate that has certainly nothing of the allocation. One that an earlier call may yet bring a server is asked again, until it is given up.
func (a *Allocation) moveOn(wait time.Duration, now time.Time) {
	if a.Doubtful {
		a.Tries++
		a.become(Queued, now)
		a.CallAt = now.Add(max(wait, callAgain.after(a.ID, a.Tries)))
		return
	}
	if i := a.current(); i >= 0 && wait > 0 {
		a.change(i, func(c *Candidate) { c.NotBefore = now.Add(wait) })
	}
	a.Provider, a.Region, a.GiveUpAt, a.Tries = "", "", time.Time{}, 0
	a.become(Queued, now)
}

// RoundOver records that no candidate is left in this round: the allocation waits for room, or fails if there never will be any.
func (a *Allocation) RoundOver(now time.Time) {
	a.RoundAt = time.Time{}
	var next time.Time
	for _, c := range a.Explanation.Candidates {
		if !c.possible() {
			continue
		}
		at := c.NotBefore
		if c.Exclusion != placement.None || !at.After(now) {
			at = now.Add(capacityAgain.after(a.ID, a.Rounds))
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if next.IsZero() {
		a.Fails(a.Explanation.Words(), now)
		return
	}
	a.waitsUntil(next, now)
	a.say(a.Explanation.Words())
}

func (a *Allocation) waitsUntil(at, now time.Time) {
	a.CallAt = at
	if a.WaitSince.IsZero() {
		a.WaitSince, a.UpdateTime = now, now
	}
}
