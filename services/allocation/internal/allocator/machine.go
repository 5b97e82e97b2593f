package allocator

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"
)

// Limits of an allocation's life.
const (
	// retention is how long final allocations stay readable, and how long a tombstone stops a late create.
	retention = time.Hour
	// maxNoCapacity is how often a provider may have no capacity before the allocation fails.
	maxNoCapacity = 4
	// maxMissing is how often in a row a provider may not know a server that it named, before the server counts as gone.
	maxMissing = 3
	// maxMessage bounds messages, in bytes.
	maxMessage = 1024
)

// backoff grows from base to top by powers of two.
type backoff struct{ base, top time.Duration }

var (
	callAgain     = backoff{100 * time.Millisecond, 5 * time.Second}
	capacityAgain = backoff{500 * time.Millisecond, 5 * time.Second}
	reportAgain   = backoff{100 * time.Millisecond, 5 * time.Second}
	// undecidedAgain is how soon an instance that has not decided about a server is asked again. Nothing waits for the answer: a release is pushed.
	undecidedAgain = backoff{500 * time.Millisecond, 10 * time.Second}
	lostProvider   = backoff{5 * time.Second, 30 * time.Second}
)

// after returns the wait before the n-th repeat, up to a quarter shorter or longer, which keeps allocations that failed together from coming back together.
func (b backoff) after(id string, n int) time.Duration {
	d := b.top
	if n < 16 {
		d = min(b.top, b.base<<max(0, n-1))
	}
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%s/%d", id, n) // fnv never fails
	return d*3/4 + time.Duration(h.Sum32()%1024)*(d/2)/1024
}

// Action is what a worker does for an allocation.
type Action int

// The actions.
const (
	// Wait: nothing, until the time that comes with it.
	Wait Action = iota
	// Expire: the deadline passed.
	Expire
	// Place: choose a provider and ask it for a server.
	Place
	// Look: ask the provider about the server.
	Look
	// GiveBack: ask the provider to take the server back.
	GiveBack
	// Tell: tell the instance.
	Tell
	// Forget: delete the allocation.
	Forget
)

// Next returns what to do at now; with Wait, the time at which there is something to do.
func (a *Allocation) Next(now time.Time) (Action, time.Time) {
	switch a.State {
	case Queued, Placing:
		return a.nextPlacing(now)
	case Starting, Ready, Bound:
		if a.Report != ReportNone && !now.Before(a.ReportAt) {
			return Tell, now
		}
		if !now.Before(a.CallAt) {
			return Look, now
		}
		return Wait, a.earliest(true)
	case Releasing:
		if !a.Gone && !now.Before(a.CallAt) {
			return GiveBack, now
		}
		if a.Report != ReportNone && !now.Before(a.ReportAt) {
			return Tell, now
		}
		return Wait, a.earliest(!a.Gone)
	default:
		switch {
		case a.Report != ReportNone && !now.Before(a.ReportAt):
			return Tell, now
		case a.Report != ReportNone:
			return Wait, a.ReportAt
		case !now.Before(a.ExpireAt):
			return Forget, now
		default:
			return Wait, a.ExpireAt
		}
	}
}

func (a *Allocation) nextPlacing(now time.Time) (Action, time.Time) {
	expires := !a.Deadline.IsZero()
	switch {
	case a.Report != ReportNone && !now.Before(a.ReportAt): // it failed; but the instance alone knows whether there is a server that is linked
		return Tell, now
	case a.Report != ReportNone:
		return Wait, a.ReportAt
	case expires && !now.Before(a.Deadline):
		return Expire, now
	case !now.Before(a.CallAt) && a.State == Queued:
		return Place, now
	case !now.Before(a.CallAt):
		return Look, now // an answer got lost, or a worker did: look before anything is repeated
	case expires && a.Deadline.Before(a.CallAt):
		return Wait, a.Deadline
	default:
		return Wait, a.CallAt
	}
}

// earliest returns the time of the next call or report.
func (a *Allocation) earliest(calls bool) time.Time {
	if a.Report != ReportNone && (!calls || a.ReportAt.Before(a.CallAt)) {
		return a.ReportAt
	}
	return a.CallAt
}

// Placed records the choice of a provider, before it is asked.
func (a *Allocation) Placed(provider, region string, now time.Time) {
	a.Provider, a.Region = provider, region
	a.become(Placing, now)
}

