package gamelift_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/smithy-go/encoding/cbor"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/gamelift"
	gamelifthost "github.com/berth-dev/berth/test/hosts/gamelift"
)

// A server in a location whose answer got lost is found by the ARN that it must have, of today's form and of the older one, is not doubled by a repeat that has
// another document, and is ended.
func TestALostAnswerFromALocation(t *testing.T) {
	for name, c := range map[string]struct {
		fleet, location string
		older           bool
		arn             string
	}{
		"remote":              {fleet, "eu-west-1", false, "arn:aws:gamelift:eu-central-1::gamesession/" + fleet + "/eu-west-1/"},
		"remote, older":       {fleet, "eu-west-1", true, "arn:aws:gamelift:eu-west-1::gamesession/" + fleet + "/"},
		"anywhere":            {office, "custom-office", false, "arn:aws:gamelift:eu-central-1::gamesession/" + office + "/custom-office/"},
		"anywhere, older":     {office, "custom-office", true, "arn:aws:gamelift:custom-office::gamesession/" + office + "/"},
		"the home Region":     {fleet, "eu-central-1", false, "arn:aws:gamelift:eu-central-1::gamesession/" + fleet + "/"},
		"home Region, older":  {fleet, "eu-central-1", true, "arn:aws:gamelift:eu-central-1::gamesession/" + fleet + "/"},
		"no location":         {fleet, "", false, "arn:aws:gamelift:eu-central-1::gamesession/" + fleet + "/"},
		"no location, older ": {fleet, "", true, "arn:aws:gamelift:eu-central-1::gamesession/" + fleet + "/"},
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := startOlder(t, c.older)
			cfg.Builds = map[string]gamelift.Build{"shooter": {Fleet: c.fleet}}
			cfg.Regions = map[string]gamelift.Region{"eu": {Region: "eu-central-1", Location: c.location}}
			p, req := open(t, cfg), order()
			if err := host.LoseReply(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err := p.Allocate(t.Context(), req)
			failsWith(t, err, "AMBIGUOUS", "")
			if err := host.Heal(t.Context()); err != nil {
				t.Fatal(err)
			}
			arn := host.Session(req.GetAttemptId())
			if arn != c.arn+req.GetAttemptId() {
				t.Fatalf("its ARN is %s", arn)
			}
			until(t, running, func() providerv1.ServerState { return get(t, p, req.GetAttemptId(), "").GetState() })
			req.Bootstrap = []byte(`{"v": 1}`)
			if s := allocate(t, open(t, cfg), req); s.GetExternalId() != arn || s.GetRegion() != "eu" {
				t.Errorf("the repeat, after a restart: %v", s)
			}
			p = open(t, cfg)
			until(t, exited, func() providerv1.ServerState { return release(t, p, req.GetAttemptId(), "") })
			if n := host.Count(); n.Started != 1 || n.Running != 0 {
				t.Errorf("%+v", n)
			}
		})
	}
}

// An ARN that GameLift refuses as none of its own is that of no session: it keeps no attempt from being found out about.
func TestAnARNThatIsRefused(t *testing.T) {
	var refuse atomic.Bool
	_, cfg := startBehind(t, func(string) http.HandlerFunc {
		if refuse.Load() {
			return gamelifthost.Refuse("InvalidRequestException", "GameSessionId is no valid ARN")
		}
		return nil
	})
	cfg.Builds = map[string]gamelift.Build{"shooter": {Fleet: office}}
	cfg.Regions = map[string]gamelift.Region{"eu": {Region: "eu-central-1", Location: "custom-office"}}
	p, req := open(t, cfg), order()
	refuse.Store(true)
	_, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: deployment})
	failsWith(t, err, "NOT_FOUND", "")
	refuse.Store(false)
	runs(t, p, req)
}

// The stand-in takes the documented form of ARN only, or the older one only: the tests above would show nothing otherwise.
func TestTheStandInKnowsItsARNs(t *testing.T) {
	for _, older := range []bool{false, true} {
		host, cfg := startOlder(t, older)
		cfg.Builds = map[string]gamelift.Build{"shooter": {Fleet: office}}
		cfg.Regions = map[string]gamelift.Region{"eu": {Region: "eu-central-1", Location: "custom-office"}}
		p, req := open(t, cfg), order()
		runs(t, p, req)
		wrong := "arn:aws:gamelift:custom-office::gamesession/" + office + "/" + req.GetAttemptId()
		if older {
			wrong = "arn:aws:gamelift:eu-central-1::gamesession/" + office + "/custom-office/" + req.GetAttemptId()
		}
		for arn, reason := range map[string]string{host.Session(req.GetAttemptId()): "", wrong: "INVALID", "arn:aws:s3:::bucket": "INVALID"} {
			_, err := open(t, cfg).Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), ExternalId: arn, Deployment: deployment})
			if reason == "" && err != nil || reason != "" && !strings.HasSuffix(provider.ReasonOf(err).String(), reason) {
				t.Errorf("older %v: %s: %v", older, arn, err)
			}
		}
	}
}

// That a session is not there GameLift may say with an error or with an empty list. Without a list it has said nothing.
func TestNoSuchSession(t *testing.T) {
	host, cfg := single(t, gamelift.Build{Fleet: fleet}, gamelift.Region{Region: "eu-central-1"})
	p, req := open(t, cfg), order()
	s := runs(t, p, req)
	gamelift.Hasten(p, 0, 0)
	ask := func() error {
		_, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), ExternalId: s.GetExternalId(), Deployment: deployment})
		return err
	}
	for text, answer := range map[string]http.HandlerFunc{
		"makes no sense: no list": gamelifthost.Answer(cbor.Map{}),
		"makes no sense:":         gamelifthost.Answer(cbor.Map{"__type": cbor.String("ThrottlingException")}),
		"makes no sense":          func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Smithy-Protocol", "rpc-v2-cbor") },
	} {
		host.Answer(answer)
		failsWith(t, ask(), "UNAVAILABLE", text)
		_, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment})
		failsWith(t, err, "UNAVAILABLE", text)
	}
	if err := host.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	host.Forget(req.GetAttemptId())
	for range 2 {
		failsWith(t, ask(), "NOT_FOUND", "")
	}
	if got := release(t, p, req.GetAttemptId(), s.GetExternalId()); got != exited {
		t.Errorf("its release: %v", got)
	}
}
