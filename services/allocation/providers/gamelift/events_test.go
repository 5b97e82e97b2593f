package gamelift_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/gamelift"
	gamelifthost "github.com/berth-dev/berth/test/hosts/gamelift"
)

// listening is a provider that hears of placements, and would ask for none within the hour.
func listening(t *testing.T) (*gamelifthost.Host, *gamelift.Provider) {
	t.Helper()
	host, cfg := single(t, gamelift.Build{Queue: "plain"}, gamelift.Region{Region: "eu-central-1"})
	p := open(t, withEvents(t, host, cfg))
	gamelift.Hasten(p, 10*time.Millisecond, time.Hour)
	return host, p
}

// With events a server is known to run without a single question.
func TestEventsTellOfPlacements(t *testing.T) {
	host, p := listening(t)
	req := order()
	s := runs(t, p, req)
	if len(s.GetEndpoints()) != 1 || s.GetRegion() != "eu" || !strings.HasSuffix(s.GetExternalId(), req.GetAttemptId()) {
		t.Errorf("%v", s)
	}
	if n := host.Calls("DescribeGameSessionPlacement") + host.Calls("DescribeGameSessions"); n != 0 {
		t.Errorf("%d questions", n)
	}
	until(t, exited, func() providerv1.ServerState { return release(t, p, req.GetAttemptId(), "") })
	until(t, exited, func() providerv1.ServerState { // all that was taken is deleted
		if host.Left() == 0 {
			return exited
		}
		return stopping
	})
}

// Events come as SNS and as EventBridge send them, more than once and in any order; an end is an end. What is none is left out and deleted.
func TestEventsComeInAnyShapeAndOrder(t *testing.T) {
	host, p := listening(t)
	attempt := uuid.NewString() + "-1"
	event := func(kind, id, more string) string {
		return fmt.Sprintf(`{"version":"0","source":"aws.gamelift","region":"eu-central-1","detail":{"type":%q,"placementId":%q%s}}`, kind, id, more)
	}
	fulfilled := `,"port":4711,"ipAddress":"203.0.113.7","dnsName":"ec2.example.com","gameSessionArn":"arn:aws:gamelift:eu-central-1::gamesession/` + fleet + `/gsess-1"`
	for _, noise := range []string{"", "no JSON", `{"Message": "no JSON either"}`, "[]", event("PlacementFulfilled", attempt, ""), event("PlacementLost", attempt, ""), event("PlacementFailed", "not-an-attempt", "")} {
		host.Publish(noise)
	}
	empty := func() providerv1.ServerState {
		if host.Left() > 0 {
			return stopping
		}
		return exited
	}
	until(t, exited, empty)
	_, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: attempt, Deployment: deployment})
	failsWith(t, err, "NOT_FOUND", "")
	before := host.Calls("DescribeGameSessionPlacement")
	host.Publish(event("PlacementFulfilled", attempt, fulfilled))
	until(t, exited, empty)
	s := get(t, p, attempt, "")
	if e := s.GetEndpoints(); s.GetState() != running || len(e) != 1 || e[0].GetHost() != "203.0.113.7" || e[0].GetPort() != 4711 {
		t.Fatalf("%v", s)
	}
	host.Publish(event("PlacementCancelled", attempt, ""))
	host.Publish(event("PlacementFulfilled", attempt, fulfilled))
	until(t, exited, empty)
	if s := get(t, p, attempt, ""); s.GetState() != exited || s.GetFailure() != 0 { // a failure is of a server that never ran
		t.Errorf("it came back, or never ran: %v", s)
	}
	if n := host.Calls("DescribeGameSessionPlacement") - before; n != 0 {
		t.Errorf("%d questions", n)
	}
}

// An event of a placement that came to nothing says why, as the placement does, and its attempt has nothing to give back.
func TestEventsOfPlacementsThatFail(t *testing.T) {
	for kind, want := range map[string]providerv1.FailureReason{
		"PlacementFailed": provider.Unavailable, "PlacementCancelled": provider.Unavailable, "PlacementTimedOut": provider.NoCapacity,
	} {
		t.Run(kind, func(t *testing.T) {
			host, p := listening(t)
			attempt := uuid.NewString() + "-1"
			host.Publish(fmt.Sprintf(`{"version":"0","source":"aws.gamelift","region":"eu-central-1","detail":{"type":%q,"placementId":%q}}`, kind, attempt))
			until(t, exited, func() providerv1.ServerState {
				if host.Left() > 0 {
					return stopping
				}
				return exited
			})
			if s := get(t, p, attempt, ""); s.GetState() != exited || s.GetFailure() != want || s.GetMessage() == "" || len(s.GetEndpoints()) != 0 {
				t.Errorf("%v", s)
			}
			if got := release(t, p, attempt, ""); got != exited || len(listed(t, p)) != 0 {
				t.Errorf("released: %v; listed: %v", got, listed(t, p))
			}
			if n := host.Calls("DescribeGameSessionPlacement") + host.Calls("StopGameSessionPlacement") + host.Calls("TerminateGameSession"); n != 0 {
				t.Errorf("%d questions", n)
			}
		})
	}
}

// Without a queue that answers, servers are asked about; Close does not wait for one that hangs, and no secret is logged.
func TestEventsThatDoNotCome(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"it hangs": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"it refuses": func(w http.ResponseWriter, r *http.Request) {
			gamelifthost.Refuse("AccessDenied", "sqs:ReceiveMessage")(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, cfg := single(t, gamelift.Build{Queue: "plain"}, gamelift.Region{Region: "eu-central-1"})
			asked := make(chan struct{}, 100) // as often as it may ask in this test
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // without it a server does not notice that its caller is gone
				asked <- struct{}{}
				answer(w, r)
			}))
			defer srv.Close()
			var log safeBuffer
			cfg.Events, cfg.Log = gamelift.Events{QueueURL: srv.URL + gamelifthost.QueuePath, Region: "eu-central-1"}, slog.New(slog.NewTextHandler(&log, nil))
			p, err := gamelift.New(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			<-asked
			gamelift.Hasten(p, 10*time.Millisecond, 10*time.Millisecond)
			runs(t, p, order())
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if err := p.Close(ctx); err != nil {
				t.Error(err)
			}
			if text := log.String(); strings.Contains(text, secretKey) || strings.Contains(text, "AWS4-HMAC") || name == "it refuses" && !strings.Contains(text, "cannot be read") {
				t.Errorf("the log: %s", text)
			}
		})
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
