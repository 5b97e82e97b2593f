// Package rest is the gateway's HTTP, apart from the link: REST and OpenAPI for backends and web tools (API), and for game servers REST, gRPC and the
// public keys (Edge). Calls are forwarded with their callers' own credentials; the services check them.
package rest

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // the OpenAPI document
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"github.com/berth-dev/berth/pkg/errs"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	auditv1 "github.com/berth-dev/berth/sdk/go/gen/berth/audit/v1"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"

	"github.com/berth-dev/berth/services/gateway/internal/door"
	allocationrest "github.com/berth-dev/berth/services/gateway/internal/rest/gen/berth/allocation/v1"
	auditrest "github.com/berth-dev/berth/services/gateway/internal/rest/gen/berth/audit/v1"
	gameserverrest "github.com/berth-dev/berth/services/gateway/internal/rest/gen/berth/gameserver/v1"
	instancerest "github.com/berth-dev/berth/services/gateway/internal/rest/gen/berth/instance/v1"
	tokenrest "github.com/berth-dev/berth/services/gateway/internal/rest/gen/berth/token/v1"
)

//go:embed gen/berth.swagger.json
var openAPI []byte

// Keys are the public keys that verify tokens.
type Keys interface {
	// Document returns them as a JSON Web Key Set, or an error while they are not known.
	Document() ([]byte, error)
	// MaxAge is how long others may keep the document.
	MaxAge() time.Duration
}

// Config configures both handlers.
type Config struct {
	// GameInstance, Allocation and TokenIssuer are connections to the services, without the internal key.
	GameInstance, Allocation, TokenIssuer grpc.ClientConnInterface
	// Keys are published at the edge.
	Keys Keys
	// Link is the handler of the link.
	Link http.Handler
	// Log is where defects are logged that are found here.
	Log *slog.Logger
	// Door decides about requests before they are looked at.
	Door *door.Door
	// AllowedOrigins are those of the web pages that may call the API.
	AllowedOrigins []string
	// Stopping is cancelled when streams should end.
	Stopping context.Context
}

// API returns the handler for backends and web tools. It sends CORS headers to pages of AllowedOrigins only: what is on this port is not for browsers of
// strangers.
func API(cfg Config) (http.Handler, error) {
	mux, err := newMux(cfg)
	if err != nil {
		return nil, err
	}
	instances, allocations := forwarder{cfg.GameInstance, cfg.Stopping}, forwarder{cfg.Allocation, cfg.Stopping}
	if err := instancerest.RegisterGameInstanceServiceHandlerClient(cfg.Stopping, mux, instancev1.NewGameInstanceServiceClient(instances)); err != nil {
		return nil, fmt.Errorf("REST of game instances: %w", err)
	}
	if err := instancerest.RegisterMessageServiceHandlerClient(cfg.Stopping, mux, instancev1.NewMessageServiceClient(instances)); err != nil {
		return nil, fmt.Errorf("REST of messages: %w", err)
	}
	if err := gameserverrest.RegisterGameServerRegistryServiceHandlerClient(cfg.Stopping, mux, gameserverv1.NewGameServerRegistryServiceClient(instances)); err != nil {
		return nil, fmt.Errorf("REST of registered game servers: %w", err)
	}
	if err := allocationrest.RegisterAllocationServiceHandlerClient(cfg.Stopping, mux, allocationv1.NewAllocationServiceClient(allocations)); err != nil {
		return nil, fmt.Errorf("REST of allocations: %w", err)
	}
	tokens := forwarder{cfg.TokenIssuer, cfg.Stopping}
	if err := tokenrest.RegisterTokenServiceHandlerClient(cfg.Stopping, mux, tokenv1.NewTokenServiceClient(tokens)); err != nil {
		return nil, fmt.Errorf("REST of tokens: %w", err)
	}
	if err := auditrest.RegisterAuditServiceHandlerClient(cfg.Stopping, mux, auditv1.NewAuditServiceClient(instances)); err != nil {
		return nil, fmt.Errorf("REST of the audit: %w", err)
	}
	paths := http.NewServeMux()
	paths.Handle("GET /.well-known/jwks.json", plain(func(w http.ResponseWriter, r *http.Request) { serveKeys(w, r, cfg.Keys) }))
	paths.Handle("GET /openapi.json", plain(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(openAPI)
	}))
	paths.Handle("/", guard(mux))
	return cfg.Door.Handler(withCORS(cfg.AllowedOrigins, admitted(cfg.Door, canonical(paths)))), nil
}