// Postponed records that the provider could not be asked yet.
func (a *Allocation) Postponed(reason string, now time.Time) {
	a.say(reason)
	a.Tries++
	a.CallAt = now.Add(callAgain.after(a.ID, a.Tries))
}

// Fails records that no provider has anything of the allocation, nor will have. It ends when the instance has agreed.
func (a *Allocation) Fails(reason string, now time.Time) {
	a.say(reason)
	a.become(Queued, now)
	a.owe(ReportFailed, now)
}

// Expired records that the deadline passed. A provider may have a server all the same, and that may be linked: what becomes of it, the instance says.
func (a *Allocation) Expired(now time.Time) {
	reason := "no server before the deadline"
	if a.Message != "" {
		reason += "; the last problem: " + a.Message
	}
	a.say(reason)
	a.owe(ReportFailed, now)
}

// Refused records that the provider did not start a server, or may not have.
func (a *Allocation) Refused(f *Failure, now time.Time) {
	reason := fmt.Sprintf("provider %q: %s", a.Provider, f.Message)
	switch f.Kind {
	case Invalid, Quota, Unauthenticated:
		a.Fails(reason, now)
	case NoCapacity:
		a.NoCapacity++
		if a.NoCapacity >= maxNoCapacity {
			a.Fails(reason, now)
			return
		}
		a.retryPlacing(reason, now, max(f.RetryAfter, capacityAgain.after(a.ID, a.NoCapacity)))
	case RateLimited, Unavailable:
		a.Tries++
		a.retryPlacing(reason, now, max(f.RetryAfter, callAgain.after(a.ID, a.Tries)))
	default: // stays Placing: look first
		a.say(reason)
		a.CallAt = now
	}
}

func (a *Allocation) retryPlacing(reason string, now time.Time, wait time.Duration) {
	a.say(reason)
	a.become(Queued, now)
	a.CallAt = now.Add(wait)
}

// Observed records what the provider says of the server.
func (a *Allocation) Observed(s Server, poll time.Duration, now time.Time) {
	a.Tries, a.Missing = 0, 0
	a.CallAt = now.Add(poll)
	if a.Report == ReportExited { // the provider had forgotten it for a while only
		a.owe(ReportAllocated, now)
	}
	if s.ExternalID != "" {
		a.ExternalID = s.ExternalID
	}
	if s.Region != "" {
		a.Region = s.Region
	}
	if len(s.Endpoints) > 0 && !slices.Equal(a.Endpoints, s.Endpoints) {
		a.Endpoints = s.Endpoints
		a.UpdateTime = now
		if a.State != Placing {
			a.owe(ReportAllocated, now)
		}
	}
	switch {
	case s.State == ServerExited:
		a.exited(s.Message, now)
	case a.State == Placing:
		a.Message = ""
		a.become(Starting, now)
		a.owe(ReportAllocated, now)
		fallthrough
	case a.State == Starting:
		if s.State == ServerRunning {
			a.become(Ready, now)
		}
	}
}

// LookFailed records that the provider could not say what the server does.
func (a *Allocation) LookFailed(f *Failure, poll time.Duration, now time.Time) {
	switch {
	case f.Kind != NotFound:
		a.Tries++
		a.CallAt = now.Add(max(poll, f.RetryAfter, callAgain.after(a.ID, a.Tries)))
	case a.State == Placing: // nothing was started: ask again
		a.Tries++
		a.become(Queued, now)
		a.CallAt = now.Add(callAgain.after(a.ID, a.Tries))
	case a.State == Bound && a.ExternalID == "" && len(a.Endpoints) == 0: // linked before the provider named it, which it may yet do
		a.CallAt = now.Add(poll)
	default:
		a.Missing++
		a.CallAt = now.Add(poll)
		if a.Missing == maxMissing { // no proof that it ended: the instance is told, and says what becomes of it
			a.say(fmt.Sprintf("provider %q no longer knows the server", a.Provider))
			a.owe(ReportExited, now)
		}
	}
}

// exited records that the provider saw the server's process end.
func (a *Allocation) exited(message string, now time.Time) {
	if message == "" {
		message = "the server's process ended"
	}
	a.say(message)
	a.giveBack(Released, now)
	a.owe(ReportExited, now)
}

// ProviderLost records that the provider is not configured any more: whatever it has has to wait until it is again.
func (a *Allocation) ProviderLost(now time.Time) {
	a.say(fmt.Sprintf("provider %q is not configured any more", a.Provider))
	a.Tries++
	a.CallAt = now.Add(lostProvider.after(a.ID, a.Tries))
}

