package allocator

import "slices"

// same reports whether b differs from a in nothing that is worth a write: the next call's time alone is not, as the queue keeps it too. It is asked before each
// action and each commit, so every field is written out; what is stored of them is no part of it.
func (a *Allocation) same(b *Allocation) bool {
	return a.sameWish(b) && a.sameServer(b) && a.sameTells(b) && a.Explanation.same(&b.Explanation)
}

// sameWish compares what the allocation is for.
func (a *Allocation) sameWish(b *Allocation) bool {
	return a.ID == b.ID && a.Namespace == b.Namespace && a.InstanceID == b.InstanceID && a.Placement.equal(b.Placement) && a.Deadline.Equal(b.Deadline) &&
		a.Traceparent == b.Traceparent && slices.Equal(a.Setbacks, b.Setbacks) && a.CreateTime.Equal(b.CreateTime)
}

// sameServer compares where it is in its life, and its server.
func (a *Allocation) sameServer(b *Allocation) bool {
	return a.State == b.State && a.RoundAt.Equal(b.RoundAt) && a.Rounds == b.Rounds && a.WaitSince.Equal(b.WaitSince) &&
		a.Provider == b.Provider && a.Region == b.Region && a.GiveUpAt.Equal(b.GiveUpAt) && a.ExternalID == b.ExternalID && a.PoolServer == b.PoolServer &&
		slices.Equal(a.Endpoints, b.Endpoints) && a.Tries == b.Tries && a.Missing == b.Missing && a.Doubtful == b.Doubtful && a.Gone == b.Gone && a.End == b.End &&
		a.UpdateTime.Equal(b.UpdateTime) && a.ExpireAt.Equal(b.ExpireAt)
}

// sameTells compares what people and the instance are told.
func (a *Allocation) sameTells(b *Allocation) bool {
	return a.Message == b.Message && a.Report == b.Report && a.ReportAt.Equal(b.ReportAt) && a.ReportTries == b.ReportTries && a.Failure == b.Failure
}

func (e *Explanation) same(o *Explanation) bool {
	return e.Rule == o.Rule && slices.EqualFunc(e.Candidates, o.Candidates, func(c, d Candidate) bool {
		return c.Candidate == d.Candidate && c.NotBefore.Equal(d.NotBefore) && slices.EqualFunc(c.Tries, d.Tries, func(t, u Try) bool {
			return t.At.Equal(u.At) && t.Took == u.Took && t.Failure == u.Failure && t.Message == u.Message
		})
	})
}
