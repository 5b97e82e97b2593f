package grpcserver

import (
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
	"github.com/berth-dev/berth/services/allocation/internal/wire"
)

// toExplanation is the message of an explanation by which nobody has tried anything.
func toExplanation(e placement.Explanation) *allocationv1.PlacementExplanation {
	out := &allocationv1.PlacementExplanation{Rule: e.Rule}
	for _, c := range e.Candidates {
		out.Candidates = append(out.Candidates, wire.Candidate(c))
	}
	return out
}
