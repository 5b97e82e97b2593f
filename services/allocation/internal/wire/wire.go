// Package wire converts the allocator's values to the public messages that the API, the store and the providers share, and back.
package wire

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
)

// Placement returns the message of a placement; nil for that of a tombstone.
func Placement(p allocator.Placement) *instancev1.Placement {
	if p.Build == "" {
		return nil
	}
	out := &instancev1.Placement{Build: p.Build, Regions: p.Regions, Labels: p.Labels, Priority: int32(p.Priority)}
	for region, d := range p.Latencies {
		if out.Latencies == nil {
			out.Latencies = make(map[string]*durationpb.Duration, len(p.Latencies))
		}
		out.Latencies[region] = durationpb.New(d)
	}
	return out
}

// FromPlacement returns the placement in a message.
func FromPlacement(p *instancev1.Placement) allocator.Placement {
	out := allocator.Placement{Build: p.GetBuild(), Regions: p.GetRegions(), Labels: p.GetLabels(), Priority: int(p.GetPriority())}
	for region, d := range p.GetLatencies() {
		if out.Latencies == nil {
			out.Latencies = make(map[string]time.Duration, len(p.GetLatencies()))
		}
		out.Latencies[region] = d.AsDuration()
	}
	return out
}

// Endpoints returns the messages of endpoints.
func Endpoints(list []allocator.Endpoint) []*typev1.Endpoint {
	var out []*typev1.Endpoint
	for _, e := range list {
		out = append(out, &typev1.Endpoint{Name: e.Name, Host: e.Host, Port: e.Port, Protocol: typev1.Protocol(e.Protocol)})
	}
	return out
}

// FromEndpoints returns the endpoints in messages.
func FromEndpoints(list []*typev1.Endpoint) []allocator.Endpoint {
	var out []allocator.Endpoint
	for _, e := range list {
		out = append(out, allocator.Endpoint{Name: e.GetName(), Host: e.GetHost(), Port: e.GetPort(), Protocol: int32(e.GetProtocol())})
	}
	return out
}

// Setbacks returns the message of setbacks.
func Setbacks(list []allocator.Setback) []*allocationv1.Setback {
	var out []*allocationv1.Setback
	for _, s := range list {
		out = append(out, &allocationv1.Setback{Provider: s.Provider, Region: s.Region, Failure: s.Failure, Message: s.Message})
	}
	return out
}

// FromSetbacks returns the setbacks of a message.
func FromSetbacks(list []*allocationv1.Setback) []allocator.Setback {
	var out []allocator.Setback
	for _, s := range list {
		out = append(out, allocator.Setback{Provider: s.GetProvider(), Region: s.GetRegion(), Failure: s.GetFailure(), Message: s.GetMessage()})
	}
	return out
}
