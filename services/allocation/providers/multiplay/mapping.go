package multiplay

import (
	"net/http"

	"github.com/google/uuid"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// space is that of the ids of allocations (RFC 9562, version 5).
var space = uuid.NewSHA1(uuid.NameSpaceDNS, []byte("multiplay.berth.dev"))

// allocationID is the id of an attempt's allocation.
func allocationID(deployment, attempt string) string {
	return uuid.NewSHA1(space, []byte(attempts.Marked(deployment, attempt))).String()
}

// explain says what a refusal means where its status alone does not, and what to change.
func (c *client) explain(r hostapi.Refusal) error {
	key := "multiplay.api_key_file"
	if c.dialect == Unity {
		key = "multiplay.key_id"
	}
	switch r.Status {
	case http.StatusUnauthorized:
		return r.Failure(provider.Unauthenticated, "is the key of "+key+" still good? "+r.Words())
	case http.StatusForbidden:
		return r.Failure(provider.Unauthenticated, "may the key of "+key+" allocate in multiplay.project and multiplay.environment? "+r.Words())
	case http.StatusNotFound:
		if r.Operation == c.allocate && r.Reason() == provider.NotFound { // there is no allocation yet that it could mean
			return r.Failure(provider.Invalid, "are multiplay.project, multiplay.environment and the build's fleet right? "+r.Words())
		}
	}
	return nil
}

func explainExchange(r hostapi.Refusal) error {
	switch r.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return r.Failure(provider.Unauthenticated, "are multiplay.key_id and multiplay.key_secret_file right, and is it a key for multiplay.project and multiplay.environment? "+r.Words())
	case http.StatusNotFound:
		if r.Reason() != provider.NotFound {
			return nil
		}
		return r.Failure(provider.Invalid, "are multiplay.project and multiplay.environment right? "+r.Words())
	}
	return nil
}

// up reports whether players can go to the server.
func (a allocation) up() bool {
	return a.Fulfilled != "" && (!a.Readiness || a.Ready != "") && len(a.endpoints()) > 0
}

func (a allocation) state() providerv1.ServerState {
	if a.up() {
		return providerv1.ServerState_SERVER_STATE_RUNNING
	}
	return providerv1.ServerState_SERVER_STATE_STARTING
}

// endpoints has the one port that Multiplay tells.
func (a allocation) endpoints() []*typev1.Endpoint {
	return hostapi.Endpoints(hostapi.Port{Name: "game", Host: a.IPv4, Port: a.GamePort})
}
