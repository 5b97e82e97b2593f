package gamelift_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/smithy-go/encoding/cbor"
	"github.com/google/uuid"
	"google.golang.org/grpc/status"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/gamelift"
	gamelifthost "github.com/berth-dev/berth/test/hosts/gamelift"
)

const deployment = "berth-test"

// order makes a request for a server of build shooter in eu.
func order() *providerv1.AllocateRequest {
	instance := uuid.NewString()
	attempt := instance + "-1"
	return &providerv1.AllocateRequest{
		AttemptId: attempt, Namespace: "default", InstanceId: instance, Build: "shooter", Region: "eu", Deployment: deployment, Bootstrap: providertest.Bootstrap(attempt, instance),
	}
}

func failsWith(t *testing.T, err error, reason, text string) {
	t.Helper()
	message := status.Convert(err).Message()
	if got := strings.TrimPrefix(provider.ReasonOf(err).String(), "FAILURE_REASON_"); err == nil || got != reason || !strings.Contains(message, text) {
		t.Errorf("%v: %v; want %s with %q", got, err, reason, text)
	}
	for _, secret := range []string{secretKey, "social.", "xxxxxxxx"} {
		if strings.Contains(message, secret) {
			t.Errorf("there is a secret in it: %s", message)
		}
	}
}

// What GameLift refuses with, in its own words, when a server is asked for.
func TestRefusalsOfAllocate(t *testing.T) {
	for _, c := range []struct{ code, message, queue, fleet string }{
		{"FleetCapacityExceededException", "Unable to reserve a process on fleet", "NO_CAPACITY", "NO_CAPACITY"},
		{"OutOfCapacityException", "No capacity in the location", "NO_CAPACITY", "NO_CAPACITY"},
		{"NotReadyException", "The compute is not ready", "UNAVAILABLE", "UNAVAILABLE"},
		{"LimitExceededException", "Exceeded game sessions for the account", "QUOTA", "QUOTA"},
		{"ThrottlingException", "Rate exceeded", "RATE_LIMITED", "RATE_LIMITED"},
		{"TooManyRequestsException", "Too many", "RATE_LIMITED", "RATE_LIMITED"},
		{"InternalServiceException", "An internal error occurred", "AMBIGUOUS", "AMBIGUOUS"},
		{"InvalidRequestException", "Location is invalid", "AMBIGUOUS", "INVALID"}, // the look is refused too: nobody knows whether the placement is there
		{"ConflictException", "Resource is busy", "AMBIGUOUS", "AMBIGUOUS"},
		{"IdempotentParameterMismatchException", "Other parameters", "INVALID", "AMBIGUOUS"},
		{"InvalidFleetStatusException", "Fleet is DELETING", "UNAVAILABLE", "AMBIGUOUS"},
		{"NotFoundException", "No fleet or queue of that name", "INVALID", "INVALID"},
		{"UnsupportedRegionException", "Not in this Region", "INVALID", "INVALID"},
		{"TerminalRoutingStrategyException", "This version has ended", "INVALID", "INVALID"},
		{"ValidationException", "1 validation error detected", "INVALID", "INVALID"},
		{"UnauthorizedException", "The client failed authentication", "UNAUTHENTICATED", "UNAUTHENTICATED"},
		{"AccessDeniedException", "User: arn:aws:iam::123456789012:user/berth is not authorized", "UNAUTHENTICATED", "UNAUTHENTICATED"},
		{"ExpiredTokenException", "The security token included in the request is expired", "UNAUTHENTICATED", "UNAUTHENTICATED"},
		{"InvalidSignatureException", "The request signature we calculated does not match", "UNAUTHENTICATED", "UNAUTHENTICATED"},
		{"ServiceUnavailableException", "Try later", "UNAVAILABLE", "UNAVAILABLE"},
	} {
		for kind, want := range map[string]string{"queue": c.queue, "fleet": c.fleet} {
			t.Run(c.code+"/"+kind, func(t *testing.T) {
				host, cfg := start(t)
				cfg.Builds = map[string]gamelift.Build{"shooter": {Fleet: fleet}}
				if kind == "queue" {
					cfg.Builds = map[string]gamelift.Build{"shooter": {Queue: "plain"}}
				}
				calls := 0
				host.Answer(func(w http.ResponseWriter, r *http.Request) {
					calls++
					gamelifthost.Refuse(c.code, c.message)(w, r)
				})
				_, err := open(t, cfg).Allocate(t.Context(), order())
				failsWith(t, err, want, c.code)
				if strings.Contains(err.Error(), "not known") != (calls == 2) || calls > 2 {
					t.Errorf("%d calls: %v", calls, err)
				}
				if want == "INVALID" && !strings.Contains(err.Error(), "gamelift.builds.shooter, in eu-central-1") {
					t.Errorf("it does not say what to change: %v", err)
				}
			})
		}
	}
}

