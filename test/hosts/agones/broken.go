package agones

import (
	"net/http"
	"net/http/httptest"
)

// Break has the next request for a server fail between who passes it on and who serves it. served says that it was carried out by then: the answer is the same.
// At the API server that is its aggregation, which hands GameServerAllocations to Agones' extension server; at the allocator a proxy before it.
func (a *Agones) Break(served bool) {
	a.Answer(func(w http.ResponseWriter, r *http.Request) {
		if !creates(r) {
			a.api.ServeHTTP(w, r)
			return
		}
		_ = a.Heal(r.Context())
		if served {
			a.api.ServeHTTP(httptest.NewRecorder(), r)
		}
		broke(w, r)
	})
}

// broke is the answer of who passed a call on. kube-aggregator writes the error of its own client as it is, as text and not as a Status, with 503 (src: responder.Error
// of its proxyHandler, Transport.RoundTrip of apimachinery's proxy). Envoy has 503 for each reset of a stream, with its reason (src: resetReasonToString), and for
// gRPC code 14 in place of 502, 503 and 504 alike (src: httpToGrpcStatus).
func broke(w http.ResponseWriter, r *http.Request) {
	const reset = "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
	switch {
	case isGRPC(r):
		Say(w, codeUnavailable, reset)
	case r.URL.Path == allocatorPath:
		http.Error(w, reset, http.StatusServiceUnavailable)
	default:
		http.Error(w, "error trying to reach service: EOF", http.StatusServiceUnavailable)
	}
}
