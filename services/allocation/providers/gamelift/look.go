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

// placementRegions are those in which an external id's placement may be.
func (p *Provider) placementRegions(external string) []string {
	if rest, ok := strings.CutPrefix(external, placementPrefix); ok {
		region, _, _ := strings.Cut(rest, "/")
		return []string{region}
	}
	for _, b := range p.cfg.Builds {
		if b.Queue != "" {
			return awsRegions(p.cfg)
		}
	}
	return nil
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
		s, err = p.session(ctx, attempt, arn, known.region)
		return s, known.session == "" || known.direct, err
	}
	for _, region := range p.placementRegions(external) {
		s, err = p.placement(ctx, region, attempt)
		if provider.ReasonOf(err) != provider.NotFound {
			return s, false, err
		}
	}
	if !strings.HasPrefix(external, placementPrefix) {
		s, err = p.find(ctx, attempt, known)
		return s, true, err
	}
	return sighting{}, false, unknown(attempt)
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
	now, err := p.session(ctx, attempt, s.session, region)
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

// session asks for a session by its ARN, in the Regions whose fleets may have it: where it was seen before, those of the configuration, and those of a queue's
// fleets. The ARN names its location, which may be a Region that has no fleet, or one that Berth is not to call, or that has no such API. It is asked there last,
// where it was that of a fleet which has left its queue.
func (p *Provider) session(ctx context.Context, attempt, arn, known string) (sighting, error) {
	asked, location := make(map[string]bool), ""
	if parts := strings.SplitN(arn, ":", 5); len(parts) == 5 && regionName.MatchString(parts[3]) {
		location = parts[3]
	}
	near := awsRegions(p.cfg)
	if slices.Contains(near, location) {
		near = append([]string{location}, near...)
	}
	s, err := p.sessionIn(ctx, attempt, arn, append([]string{known}, near...), asked)
	if provider.ReasonOf(err) != provider.NotFound {
		return s, err
	}
	fleets, err := p.fleets(ctx)
	if err != nil {
		return sighting{}, err
	}
	var homes []string
	for _, fleet := range fleets {
		home, _, _ := strings.Cut(fleet, "/")
		homes = append(homes, home)
	}
	if s, err = p.sessionIn(ctx, attempt, arn, homes, asked); provider.ReasonOf(err) != provider.NotFound {
		return s, err
	}
	s, err = p.sessionIn(ctx, attempt, arn, []string{location}, asked)
	switch reason := provider.ReasonOf(err); {
	case err == nil:
		return s, nil
	case ctx.Err() != nil, reason == provider.RateLimited, codeOf(err) != "" && reason != provider.NotFound && reason != provider.Unauthenticated:
		return sighting{}, err // GameLift is there, and may be asked: it has to say
	default:
		return sighting{}, unknown(attempt)
	}
}

// sessionIn asks in those of the Regions that were not asked yet.
func (p *Provider) sessionIn(ctx context.Context, attempt, arn string, regions []string, asked map[string]bool) (sighting, error) {
	for _, region := range regions {
		if region == "" || asked[region] {
			continue
		}
		asked[region] = true
		found, err := p.client.describeSession(ctx, region, arn)
		if provider.ReasonOf(err) == provider.NotFound {
			continue
		}
		if err != nil {
			return sighting{}, err
		}
		return p.ofSession(region, attempt, found), nil
	}
	return sighting{}, unknown(attempt)
}

func (p *Provider) ofSession(region, attempt string, found *types.GameSession) sighting {
	state, failure, message := sessionState(found)
	return sighting{region: region, session: aws.ToString(found.GameSessionId), server: &providerv1.Server{
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