// A conflict with an earlier call for the same attempt: what that has made is taken up. If there is nothing, another call may be at it yet.
func TestAConflict(t *testing.T) {
	for name, build := range map[string]gamelift.Build{"queue": {Queue: "plain"}, "fleet": {Fleet: fleet}} {
		t.Run(name, func(t *testing.T) {
			host, cfg := single(t, build, gamelift.Region{Region: "eu-central-1"})
			conflict := func() {
				host.Answer(func(w http.ResponseWriter, r *http.Request) { // once
					_ = host.Heal(r.Context())
					gamelifthost.Refuse("ConflictException", "Resource is busy")(w, r)
				})
			}
			there := order()
			before := runs(t, open(t, cfg), there)
			conflict()
			if s := allocate(t, open(t, cfg), there); s.GetExternalId() != before.GetExternalId() || s.GetState() != running {
				t.Errorf("%v, before: %v", s, before)
			}
			conflict()
			_, err := open(t, cfg).Allocate(t.Context(), order())
			failsWith(t, err, "AMBIGUOUS", "ConflictException")
			if c := host.Count(); c.Started != 1 {
				t.Errorf("%+v", c)
			}
		})
	}
}

// The same refusals of the queue, the fleet and the alias by the stand-in's own rules.
func TestWhatIsConfiguredWrong(t *testing.T) {
	for name, c := range map[string]struct {
		build  gamelift.Build
		region gamelift.Region
		reason string
	}{
		"no such queue":         {gamelift.Build{Queue: "nothing"}, gamelift.Region{Region: "eu-central-1"}, "INVALID"},
		"another Region":        {gamelift.Build{Queue: "plain"}, gamelift.Region{Region: "us-east-1"}, "INVALID"},
		"a queue of no places":  {gamelift.Build{Queue: "plain"}, gamelift.Region{Region: "eu-central-1", Location: "eu-west-1"}, "INVALID"},
		"no such fleet":         {gamelift.Build{Fleet: "fleet-0"}, gamelift.Region{Region: "eu-central-1"}, "INVALID"},
		"no such alias":         {gamelift.Build{Alias: "alias-0"}, gamelift.Region{Region: "eu-central-1"}, "INVALID"},
		"a terminal alias":      {gamelift.Build{Alias: retired}, gamelift.Region{Region: "eu-central-1"}, "INVALID"},
		"no such location":      {gamelift.Build{Fleet: fleet}, gamelift.Region{Region: "eu-central-1", Location: "mars"}, "INVALID"},
		"anywhere, but where":   {gamelift.Build{Fleet: anywhere}, gamelift.Region{Region: "eu-central-1"}, "INVALID"},
		"a full fleet":          {gamelift.Build{Fleet: tiny}, gamelift.Region{Region: "eu-central-1"}, "NO_CAPACITY"},
		"a fleet that comes up": {gamelift.Build{Fleet: down}, gamelift.Region{Region: "eu-central-1"}, "UNAVAILABLE"},
	} {
		t.Run(name, func(t *testing.T) {
			_, cfg := start(t)
			cfg.Builds, cfg.Regions = map[string]gamelift.Build{"shooter": c.build}, map[string]gamelift.Region{"eu": c.region}
			_, err := open(t, cfg).Allocate(t.Context(), order())
			failsWith(t, err, c.reason, "")
		})
	}
}

// An answer that makes no sense: what GameLift did is not known, and no server is taken for gone.
func TestAnswersWithoutSense(t *testing.T) {
	good := cbor.Map{"PlacementId": cbor.String("other"), "Status": cbor.String("PENDING")}
	for name, answer := range map[string]http.HandlerFunc{
		"HTML": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>welcome</html>")
		},
		"half of CBOR": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Smithy-Protocol", "rpc-v2-cbor")
			whole := cbor.Encode(cbor.Map{"GameSessionPlacement": good, "GameSessions": cbor.List{}})
			_, _ = w.Write(whole[:len(whole)/2])
		},
		"an error in a success":  gamelifthost.Answer(cbor.Map{"__type": cbor.String("NotFoundException"), "message": cbor.String("x")}),
		"nothing":                gamelifthost.Answer(cbor.Map{}),
		"another's":              gamelifthost.Answer(cbor.Map{"GameSessionPlacement": good}),
		"a redirect":             func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Location", "/other"); w.WriteHeader(307) },
		"an empty 500":           func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"a status that is wrong": gamelifthost.Answer(cbor.Map{"GameSessionPlacement": cbor.Uint(3)}),
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t)
			cfg.Builds = map[string]gamelift.Build{"shooter": {Queue: "plain"}}
			p, there := open(t, cfg), order()
			if _, err := p.Allocate(t.Context(), there); err != nil {
				t.Fatal(err)
			}
			gamelift.Hasten(p, 0, 0)
			host.Answer(answer)
			text := "makes no sense"
			if name == "a redirect" || name == "an empty 500" {
				text = "no error of the API"
			}
			_, err := p.Allocate(t.Context(), order())
			failsWith(t, err, "AMBIGUOUS", text)
			_, err = p.Get(t.Context(), &providerv1.GetRequest{AttemptId: there.GetAttemptId(), Deployment: deployment})
			failsWith(t, err, "UNAVAILABLE", text)
		})
	}
}

