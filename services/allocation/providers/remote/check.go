package remote

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"buf.build/go/protovalidate"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// Bounds of what a plugin says, in bytes or entries.
const (
	maxID        = 512
	maxName      = 128
	maxNames     = 1000
	maxEndpoints = 64
	maxToken     = 4096
	maxPoll      = time.Hour
)

var attemptID = regexp.MustCompile(`^[a-zA-Z0-9-]{1,48}$`)

// checkDescription returns an error unless the plugin can be used as it says it is.
func checkDescription(d *providerv1.DescribeResponse) error {
	if v := max(1, d.GetContract()); v != provider.Contract {
		return fmt.Errorf("it speaks version %d of %s, and this allocation service version %d: use releases of both that fit",
			d.GetContract(), providerv1.ProviderService_ServiceDesc.ServiceName, provider.Contract)
	}
	for what, list := range map[string][]string{"regions": d.GetRegions(), "builds": d.GetBuilds()} {
		if len(list) > maxNames {
			return fmt.Errorf("its description has %d %s, and at most %d are taken", len(list), what, maxNames)
		}
		for _, name := range list {
			if name == "" || len(name) > maxName {
				return fmt.Errorf("its description has among the %s a name of %d bytes, not 1 to %d", what, len(name), maxName)
			}
		}
	}
	poll := d.GetPollInterval()
	switch {
	case d.GetKind() == "" || len(d.GetKind()) > maxName:
		return fmt.Errorf("its description has a kind of %d bytes, not 1 to %d", len(d.GetKind()), maxName)
	case len(d.GetVersion()) > maxName:
		return fmt.Errorf("its description has a version of %d bytes, and at most %d are taken", len(d.GetVersion()), maxName)
	case d.GetMaxBootstrapBytes() < 0:
		return fmt.Errorf("its description has max_bootstrap_bytes %d; 0 is no limit", d.GetMaxBootstrapBytes())
	case poll != nil && (!poll.IsValid() || poll.AsDuration() < 0 || poll.AsDuration() > maxPoll):
		return fmt.Errorf("its description has a poll_interval of %v, not 0s to %v", poll.AsDuration(), maxPoll)
	}
	return nil
}

// checkServer returns an error unless s can be the server of the attempt. What it says for people is cut off where it is long.
func checkServer(s *providerv1.Server, attempt string) error {
	switch _, known := providerv1.ServerState_name[int32(s.GetState())]; {
	case s == nil:
		return errors.New("it has no server")
	case s.GetAttemptId() != attempt:
		return fmt.Errorf("attempt_id is %.60q, and %q was asked for", s.GetAttemptId(), attempt)
	case s.GetState() == providerv1.ServerState_SERVER_STATE_UNSPECIFIED || !known:
		return fmt.Errorf("state is %d, which is no state of a server", s.GetState())
	case len(s.GetExternalId()) > maxID:
		return fmt.Errorf("external_id has %d bytes, and at most %d are taken", len(s.GetExternalId()), maxID)
	case len(s.GetServerId()) > maxID:
		return fmt.Errorf("server_id has %d bytes, and at most %d are taken", len(s.GetServerId()), maxID)
	case len(s.GetRegion()) > maxName:
		return fmt.Errorf("region has %d bytes, and at most %d are taken", len(s.GetRegion()), maxName)
	case len(s.GetEndpoints()) > maxEndpoints:
		return fmt.Errorf("there are %d endpoints, and at most %d are taken", len(s.GetEndpoints()), maxEndpoints)
	}
	seen := make(map[string]bool, len(s.GetEndpoints()))
	for _, e := range s.GetEndpoints() {
		if err := protovalidate.Validate(e); err != nil {
			return fmt.Errorf("endpoint %.60q: %w", e.GetName(), err)
		}
		if seen[e.GetName()] {
			return fmt.Errorf("two endpoints are named %q", e.GetName())
		}
		seen[e.GetName()] = true
	}
	s.Message = words(s.GetMessage())
	return nil
}

// checkPage returns an error unless a page can be gone on from. An entry that can be no server of Berth's is replaced by one without a state that says why, so that
// it does not hide the others.
func checkPage(page *providerv1.ListResponse) error {
	if n := len(page.GetNextPageToken()); n > maxToken {
		return fmt.Errorf("next_page_token has %d bytes, and at most %d are taken", n, maxToken)
	}
	for n, s := range page.GetServers() {
		if err := checkListed(s); err != nil {
			page.Servers[n] = &providerv1.Server{Message: fmt.Sprintf("entry %d of a page: %v", n, err)}
		}
	}
	return nil
}

// checkListed returns an error unless s can be a server of Berth's. It does not repeat what stands where an id should: nobody knows what that is.
func checkListed(s *providerv1.Server) error {
	if !attemptID.MatchString(s.GetAttemptId()) {
		return errors.New("attempt_id cannot be one of Berth's: a server without this deployment's mark does not belong into the list")
	}
	return checkServer(s, s.GetAttemptId())
}

func checkRelease(resp *providerv1.ReleaseResponse) error {
	switch resp.GetState() {
	case providerv1.ServerState_SERVER_STATE_STOPPING, providerv1.ServerState_SERVER_STATE_EXITED:
		return nil
	default:
		return fmt.Errorf("state is %d, which is neither STOPPING nor EXITED", resp.GetState())
	}
}
