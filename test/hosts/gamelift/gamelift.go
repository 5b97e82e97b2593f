// Package gamelift stands in for the API of Amazon GameLift Servers, as the API model of 2015-10-01 and its documentation have it: rpc-v2-cbor, signed with
// SigV4. Each rule names the statement of the model or the documentation that it enforces. What is not documented is said to be an assumption.
package gamelift

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/smithy-go/encoding/cbor"

	"github.com/berth-dev/berth/test/hosts/standin"
)

// Times in which things become. Assumptions, all much shorter than AWS's.
const (
	placing     = 20 * time.Millisecond // until a queue has tried a placement, and from try to try
	activating  = 20 * time.Millisecond // until a server process calls ActivateGameSession
	terminating = 20 * time.Millisecond // until a server process that is told to end calls ProcessEnding
	listing     = 20 * time.Millisecond // until a session is in the list of its fleet
)

// account is the AWS account of fleets and queues.
const account = "123456789012"

// Fleet is a fleet of server processes.
type Fleet struct {
	// Region is its home Region.
	Region string
	// Locations are its remote locations, or the custom ones of an Anywhere fleet.
	Locations []string
	// Slots is how many sessions it has room for.
	Slots int
	// TLS fleets have DNS names that players must use.
	TLS bool
	// Anywhere fleets need a location, and cannot be told to end a session by force.
	Anywhere bool
	// Stubborn servers do not call ProcessEnding when they are told to end.
	Stubborn bool
	// Status of the fleet; empty: ACTIVE.
	Status string
}

// Alias points to a fleet, or with a message to none ("terminal").
type Alias struct{ Region, Fleet, Message string }

// Queue places sessions on fleets.
type Queue struct {
	// Region is where the queue is.
	Region string
	// Destinations are names of fleets or aliases.
	Destinations []string
	// Locations: it prioritizes locations first, and so can be given some.
	Locations bool
	// Timeout of placements.
	Timeout time.Duration
}

// Config configures a stand-in.
type Config struct {
	// AccessKey is the one whose signature is taken.
	AccessKey string
	// Fleets, Aliases and Queues by name.
	Fleets  map[string]Fleet
	Aliases map[string]Alias
	Queues  map[string]Queue
	// OlderARNs: ARNs of sessions name the location in place of the home Region, as older pages of the documentation have it.
	OlderARNs bool
	// Run runs the servers; nil: they are only said to run.
	Run standin.Run
}

// Host is the stand-in.
type Host struct {
	*standin.Host
	api   *api
	front http.Handler
	spare atomic.Bool // aliases are resolved whatever else goes wrong
}

// New returns the stand-in.
func New(cfg Config) *Host {
	cfg.Aliases = maps.Clone(cfg.Aliases)
	a := &api{
		cfg: cfg, servers: standin.NewServers(cfg.Run), placements: make(map[string]*placement), sessions: make(map[string]*session), calls: make(map[string]int),
		queue: newQueue(cfg.AccessKey), moved: make(chan struct{}),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /service/GameLift/operation/{operation}", a.serve)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { // such as JSON 1.1 with X-Amz-Target, which this stand-in does not speak
		refuse(w, fail("UnknownOperationException", "no operation of rpc-v2-cbor"))
	})
	creates := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/CreateGameSession") }
	return &Host{api: a, front: mux, Host: standin.New(standin.Dialect{
		Creates:   creates,
		Throttled: throttled,
		Full: func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, fail("FleetCapacityExceededException", "Unable to reserve a process on fleet"))
		},
		OverQuota: func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, fail("LimitExceededException", "The requested operation would cause the resource to exceed the allowed service limit"))
		},
		Refused: func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, fail("UnrecognizedClientException", "The security token included in the request is invalid."))
		},
	}, a.servers, mux)}
}

// ServeHTTP implements http.Handler.
func (h *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.spare.Load() && strings.HasSuffix(r.URL.Path, "/ResolveAlias") {
		h.front.ServeHTTP(w, r)
		return
	}
	h.Host.ServeHTTP(w, r)
}

// LoseReply, Late, Garble and Throttle implement providertest.Host. Aliases are resolved meanwhile: it is the call after that which is to go wrong, and limits
// are those of a kind of call.