// Edge is the handler for game servers.
type Edge struct {
	link    http.Handler
	paths   *http.ServeMux
	proxy   *grpc.Server
	handler http.Handler // of all requests
	calls   http.Handler // of those over REST
}

// NewEdge returns the handler for game servers.
func NewEdge(cfg Config) (*Edge, error) {
	mux, err := newMux(cfg)
	if err != nil {
		return nil, err
	}
	servers := forwarder{cfg.GameInstance, cfg.Stopping}
	if err := gameserverrest.RegisterGameServerServiceHandlerClient(cfg.Stopping, mux, gameserverv1.NewGameServerServiceClient(servers)); err != nil {
		return nil, fmt.Errorf("REST of game servers: %w", err)
	}
	pools, err := newMux(cfg) // of the calls about registered servers only the one to join a pool is for servers: the others' paths do not lead here
	if err != nil {
		return nil, err
	}
	if err := gameserverrest.RegisterGameServerRegistryServiceHandlerClient(cfg.Stopping, pools, gameserverv1.NewGameServerRegistryServiceClient(servers)); err != nil {
		return nil, fmt.Errorf("REST of pools: %w", err)
	}
	e := &Edge{link: cfg.Link, paths: http.NewServeMux(), proxy: newProxy(cfg.Log, cfg.Door, servers, forwarder{cfg.TokenIssuer, cfg.Stopping})}
	e.paths.Handle("GET /.well-known/jwks.json", plain(func(w http.ResponseWriter, r *http.Request) { serveKeys(w, r, cfg.Keys) }))
	e.paths.Handle("/v1/pools/", guard(pools))
	e.paths.Handle("/", guard(mux))
	e.calls = admitted(cfg.Door, canonical(e.paths))
	e.handler = cfg.Door.Handler(http.HandlerFunc(e.dispatch))
	return e, nil
}

// ServeHTTP implements http.Handler.
func (e *Edge) ServeHTTP(w http.ResponseWriter, r *http.Request) { e.handler.ServeHTTP(w, r) }

// dispatch hands a request to who speaks its protocol. Each of the three asks the door, for each has its own form of a refusal.
func (e *Edge) dispatch(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
		e.proxy.ServeHTTP(w, r)
	case r.URL.Path == "/v1/link":
		e.link.ServeHTTP(w, r)
	default:
		e.calls.ServeHTTP(w, r)
	}
}

// Close ends gRPC calls that are under way.
func (e *Edge) Close() { e.proxy.Stop() }

func serveKeys(w http.ResponseWriter, r *http.Request, keys Keys) {
	doc, err := keys.Document()
	if err != nil {
		fail(w, errs.Wrap(err, errs.ServiceUnavailable, "the keys are not known yet").Retry(time.Second))
		return
	}
	sum := sha256.Sum256(doc)
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(keys.MaxAge().Seconds())))
	w.Header().Set("ETag", fmt.Sprintf("%q", base64.RawURLEncoding.EncodeToString(sum[:16])))
	asked := r.WithContext(r.Context()) // a shallow copy, without the headers whose refusals would be in a form of their own
	asked.Header = http.Header{"If-None-Match": r.Header.Values("If-None-Match")}
	http.ServeContent(w, asked, "", time.Time{}, bytes.NewReader(doc)) // answers If-None-Match with 304
}

// newMux returns a mux for generated REST handlers. Nothing of a service's metadata goes back to the caller.
func newMux(cfg Config) (*runtime.ServeMux, error) {
	documented, err := readRoutes(openAPI)
	if err != nil {
		return nil, err
	}
	nothing := func(string) (string, bool) { return "", false }
	return runtime.NewServeMux(
		runtime.WithMiddlewares(documented.strict),
		runtime.SetQueryParameterParser(new(queryParser)),
		runtime.WithMarshalerOption(runtime.MIMEWildcard, newCodec()),
		runtime.WithIncomingHeaderMatcher(incoming),
		runtime.WithOutgoingHeaderMatcher(nothing),
		runtime.WithOutgoingTrailerMatcher(nothing),
		runtime.WithErrorHandler(onError(cfg.Log)),
		runtime.WithRoutingErrorHandler(onRoutingError),
		runtime.WithStreamErrorHandler(onStreamError(cfg.Log, cfg.Stopping)),
		runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptReserved), // cuts the path as it came, and then unescapes each segment whole
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
	), nil
}

// incoming says which headers become metadata. Authorization is not among them because grpc-gateway passes it by itself.
func incoming(key string) (string, bool) {
	switch strings.ToLower(key) {
	case "berth-social-token":
		return "berth-social-token", true
	case "traceparent":
		return "traceparent", true
	default:
		return "", false
	}
}