// An answer that breaks off, or does not come whole in time, is none: nothing is said of its sense.
func TestAnswersThatBreakOff(t *testing.T) {
	for text, c := range map[string]struct {
		status int
		end    func(http.ResponseWriter, *http.Request)
	}{
		"unexpected EOF":    {200, func(http.ResponseWriter, *http.Request) {}},
		"no answer in time": {200, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		"reset by peer":     {400, reset},
	} {
		t.Run(text, func(t *testing.T) {
			host, cfg := start(t)
			cfg.Builds = map[string]gamelift.Build{"shooter": {Queue: "plain"}}
			p := open(t, cfg)
			host.Answer(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Smithy-Protocol", "rpc-v2-cbor")
				w.Header().Set("Content-Length", "1000")
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte{0xbf})
				_ = http.NewResponseController(w).Flush()
				c.end(w, r)
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := p.Allocate(ctx, order())
			failsWith(t, err, "AMBIGUOUS", text)
		})
	}
}

// An answer without end is none, and is not read to its end.
func TestAnAnswerWithoutEnd(t *testing.T) {
	host, cfg := start(t)
	cfg.Builds = map[string]gamelift.Build{"shooter": {Queue: "plain"}}
	p := open(t, cfg)
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Smithy-Protocol", "rpc-v2-cbor")
		for range 64 { // of a MiB
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
		t.Error("it was read to its end")
	})
	_, err := p.Allocate(t.Context(), order())
	failsWith(t, err, "AMBIGUOUS", "more than 8388608 bytes")
	_, err = p.Get(t.Context(), &providerv1.GetRequest{AttemptId: order().GetAttemptId(), Deployment: deployment})
	failsWith(t, err, "UNAVAILABLE", "more than 8388608 bytes")
}

// A refusal that is not the API's own is a page of something on the way: it says nothing of what GameLift did, whatever its status, but may want
// credentials or fewer calls.
func TestAPageThatRefuses(t *testing.T) {
	for status, want := range map[int][3]string{ // of Allocate, Get and Release
		400: {"AMBIGUOUS", "UNAVAILABLE", "AMBIGUOUS"}, 401: {"AMBIGUOUS", "UNAVAILABLE", "AMBIGUOUS"}, 403: {"AMBIGUOUS", "UNAVAILABLE", "AMBIGUOUS"},
		404: {"AMBIGUOUS", "UNAVAILABLE", "AMBIGUOUS"}, 405: {"AMBIGUOUS", "UNAVAILABLE", "AMBIGUOUS"}, 413: {"AMBIGUOUS", "UNAVAILABLE", "AMBIGUOUS"},
		407: {"UNAUTHENTICATED", "UNAUTHENTICATED", "UNAUTHENTICATED"},
		429: {"RATE_LIMITED", "RATE_LIMITED", "RATE_LIMITED"}, 502: {"AMBIGUOUS", "UNAVAILABLE", "AMBIGUOUS"}, 503: {"UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE"},
	} {
		host, cfg := start(t)
		cfg.Builds = map[string]gamelift.Build{"shooter": {Queue: "plain"}}
		p, there := open(t, cfg), order()
		allocate(t, p, there)
		gamelift.Hasten(p, 0, 0)
		host.Answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<html><h1>no</h1></html>")
		})
		_, allocated := p.Allocate(t.Context(), order())
		_, got := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: there.GetAttemptId(), Deployment: deployment})
		_, released := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: there.GetAttemptId(), Deployment: deployment})
		for n, err := range []error{allocated, got, released} {
			failsWith(t, err, want[n], "no error of the API")
			failsWith(t, err, want[n], "HTTP "+strconv.Itoa(status))
		}
	}
}