// LoseReply implements providertest.Host.
func (h *Host) LoseReply(ctx context.Context) error {
	h.spare.Store(true)
	return h.Host.LoseReply(ctx)
}

// Late implements providertest.Host.
func (h *Host) Late(ctx context.Context, after time.Duration) error {
	h.spare.Store(true)
	return h.Host.Late(ctx, after)
}

// Garble implements providertest.Host.
func (h *Host) Garble(ctx context.Context) error {
	h.spare.Store(true)
	return h.Host.Garble(ctx)
}

// Throttle implements providertest.Host.
func (h *Host) Throttle(ctx context.Context, after time.Duration) error {
	h.spare.Store(true)
	return h.Host.Throttle(ctx, after)
}

// Heal implements providertest.Host.
func (h *Host) Heal(ctx context.Context) error {
	h.spare.Store(false)
	return h.Host.Heal(ctx)
}

// MoveAlias points an alias to another fleet, as UpdateAlias does.
func (h *Host) MoveAlias(alias, fleet string) {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	h.api.cfg.Aliases[alias] = Alias{Region: h.api.cfg.Fleets[fleet].Region, Fleet: fleet}
}

// throttled refuses as AWS does. The header is the one that its SDKs keep to (in milliseconds); that GameLift sends it is an assumption.
func throttled(w http.ResponseWriter, _ *http.Request, after time.Duration) {
	w.Header().Set("X-Amz-Retry-After", strconv.FormatInt(after.Milliseconds(), 10))
	refuse(w, fail("ThrottlingException", "Rate exceeded"))
}

// fault is an error of the API.
type fault struct {
	code, message string
	status        int
}

func fail(code, format string, args ...any) *fault {
	f := &fault{code, fmt.Sprintf(format, args...), http.StatusBadRequest}
	if code == "InternalServiceException" { // the one of the model that is the server's fault
		f.status = http.StatusInternalServerError
	}
	return f
}

// modelled are the errors of the model, which have a namespace; an error of the front of AWS has none.
var modelled = regexp.MustCompile(`^(Conflict|FleetCapacityExceeded|IdempotentParameterMismatch|InternalService|InvalidFleetStatus|InvalidGameSessionStatus|InvalidRequest|` +
	`LimitExceeded|NotFound|NotReady|TerminalRoutingStrategy|Unauthorized|UnsupportedRegion)Exception$`)

// Refuse returns what answers with an error of the API.
func Refuse(code, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { refuse(w, fail(code, "%s", message)) }
}

// Answer returns what answers with that, as a success.
func Answer(body cbor.Map) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, body) }
}

func refuse(w http.ResponseWriter, f *fault) {
	kind := f.code
	if modelled.MatchString(kind) {
		kind = "com.amazonaws.gamelift#" + kind
	}
	answer(w, f.status, cbor.Map{"__type": cbor.String(kind), "message": cbor.String(f.message)})
}

func answer(w http.ResponseWriter, status int, body cbor.Map) {
	w.Header().Set("Smithy-Protocol", "rpc-v2-cbor")
	w.Header().Set("Content-Type", "application/cbor")
	w.Header().Set("X-Amzn-Requestid", "6f0a3f2e-8c1b-4f4e-9a55-3f8c9b0f4a11")
	w.WriteHeader(status)
	_, _ = w.Write(cbor.Encode(body))
}

