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
	// maxMissing is how often in a row a provider may not know a server that it named, before the server counts as gone.
	maxMissing = 3
	// maxMessage bounds messages, and maxTryMessage those of single calls, in bytes.
	maxMessage    = 1024
	maxTryMessage = 256
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
	// Expire: the deadline passed, or the time within which the provider had to say whether it has a server.
	Expire
	// Place: ask the next candidate for a server, or find that none is left in this round.
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
	switch {
	case a.Report != ReportNone && !now.Before(a.ReportAt): // it failed; but the instance alone knows whether there is a server that is linked
		return Tell, now
	case a.Report != ReportNone:
		return Wait, a.ReportAt
	case passed(a.Deadline, now), passed(a.GiveUpAt, now):
		return Expire, now
	case !now.Before(a.CallAt) && a.State == Queued:
		return Place, now
	case !now.Before(a.CallAt):
		return Look, now // an answer got lost, or a worker did: look before anything is repeated
	}
	if limit := a.limit(); !limit.IsZero() && limit.Before(a.CallAt) {
		return Wait, limit
	}
	return Wait, a.CallAt
}

// limit is when there is something to do that needs no provider; zero: never.
func (a *Allocation) limit() (at time.Time) {
	limits := []time.Time{a.Deadline, a.GiveUpAt}
	if a.State > Placing {
		limits = nil
	}
	if a.Report != ReportNone {
		limits = []time.Time{a.ReportAt}
	}
	for _, limit := range limits {
		if !limit.IsZero() && (at.IsZero() || limit.Before(at)) {
			at = limit
		}
	}
	return at
}

// earliest returns the time of the next call or report.
func (a *Allocation) earliest(calls bool) time.Time {
	if a.Report != ReportNone && (!calls || a.ReportAt.Before(a.CallAt)) {
		return a.ReportAt
	}
	return a.CallAt
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
	a.Provider, a.Region = "", ""
	a.RoundAt, a.GiveUpAt, a.WaitSince = time.Time{}, time.Time{}, time.Time{}
	a.Failure = ""
	a.owe(ReportFailed, now)
}

// Expired records that the deadline passed, or that a provider has not said in time whether it has a server. One may have a server all the same, and that
// may be linked: what becomes of it, the instance says.
func (a *Allocation) Expired(now time.Time) {
	a.Failure = ""
	switch {
	case passed(a.GiveUpAt, now) && !passed(a.Deadline, now):
		a.Failure = Ambiguous.String()
		a.say(fmt.Sprintf("provider %q does not say whether it has a server", a.Provider))
	case !a.WaitSince.IsZero():
		a.say("no server before the deadline: " + a.Explanation.Words())
	case a.Message != "":
		a.say("no server before the deadline; the last problem: " + a.Message)
	default:
		a.say("no server before the deadline")
	}
	a.RoundAt, a.GiveUpAt, a.WaitSince = time.Time{}, time.Time{}, time.Time{}
	a.owe(ReportFailed, now)
}

// passed reports whether a time that is set has come.
func passed(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

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
	if s.PoolServer != "" {
		a.PoolServer = s.PoolServer
	}
	if s.Region != "" {
		a.Region = s.Region
	}
	if len(s.Endpoints) > 0 && !slices.Equal(a.Endpoints, s.Endpoints) {
		a.Endpoints = s.Endpoints
		a.UpdateTime = now
		if a.State != Placing && a.Report != ReportFailed {
			a.owe(ReportAllocated, now)
		}
	}
	switch {
	case s.State == ServerExited && s.Failure != nil && a.State <= Starting: // what has run, or is linked, was not refused
		a.setBack(s.Failure, now)
	case s.State == ServerExited:
		a.exited(s.Message, now)
	case a.State == Placing:
		a.Doubtful = false
		a.Message, a.RoundAt, a.GiveUpAt, a.WaitSince = "", time.Time{}, time.Time{}, time.Time{}
		a.become(Starting, now)
		a.owe(ReportAllocated, now)
		fallthrough
	case a.State == Starting:
		if s.State == ServerRunning {
			a.become(Ready, now)
		}
	}
	if words := bounded(s.Message, maxMessage); s.State != ServerExited && a.State <= Bound && a.Report != ReportFailed && words != a.Message {
		a.Message, a.UpdateTime = words, now
	}
}

// LookFailed records that the provider could not say what the server does.
func (a *Allocation) LookFailed(f *Failure, poll time.Duration, now time.Time) {
	switch {
	case f.Kind != NotFound:
		a.Tries++
		a.CallAt = now.Add(max(poll, f.RetryAfter, callAgain.after(a.ID, a.Tries)))
	case a.State == Placing: // nothing is there yet: ask the same provider again, as what is late there would be a second server beside another one's
		a.Tries++
		a.Doubtful = true // also when it was a worker that went without an answer
		a.become(Queued, now)
		a.CallAt = now.Add(callAgain.after(a.ID, a.Tries))
	case a.State == Bound && a.ExternalID == "" && len(a.Endpoints) == 0: // linked before the provider named it, which it may yet do
		a.CallAt = now.Add(poll)
	default:
		a.Missing++
		a.CallAt = now.Add(poll)
		if a.Missing == maxMissing && a.Report != ReportFailed { // no proof that it ended: the instance is told, and says what becomes of it
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
	case a.State == Queued && a.Provider != "" && failed: // it was asked, and said that it has nothing: it is made sure of that
		a.giveBack(Failed, now)
	case a.State == Queued && a.Provider != "":
		a.giveBack(Released, now)
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
	case v == Abandoned, v == Unknown:
		a.Release(now)
	case told == ReportFailed && a.Provider == "": // it has a server that is none of ours, and will say so
		a.ReportTries++
		a.ReportAt = now.Add(undecidedAgain.after(a.ID, a.ReportTries))
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

// Reopen takes up an allocation again that somebody else took for one without a server, or settled, while the provider was still being asked: what that
// started after all is looked for, or has to go. It reports whether there was anything to take up.
func (a *Allocation) Reopen(provider, region string, now time.Time) bool {
	open := !a.State.Final() && (a.State != Releasing || !a.Gone)
	switch {
	case a.State == Queued && (a.Provider == "" || a.Provider == provider):
		a.Provider, a.Region = provider, region
		a.become(Placing, now)
		a.CallAt = now
		return true
	case open:
		return false
	}
	if a.Provider != provider {
		a.Provider, a.Region, a.ExternalID = provider, region, ""
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
func (a *Allocation) say(message string) { a.Message = bounded(message, maxMessage) }

func bounded(message string, limit int) string {
	message = strings.ToValidUTF8(message, "\uFFFD")
	if len(message) > limit {
		message = strings.ToValidUTF8(message[:limit], "")
	}
	return message
}
