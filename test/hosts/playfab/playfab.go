// Package playfab stands in for PlayFab Multiplayer Servers. "Spec" is PlayFab's published API description (github.com/PlayFab/API_Specs, Multiplayer.api.json
// and Authentication.api.json of 2026-02-27), "docs" its documentation (github.com/MicrosoftDocs/playfab-docs). Each rule names the statement that it enforces.
// What is not documented is said to be an assumption.
package playfab

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berth-dev/berth/test/hosts/standin"
)

const (
	tokenPath   = "/Authentication/GetEntityToken"
	requestPath = "/MultiplayerServer/RequestMultiplayerServer"
)

// Config configures a stand-in.
type Config struct {
	// SecretKey of the title.
	SecretKey string
	// Builds are the regions in which each build is deployed. Ids are GUIDs.
	Builds map[string][]string
	// Aliases are the builds of each alias, in the order in which they are taken.
	Aliases map[string][]string
	// Servers is how many each build has in a region, active and standing by. 0: 100.
	Servers int
	// TokenLife is how long entity tokens last. 0: a day.
	TokenLife time.Duration
	// Revoked, if not nil, reports whether an entity token is revoked.
	Revoked func(token string) bool
	// Run runs the servers; nil: they are only said to run.
	Run standin.Run
}

// New returns the stand-in.
func New(cfg Config) *standin.Host {
	if cfg.Servers == 0 {
		cfg.Servers = 100
	}
	if cfg.TokenLife == 0 {
		cfg.TokenLife = 24 * time.Hour
	}
	a := &api{cfg: cfg, servers: standin.NewServers(cfg.Run), tokens: make(map[string]time.Time), sessions: make(map[string]*session)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+tokenPath, a.entityToken)
	for path, handle := range map[string]func(http.ResponseWriter, *http.Request){
		requestPath: a.request, "/MultiplayerServer/GetMultiplayerServerDetails": a.details, "/MultiplayerServer/ListMultiplayerServers": a.list,
		"/MultiplayerServer/ShutdownMultiplayerServer": a.shutdown, "/MultiplayerServer/GetBuildAlias": a.alias,
	} {
		mux.HandleFunc("POST "+path, a.signed(handle))
	}
	return standin.New(standin.Dialect{
		Creates:   func(r *http.Request) bool { return r.URL.Path == requestPath },
		Throttled: throttled,
		Full: func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, tooManyRequests, "There are no servers standing by", nil)
		},
		OverQuota: func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, quotaExceeded, "The title has no cores left in its quota", nil)
		},
		Refused: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == tokenPath {
				refuse(w, notAuthenticated, "This API method does not allow anonymous callers.", nil)
				return
			}
			refuse(w, tokenInvalid, "The entity token is invalid", nil)
		},
	}, a.servers, mux)
}

// problem is an error of PlayFab. Names and numbers are the spec's ("errors"). Which status of HTTP each has is an assumption: that which its name says, and
// what the docs show for throttling.
type problem struct {
	status int
	name   string
	number int
}

var (
	invalidParams    = problem{http.StatusBadRequest, "InvalidParams", 1000}
	notAuthenticated = problem{http.StatusUnauthorized, "NotAuthenticated", 1074}
	rateLimited      = problem{http.StatusTooManyRequests, "APIClientRequestRateLimitExceeded", 1199}
	tokenMissing     = problem{http.StatusUnauthorized, "EntityTokenMissing", 1334}
	tokenInvalid     = problem{http.StatusUnauthorized, "EntityTokenInvalid", 1335}
	tokenExpired     = problem{http.StatusUnauthorized, "EntityTokenExpired", 1336}
	tokenRevoked     = problem{http.StatusUnauthorized, "EntityTokenRevoked", 1337}
	tooManyRequests  = problem{http.StatusTooManyRequests, "MultiplayerServerTooManyRequests", 1380}
	badRequest       = problem{http.StatusBadRequest, "MultiplayerServerBadRequest", 1382}
	notFound         = problem{http.StatusNotFound, "MultiplayerServerNotFound", 1385}
	conflict         = problem{http.StatusConflict, "MultiplayerServerConflict", 1386}
	quotaExceeded    = problem{http.StatusBadRequest, "MultiplayerServerTitleQuotaCoresExceeded", 1445}
)