// reset breaks the connection of a request.
func reset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// The SDK of AWS repeats nothing by itself: a throttle is told at once, with the time that GameLift names, and kept to; for a moment where it names none.
func TestAThrottleIsToldAtOnce(t *testing.T) {
	for _, after := range []time.Duration{4500 * time.Millisecond, 0} {
		host, cfg := start(t)
		cfg.Builds = map[string]gamelift.Build{"shooter": {Queue: "plain"}}
		calls := 0
		host.Answer(func(w http.ResponseWriter, r *http.Request) {
			calls++
			if after > 0 {
				w.Header().Set("X-Amz-Retry-After", strconv.FormatInt(after.Milliseconds(), 10))
			}
			gamelifthost.Refuse("ThrottlingException", "Rate exceeded")(w, r)
		})
		p := open(t, cfg)
		since := time.Now()
		for range 2 {
			_, err := p.Allocate(t.Context(), order())
			failsWith(t, err, "RATE_LIMITED", "")
			if got := provider.RetryAfterOf(err); after > 0 && (got > after || got < after-1500*time.Millisecond) {
				t.Errorf("after %v, want %v", got, after)
			}
		}
		if calls != 1 && time.Since(since) < time.Second { // for which it is left alone at least
			t.Errorf("%d calls", calls)
		}
	}
}

// A throttle is of one Region: others are called as before.
func TestAThrottleIsOfOneRegion(t *testing.T) {
	host, cfg := start(t)
	cfg.Builds = map[string]gamelift.Build{"shooter": {Fleet: fleet}, "puzzle": {Fleet: american}}
	cfg.Regions["us"] = gamelift.Region{Region: "us-east-1"}
	p := open(t, cfg)
	if err := host.Throttle(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	_, err := p.Allocate(t.Context(), order())
	failsWith(t, err, "RATE_LIMITED", "Rate exceeded")
	if err := host.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	there := order()
	there.Build, there.Region = "puzzle", "us"
	allocate(t, p, there)
	_, err = p.Allocate(t.Context(), order())
	failsWith(t, err, "RATE_LIMITED", "no more calls")
}

// The stand-in refuses what GameLift does not speak or allow: the tests above would show nothing otherwise.
func TestTheStandInRefusesWrongShapes(t *testing.T) {
	host := gamelifthost.New(account())
	t.Cleanup(host.Close)
	const path = "/service/GameLift/operation/StartGameSessionPlacement"
	signature := "AWS4-HMAC-SHA256 Credential=" + accessKey + "/" + time.Now().UTC().Format("20060102") + "/eu-central-1/gamelift/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + strings.Repeat("0", 64)
	long := cbor.Map{"PlacementId": cbor.String(strings.Repeat("a", 49)), "GameSessionQueueName": cbor.String("plain"), "MaximumPlayerSessionCount": cbor.Uint(1)}
	mark := cbor.Map{
		"PlacementId": cbor.String("a"), "GameSessionQueueName": cbor.String("plain"), "MaximumPlayerSessionCount": cbor.Uint(1),
		"GameProperties": cbor.List{cbor.Map{"Key": cbor.String("token"), "Value": cbor.String(strings.Repeat("a", 97))}},
	}
	for name, c := range map[string]struct {
		path, code string
		body       []byte
		change     func(http.Header)
	}{
		"JSON 1.1":             {"/", "UnknownOperationException", []byte("{}"), func(h http.Header) { h.Set("X-Amz-Target", "GameLift.StartGameSessionPlacement") }},
		"no CBOR":              {path, "SerializationException", []byte("{}"), nil},
		"a number for a text":  {path, "SerializationException", cbor.Encode(cbor.Map{"PlacementId": cbor.Uint(1)}), nil},
		"too long an id":       {path, "InvalidRequestException", cbor.Encode(long), nil},
		"too long a property":  {path, "InvalidRequestException", cbor.Encode(mark), nil},
		"no signature":         {path, "MissingAuthenticationTokenException", cbor.Encode(long), func(h http.Header) { h.Del("Authorization") }},
		"a signature for more": {path, "InvalidSignatureException", cbor.Encode(long), func(h http.Header) { h.Set("Authorization", strings.Replace(signature, "/gamelift/", "/sqs/", 1)) }},
	} {
		r := httptest.NewRequest(http.MethodPost, c.path, bytes.NewReader(c.body))
		for key, value := range map[string]string{
			"Smithy-Protocol": "rpc-v2-cbor", "Content-Type": "application/cbor", "Accept": "application/cbor", "Authorization": signature,
			"X-Amz-Date": time.Now().UTC().Format("20060102T150405Z"),
		} {
			r.Header.Set(key, value)
		}
		if c.change != nil {
			c.change(r.Header)
		}
		w := httptest.NewRecorder()
		host.ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), c.code) {
			t.Errorf("%s: %d %q", name, w.Code, w.Body)
		}
	}
}
