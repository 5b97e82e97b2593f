package gamelift

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/gamelift/types"
	"google.golang.org/grpc/status"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// placed is how long a placement's word for its session is enough. It says nothing of the session's end, however long ago that was.
const placed = time.Minute

// placementPrefix begins the external id of a server that a queue placed. That of any other is its session's ARN.
const placementPrefix = "placement/"

// placementID has the Region too, without which a placement cannot be asked for.
func placementID(region, id string) string { return placementPrefix + region + "/" + id }

// awsRegions are those of the configuration.
func awsRegions(cfg Config) []string {
	var all []string
	for _, r := range cfg.Regions {
		all = append(all, r.Region)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// placementRegions are those in which an attempt's placement may be.
func (p *Provider) placementRegions(external string, known record) []string {
	if rest, ok := strings.CutPrefix(external, placementPrefix); ok {
		region, _, _ := strings.Cut(rest, "/")
		return []string{region}
	}
	switch at := known.only(); {
	case at.queue != "":
		return []string{at.region.Region}
	case at.fleet != "":
		return nil
	}
	for _, b := range p.cfg.Builds {
		if b.Queue != "" {
			return awsRegions(p.cfg)
		}
	}
	return nil
}

// mayBeDirect reports whether an attempt's server may have been made without a queue.
func mayBeDirect(external string, known record) bool {
	return !strings.HasPrefix(external, placementPrefix) && known.only().queue == ""
}

// ask looks for an attempt's server in one place.
type ask func() (sighting, error)

// first looks in one place after the other, until a server is found. A place that does not say whether it is there hides none of the others; if none of these has it
// either, nobody knows.
func first(ctx context.Context, attempt string, places ...ask) (sighting, error) {
	var silent error
	for n, look := range places {
		if n > 0 && ctx.Err() != nil {
			break
		}
		s, err := look()
		if err == nil {
			return s, nil
		}
		if silent == nil && provider.ReasonOf(err) != provider.NotFound {
			silent = err
		}
	}
	if silent == nil {
		silent = unknown(attempt)
	}
	return sighting{}, silent
}

// sessionARN is the ARN in an external id; "" if there is none.
func sessionARN(external string) string {
	if strings.HasPrefix(external, "arn:") {
		return external
	}
	return ""
}

// look asks for an attempt's server, wherever it may be, and reports whether it was made without a queue.
func (p *Provider) look(ctx context.Context, attempt, external string, known record) (s sighting, direct bool, err error) {
	if arn := cmp.Or(known.session, sessionARN(external)); arn != "" {
		s, err = p.session(ctx, attempt, arn, known.sighting)
		return s, known.session == "" || known.direct, err
	}
	var places []ask
	for _, region := range p.placementRegions(external, known) {
		places = append(places, func() (sighting, error) { return p.placement(ctx, region, attempt) })
	}
	if mayBeDirect(external, known) {
		places = append(places, func() (sighting, error) { direct = true; return p.find(ctx, attempt, known) })
	}
	s, err = first(ctx, attempt, places...)
	return s, direct, err
}

func unknown(attempt string) error {
	return provider.Failure(provider.NotFound, "GameLift knows no server of attempt %s", attempt)
}

// placement asks for a placement, and if it is not new, for what became of its session.
func (p *Provider) placement(ctx context.Context, region, attempt string) (sighting, error) {
	found, err := p.client.describePlacement(ctx, region, attempt)
	if err != nil {
		return sighting{}, err
	}
	s := ofPlacement(region, found)
	if s.session == "" || time.Since(aws.ToTime(found.EndTime)) < placed {
		return s, nil
	}
	now, err := p.session(ctx, attempt, s.session, s)
	if err != nil {
		return sighting{}, err
	}
	now.server.ExternalId = s.server.GetExternalId()
	return now, nil
}

func ofPlacement(region string, found *types.GameSessionPlacement) sighting {
	id := aws.ToString(found.PlacementId)
	state, failure, message := placementState(found.Status)
	s := sighting{region: region, server: &providerv1.Server{AttemptId: id, ExternalId: placementID(region, id), State: state, Message: message, Failure: failure}}
	if state == stateRunning {
		s.session, s.server.Endpoints = aws.ToString(found.GameSessionArn), endpointsOf(found.DnsName, found.IpAddress, found.Port)
	}
	return s
}

// session asks for a session by its ARN: in the Region where it was seen before or which the ARN says for certain, and nowhere else. Without one, in those of the
// configuration, and of a queue's fleets. The Region that an ARN of the older form names is that of a location, which may have no fleet, or be none that Berth is to
// call. So that one is asked first if the configuration has it, and else last: it may be that of a fleet which has left its queue.
func (p *Provider) session(ctx context.Context, attempt, arn string, known sighting) (sighting, error) {
	named, certain := homeIn(arn)
	asked := make(map[string]bool)
	in := func(regions ...string) (sighting, error) {
		var places []ask
		for _, region := range regions {
			if region != "" && !asked[region] {
				asked[region] = true
				places = append(places, func() (sighting, error) { return p.sessionIn(ctx, attempt, arn, region) })
			}
		}
		return first(ctx, attempt, places...)
	}
	switch {
	case known.home != "":
		return in(known.home)
	case certain:
		return in(named)
	}
	near := append([]string{known.region}, awsRegions(p.cfg)...)
	if slices.Contains(near, named) {
		near = append([]string{named}, near...)
	}
	return first(ctx, attempt,
		func() (sighting, error) { return in(near...) },
		func() (sighting, error) {
			fleets, gaps := p.fleets(ctx)
			var homes []string
			for _, fleet := range fleets {
				homes = append(homes, homeOf(fleet))
			}
			s, err := in(homes...)
			if provider.ReasonOf(err) == provider.NotFound && len(gaps) > 0 {
				return sighting{}, gaps[0].error
			}
			return s, err
		},
		func() (sighting, error) { return in(named) },
	)
}

// sessionIn asks a Region for a session.
func (p *Provider) sessionIn(ctx context.Context, attempt, arn, region string) (sighting, error) {
	found, err := p.client.describeSession(ctx, region, arn)
	if err != nil {
		return sighting{}, err
	}
	return p.ofSession(region, attempt, found), nil
}

func (p *Provider) ofSession(region, attempt string, found *types.GameSession) sighting {
	state, failure, message := sessionState(found)
	return sighting{region: region, home: region, session: aws.ToString(found.GameSessionId), server: &providerv1.Server{
		AttemptId: attempt, ExternalId: aws.ToString(found.GameSessionId), State: state, Message: message, Failure: failure,
		Region: p.regionOf(region, aws.ToString(found.Location)), Endpoints: endpointsOf(found.DnsName, found.IpAddress, found.Port),
	}}
}

// regionOf is Berth's name of a location; "" if it has none.
func (p *Provider) regionOf(region, location string) (name string) {
	for n, r := range p.cfg.Regions {
		if r.Region == region && (r.Location == location || r.Location == "" && (location == region || location == "")) && (name == "" || n < name) {
			name = n
		}
	}
	return name
}

// partition of AWS that a Region is in.
func partition(region string) string {
	switch {
	case strings.HasPrefix(region, "cn-"):
		return "aws-cn"
	case strings.HasPrefix(region, "us-gov-"):
		return "aws-us-gov"
	default:
		return "aws"
	}
}

// words are what a failure says to people.
func words(err error) string { return status.Convert(err).Message() }