// Release records that the instance is done with the server, and reports whether that changed anything.
func (a *Allocation) Release(now time.Time) bool {
	failed := a.Report == ReportFailed // the instance's release may be here before its answer to the report
	switch {
	case a.State >= Releasing:
		return false
	case a.State == Queued && failed:
		a.become(Failed, now)
		a.Report, a.ReportTries = ReportNone, 0
	case a.State == Queued:
		a.become(Cancelled, now)
		a.owe(ReportReleased, now)
	case failed:
		a.giveBack(Failed, now)
	default:
		a.giveBack(Released, now)
	}
	return true
}

// giveBack is called only when the instance has let go of the server, or the provider saw its process end.
func (a *Allocation) giveBack(end State, now time.Time) {
	a.become(Releasing, now)
	a.End, a.Gone, a.Tries = end, false, 0
	a.Report, a.ReportTries = ReportNone, 0
	a.CallAt = now
}

// GivenBack records how far the provider is with taking the server back.
func (a *Allocation) GivenBack(gone bool, poll time.Duration, now time.Time) {
	a.Tries = 0
	a.CallAt = now.Add(poll)
	if gone {
		a.Gone = true
		a.finish(now)
	}
}

// GiveBackFailed records that the provider could not take the server back. That is repeated for as long as it takes.
func (a *Allocation) GiveBackFailed(f *Failure, now time.Time) {
	if f.Kind == NotFound {
		a.GivenBack(true, 0, now)
		return
	}
	a.Tries++
	a.CallAt = now.Add(max(f.RetryAfter, callAgain.after(a.ID, a.Tries)))
}

// Told records the instance's answer.
func (a *Allocation) Told(v Verdict, now time.Time) {
	told := a.Report
	switch {
	case a.State >= Releasing: // nothing is left to decide
		a.Report, a.ReportTries = ReportNone, 0
		if told == ReportReleased && a.State == Releasing {
			a.become(a.End, now)
		} else {
			a.finish(now)
		}
	case v == Open:
		a.ReportTries++
		a.ReportAt = now.Add(undecidedAgain.after(a.ID, a.ReportTries))
	case v == Abandoned:
		a.Release(now)
	case told == ReportFailed: // there is a server after all, linked before its provider's answer was here: look at it
		a.Message = ""
		a.become(Bound, now)
		a.owe(ReportAllocated, now)
		a.CallAt = now
	default: // after an exit the instance has ended, and its release is on the way
		a.Report, a.ReportTries = ReportNone, 0
		a.become(Bound, now)
	}
}

// NotTold records that the instance could not be told; it is told again until it answers.
func (a *Allocation) NotTold(now time.Time) {
	a.ReportTries++
	a.ReportAt = now.Add(reportAgain.after(a.ID, a.ReportTries))
}

// Reopen takes up an allocation again that somebody else took for one without a server, or settled, while a provider was still being asked: what that
// started after all is looked for, or has to go. It reports whether there was anything to take up.
func (a *Allocation) Reopen(now time.Time) bool {
	if a.State == Queued {
		a.become(Placing, now)
		a.CallAt = now
		return true
	}
	if !a.State.Final() && (a.State != Releasing || !a.Gone) {
		return false
	}
	report, end := a.Report, a.State
	if a.State == Releasing {
		end = a.End
	}
	a.giveBack(end, now)
	if report != ReportReleased {
		a.Report, a.ReportAt = report, now
	}
	return true
}

// finish moves on when the provider has nothing left and the instance knows how it came to that.
func (a *Allocation) finish(now time.Time) {
	switch {
	case a.State != Releasing || !a.Gone || a.Report != ReportNone:
	case a.End == Failed:
		a.become(Failed, now)
	default:
		a.owe(ReportReleased, now)
	}
}

func (a *Allocation) become(s State, now time.Time) {
	if a.State == s {
		return
	}
	a.State, a.UpdateTime = s, now
	if s.Final() {
		a.ExpireAt = now.Add(retention)
	}
}

func (a *Allocation) owe(r Report, now time.Time) { a.Report, a.ReportAt, a.ReportTries = r, now, 0 }

// say sets the message, in bounds and readable, whoever wrote it.
func (a *Allocation) say(message string) {
	message = strings.ToValidUTF8(message, "\uFFFD")
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "")
	}
	a.Message = message
}