// signature is the form of SigV4's header.
var signature = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([A-Za-z0-9]+)/(\d{8})/([a-z0-9-]+)/([a-z]+)/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=[0-9a-f]{64}$`)

// signed checks the form of a signature, and returns the Region that it is for.
func signed(r *http.Request, key, service string) (region string, f *fault) {
	m := signature.FindStringSubmatch(r.Header.Get("Authorization"))
	date := r.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", date)
	switch {
	case m == nil:
		return "", fail("MissingAuthenticationTokenException", "Missing Authentication Token")
	case m[4] != service:
		return "", fail("InvalidSignatureException", "Credential should be scoped to correct service: '%s'.", service)
	case err != nil || !strings.HasPrefix(date, m[2]) || !strings.Contains(";"+m[5]+";", ";x-amz-date;") || !strings.Contains(";"+m[5]+";", ";host;"):
		return "", fail("IncompleteSignatureException", "Authorization header requires a signed host and x-amz-date")
	case time.Since(at).Abs() > 5*time.Minute:
		return "", fail("InvalidSignatureException", "Signature expired")
	case m[1] != key:
		return "", fail("UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	return m[3], nil
}

type api struct {
	cfg        Config
	servers    *standin.Servers
	queue      *queue
	mu         sync.Mutex
	placements map[string]*placement // by id; ids are unique in all Regions, for ever
	sessions   map[string]*session   // by ARN
	calls      map[string]int        // by operation
	made       int                   // sessions, those that are forgotten too
	missed     int                   // sessions that were asked for, and are not there
	closed     bool
	held       bool          // no session becomes active
	moved      chan struct{} // closed by the next change of a placement
	pending    sync.WaitGroup
}

// operation answers a request that is signed for a Region. The API is locked.
type operation func(a *api, region string, in *input) (cbor.Map, *fault)

func operations() map[string]operation {
	return map[string]operation{
		"StartGameSessionPlacement": (*api).startPlacement, "DescribeGameSessionPlacement": (*api).describePlacement, "StopGameSessionPlacement": (*api).stopPlacement,
		"CreateGameSession": (*api).create, "DescribeGameSessions": (*api).describe, "TerminateGameSession": (*api).terminate,
		"DescribeGameSessionQueues": (*api).describeQueues, "ResolveAlias": (*api).resolveAlias,
	}
}

func (a *api) serve(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("operation")
	raw, _ := io.ReadAll(r.Body)
	body, err := cbor.Decode(raw)
	members, isMap := body.(cbor.Map)
	do := operations()[name]
	region, f := signed(r, a.cfg.AccessKey, "gamelift")
	switch {
	case r.Header.Get("Smithy-Protocol") != "rpc-v2-cbor" || do == nil:
		refuse(w, fail("UnknownOperationException", "no operation %s of rpc-v2-cbor", name))
		return
	case r.Header.Get("Content-Type") != "application/cbor" || r.Header.Get("Accept") != "application/cbor" || err != nil || !isMap:
		refuse(w, fail("SerializationException", "not a request in CBOR"))
		return
	case f != nil:
		refuse(w, f)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls[name]++
	in := &input{members: maps.Clone(members)}
	out, f := do(a, region, in)
	if f == nil {
		f = in.fault
	}
	if f != nil {
		refuse(w, f)
		return
	}
	answer(w, http.StatusOK, out)
}

// after does something in a while, with the API locked, unless that is closed by then.
func (a *api) after(d time.Duration, do func()) {
	a.pending.Add(1)
	time.AfterFunc(d, func() {
		defer a.pending.Done()
		a.mu.Lock()
		defer a.mu.Unlock()
		if !a.closed {
			do()
		}
	})
}

// Calls returns how often an operation was asked for.
func (h *Host) Calls(operation string) int {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	return h.api.calls[operation]
}

// Events is the API of SQS with the queue that is subscribed to the topic of all placements; its path is QueuePath.
func (h *Host) Events() http.Handler { return h.api.queue }

// Publish sends a message of somebody's to the queue of events.
func (h *Host) Publish(body string) { h.api.queue.send(body) }

// settled waits until no placement of the attempt is pending: what Berth calls an attempt is the placement's id here.
func (h *Host) settled(ctx context.Context, attempt string) error {
	for {
		h.api.mu.Lock()
		p, moved := h.api.placements[attempt], h.api.moved
		pending := p != nil && p.status == "PENDING"
		h.api.mu.Unlock()
		if !pending {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Started implements providertest.Host. It waits for a placement that is pending.
func (h *Host) Started(ctx context.Context, attempt string) (int, error) {
	if err := h.settled(ctx, attempt); err != nil {
		return 0, err
	}
	return h.Servers.Started(ctx, attempt)
}

// Bootstrap implements providertest.Host. It waits for a placement that is pending.
func (h *Host) Bootstrap(ctx context.Context, attempt string) ([]byte, error) {
	if err := h.settled(ctx, attempt); err != nil {
		return nil, err
	}
	return h.Servers.Bootstrap(ctx, attempt)
}

// Close ends everything and waits for it. Nobody may call the host any more.
func (h *Host) Close() {
	h.api.mu.Lock()
	h.api.closed = true
	h.api.mu.Unlock()
	h.api.pending.Wait()
	h.Host.Close()
}
