package wire

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

// Explanation returns the message of an explanation; nil for one without candidates.
func Explanation(e allocator.Explanation) *allocationv1.PlacementExplanation {
	if len(e.Candidates) == 0 {
		return nil
	}
	out := &allocationv1.PlacementExplanation{Rule: e.Rule, Candidates: make([]*allocationv1.PlacementCandidate, len(e.Candidates))}
	for i, c := range e.Candidates {
		m := Candidate(c.Candidate)
		for _, t := range c.Tries {
			m.Tries = append(m.Tries, &allocationv1.PlacementTry{
				Time: timestamppb.New(t.At), Duration: durationpb.New(t.Took), Failure: t.Failure, Message: t.Message,
			})
		}
		out.Candidates[i] = m
	}
	return out
}

// Candidate returns the message of a candidate that nobody has tried.
func Candidate(c placement.Candidate) *allocationv1.PlacementCandidate {
	m := &allocationv1.PlacementCandidate{
		Provider: c.Provider, Region: c.Region, Exclusion: allocationv1.PlacementCandidate_Exclusion(c.Exclusion), Message: c.Message,
		Weight: int32(c.Weight), Rank: int32(c.Rank),
	}
	if c.Known {
		m.Latency = durationpb.New(c.Latency)
	}
	return m
}

// FromExplanation returns the explanation in a message.
func FromExplanation(m *allocationv1.PlacementExplanation) allocator.Explanation {
	if len(m.GetCandidates()) == 0 {
		return allocator.Explanation{}
	}
	out := allocator.Explanation{Rule: m.GetRule(), Candidates: make([]allocator.Candidate, len(m.GetCandidates()))}
	for i, c := range m.GetCandidates() {
		o := allocator.Candidate{Candidate: placement.Candidate{
			Provider: c.GetProvider(), Region: c.GetRegion(), Exclusion: placement.Exclusion(c.GetExclusion()), Message: c.GetMessage(),
			Latency: c.GetLatency().AsDuration(), Known: c.GetLatency() != nil, Weight: int(c.GetWeight()), Rank: int(c.GetRank()),
		}}
		for _, t := range c.GetTries() {
			o.Tries = append(o.Tries, allocator.Try{At: at(t.GetTime()), Took: t.GetDuration().AsDuration(), Failure: t.GetFailure(), Message: t.GetMessage()})
		}
		out.Candidates[i] = o
	}
	return out
}

// at returns the time in a message as the store's other times are: in this machine's zone.
func at(t *timestamppb.Timestamp) time.Time { return time.Unix(t.GetSeconds(), int64(t.GetNanos())) }