// refuse answers as the spec's ApiErrorWrapper. details are the mistakes by member.
func refuse(w http.ResponseWriter, p problem, message string, details map[string][]string) {
	answer(w, p.status, wrapper(p, message, details))
}

func wrapper(p problem, message string, details map[string][]string) map[string]any {
	body := map[string]any{"code": p.status, "status": strings.ReplaceAll(http.StatusText(p.status), " ", ""), "error": p.name, "errorCode": p.number, "errorMessage": message}
	if details != nil {
		body["errorDetails"] = details
	}
	return body
}

// throttled is what the docs show ("Throttling best practices"): Retry-After, and retryAfterSeconds in the body.
func throttled(w http.ResponseWriter, _ *http.Request, after time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())))
	body := wrapper(rateLimited, "The client has exceeded the maximum API request rate and is being throttled", nil)
	body["retryAfterSeconds"] = int(after.Seconds())
	answer(w, rateLimited.status, body)
}

// succeed answers as every example of the spec does: {"code": 200, "status": "OK", "data": {…}}.
func succeed(w http.ResponseWriter, data any) {
	answer(w, http.StatusOK, map[string]any{"code": http.StatusOK, "status": "OK", "data": data})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// read reads a request. A member that the spec does not have is refused, so that a misspelt one is noticed; what PlayFab does with one is not documented.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	raw, _ := io.ReadAll(r.Body)
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		refuse(w, invalidParams, "Invalid JSON in request", nil)
		return false
	}
	return true
}

type api struct {
	cfg     Config
	servers *standin.Servers

	mu       sync.Mutex
	tokens   map[string]time.Time // until when each is good
	sessions map[string]*session
	order    []*session // in the order of their starts
	repeats  int
}

// entityToken exchanges the title's secret key ("must be called with X-SecretKey, X-Authentication or X-EntityToken headers").
func (a *api) entityToken(w http.ResponseWriter, r *http.Request) {
	var in struct {
		CustomTags map[string]string
		Entity     *struct{ ID, Type string }
	}
	switch {
	case !read(w, r, &in):
	case r.Header.Get("X-SecretKey") == "": //nolint:canonicalheader // as the spec spells it
		refuse(w, notAuthenticated, "This API method does not allow anonymous callers.", nil)
	case r.Header.Get("X-SecretKey") != a.cfg.SecretKey: //nolint:canonicalheader // as the spec spells it
		refuse(w, notAuthenticated, "The secret key is not one of the title's", nil)
	default:
		token, until := rand.Text()+rand.Text(), time.Now().Add(a.cfg.TokenLife).UTC()
		a.mu.Lock()
		a.tokens[token] = until
		a.mu.Unlock()
		succeed(w, map[string]any{
			"EntityToken": token, "TokenExpiration": until, "Entity": map[string]string{"Id": "AAD5D", "Type": "title", "TypeString": "title"},
		})
	}
}

// signed wants an entity token of the title ("auth": "EntityToken", "allowedentitytokentypes": ["title"]), and runs one call after the other.
func (a *api) signed(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token := r.Header.Get("X-EntityToken") //nolint:canonicalheader // as the spec spells it
		a.mu.Lock()
		defer a.mu.Unlock()
		until, known := a.tokens[token]
		switch {
		case token == "":
			refuse(w, tokenMissing, "The entity token is missing", nil)
		case !known:
			refuse(w, tokenInvalid, "The entity token is invalid", nil)
		case !time.Now().Before(until):
			refuse(w, tokenExpired, "The entity token has expired", nil)
		case a.cfg.Revoked != nil && a.cfg.Revoked(token):
			refuse(w, tokenRevoked, "The entity token has been revoked", nil)
		default:
			next(w, r)
		}
	}
}
