package providertest

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
	"unicode/utf8"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// Bounds of what the allocation service takes, in bytes or entries; those of a host's name in characters. What is beyond them it refuses, whatever the rest of the answer says.
const (
	maxID        = 512
	maxName      = 128
	maxNames     = 1000
	maxEndpoints = 64
	maxHost      = 253
	maxPort      = 65535
	maxToken     = 4096
	maxPoll      = time.Minute
)

// endpointName is what an endpoint can be called: players' clients and labels of hosts carry it.
var endpointName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// sane ends the check if an answer cannot be one for the attempt. It notes the external id, by which the provider is asked from then on.
func (p *probe) sane(method string, s *providerv1.Server, attempt string) {
	if err := checkServer(s, attempt); err != nil {
		p.failf("%s answers %v", method, err)
	}
	if id := s.GetExternalId(); id != "" {
		p.told[attempt] = id
	}
}

// checkServer returns what is wrong with an answer for the attempt, in words that go on after "answers".
func checkServer(s *providerv1.Server, attempt string) error {
	switch {
	case s == nil:
		return errors.New("without a server, and without a failure")
	case s.GetAttemptId() != attempt:
		return fmt.Errorf("for attempt %q, asked about %q", s.GetAttemptId(), attempt)
	case s.GetState() < starting || s.GetState() > exited:
		return fmt.Errorf("with state %v", s.GetState())
	case s.GetFailure() != 0 && s.GetState() != exited:
		return fmt.Errorf("with the failure %v of a server that is %v: only one that has EXITED was refused after all", s.GetFailure(), s.GetState())
	case s.GetFailure() == provider.Ambiguous || s.GetFailure() == provider.NotFound:
		return fmt.Errorf("with the failure %v of a server that has ended: that is no reason for which one is refused", s.GetFailure())
	case len(s.GetExternalId()) > maxID:
		return fmt.Errorf("with an external_id of %d bytes, and at most %d are taken", len(s.GetExternalId()), maxID)
	case len(s.GetServerId()) > maxID:
		return fmt.Errorf("with a server_id of %d bytes, and at most %d are taken", len(s.GetServerId()), maxID)
	case len(s.GetRegion()) > maxName:
		return fmt.Errorf("with a region of %d bytes, and at most %d are taken", len(s.GetRegion()), maxName)
	}
	return checkEndpoints(s.GetEndpoints())
}

func checkEndpoints(endpoints []*typev1.Endpoint) error {
	if n := len(endpoints); n > maxEndpoints {
		return fmt.Errorf("with %d endpoints, and at most %d are taken", n, maxEndpoints)
	}
	seen := make(map[string]bool, len(endpoints))
	for _, e := range endpoints {
		switch _, known := typev1.Protocol_name[int32(e.GetProtocol())]; {
		case e.GetHost() == "" || e.GetPort() == 0 || e.GetPort() > maxPort:
			return fmt.Errorf("with an endpoint that players cannot go to: %v", e)
		case utf8.RuneCountInString(e.GetHost()) > maxHost:
			return fmt.Errorf("with an endpoint whose host has %d characters, and at most %d are taken", utf8.RuneCountInString(e.GetHost()), maxHost)
		case !endpointName.MatchString(e.GetName()):
			return fmt.Errorf("with an endpoint named %.80q: a name has 1 to 63 of a-z, 0-9 and '-', and begins and ends with none of the latter", e.GetName())
		case seen[e.GetName()]:
			return fmt.Errorf("with two endpoints named %q", e.GetName())
		case !known:
			return fmt.Errorf("with an endpoint of protocol %d, which is none of the contract's", e.GetProtocol())
		}
		seen[e.GetName()] = true
	}
	return nil
}

// checkDescription returns what is wrong with what a provider says that it is.
func (p *probe) checkDescription(d *providerv1.DescribeResponse) error {
	switch poll := d.GetPollInterval(); {
	case d.GetKind() == "" || len(d.GetKind()) > maxName:
		return fmt.Errorf("kind: has %d bytes, not 1 to %d", len(d.GetKind()), maxName)
	case len(d.GetVersion()) > maxName:
		return fmt.Errorf("version: has %d bytes, and at most %d are taken", len(d.GetVersion()), maxName)
	case d.GetContract() != 0 && d.GetContract() != provider.Contract:
		return fmt.Errorf("contract: is %d; the caller named %d", d.GetContract(), provider.Contract)
	case len(d.GetBuilds()) == 0:
		return errors.New("builds: there are none; at least one is needed")
	case d.GetMaxBootstrapBytes() < 0 || d.GetMaxBootstrapBytes() > 0 && d.GetMaxBootstrapBytes() < bootstrapSize:
		return fmt.Errorf("max_bootstrap_bytes: is %d; a document has about %d", d.GetMaxBootstrapBytes(), bootstrapSize)
	case poll != nil && (!poll.IsValid() || poll.AsDuration() <= 0 || poll.AsDuration() > maxPoll):
		return fmt.Errorf("poll_interval: is %v; a server is noticed that late. Up to %v, or unset", poll.AsDuration(), maxPoll)
	}
	if err := errors.Join(checkNames("builds", d.GetBuilds()), checkNames("regions", d.GetRegions())); err != nil {
		return err
	}
	switch {
	case !slices.Contains(d.GetBuilds(), p.cfg.Build):
		return fmt.Errorf("builds: %q is not among %q", p.cfg.Build, d.GetBuilds())
	case p.cfg.Region != "" && !slices.Contains(d.GetRegions(), p.cfg.Region):
		return fmt.Errorf("regions: %q is not among %q", p.cfg.Region, d.GetRegions())
	default:
		return nil
	}
}

func checkNames(what string, names []string) error {
	if len(names) > maxNames {
		return fmt.Errorf("%s: there are %d, and at most %d are taken", what, len(names), maxNames)
	}
	for _, name := range names {
		if name == "" || len(name) > maxName {
			return fmt.Errorf("%s: %.60q has %d bytes, not 1 to %d", what, name, len(name), maxName)
		}
	}
	return nil
}
