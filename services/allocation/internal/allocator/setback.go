package allocator

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

// Setback is where an attempt of an instance failed while another one may do better.
type Setback struct {
	// Provider and Region say where.
	Provider, Region string
	// Failure is the name of a FailureKind, and Message the same in words.
	Failure, Message string
}

// setBack records that the host has refused the server after it had taken the order. It may have changed its mind again meanwhile, and the server be linked: what
// becomes of the attempt, the instance says.
func (a *Allocation) setBack(f *Failure, now time.Time) {
	if a.Report == ReportFailed {
		return // the instance is being told
	}
	a.tried(f, 0, now)
	a.say(fmt.Sprintf("provider %q has refused it after all: %s", a.Provider, f.Message))
	a.GiveUpAt, a.WaitSince = time.Time{}, time.Time{}
	a.failsHere(f.Kind, now)
}

// failsHere has the instance told that this attempt has failed where it is, and that another one may do better.
func (a *Allocation) failsHere(kind FailureKind, now time.Time) {
	a.Failure = kind.String()
	a.owe(ReportFailed, now)
}

// heed puts the places where earlier attempts failed behind the others, and leaves those out where a repeat mends nothing. A place that may do better by now has
// some time for it first: more with each setback there.
func (a *Allocation) heed(candidates []Candidate) {
	if len(a.Setbacks) == 0 {
		return
	}
	tried := slices.IndexFunc(candidates, func(c Candidate) bool { return c.Exclusion != placement.None })
	if tried < 0 {
		tried = len(candidates)
	}
	behind := make(map[site]int, len(a.Setbacks))
	for _, s := range a.Setbacks {
		behind[site{s.Provider, s.Region}]++
	}
	slices.SortStableFunc(candidates[:tried], func(c, d Candidate) int {
		return cmp.Compare(behind[site{c.Provider, c.Region}], behind[site{d.Provider, d.Region}])
	})
	for i := range candidates[:tried] {
		c := &candidates[i]
		for _, s := range a.Setbacks {
			if s.Provider == c.Provider && s.Region == c.Region && forGood(s.Failure) {
				c.Exclusion, c.Message = placement.Refused, "it has refused an earlier attempt: "+bounded(s.Message, maxTryMessage)
			}
		}
		if n := behind[site{c.Provider, c.Region}]; n > 0 && c.NotBefore.IsZero() {
			c.NotBefore = a.CreateTime.Add(capacityAgain.after(a.ID, n))
		}
	}
}

// forGood reports whether a repeat does not mend the failure with the name.
func forGood(failure string) bool {
	return failure == Invalid.String() || failure == Quota.String() || failure == Unauthenticated.String()
}
