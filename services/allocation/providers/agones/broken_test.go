package agones_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// Who passes a call on says that nobody answered it, and Agones has served it all the same: the repeat finds that server, and asks for no second one.
func TestACallThatWasServedAndBroke(t *testing.T) {
	for _, way := range ways {
		host, cfg := start(t, fleets(), way)
		p, req := open(t, cfg), order()
		host.Break(true)
		if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Ambiguous {
			t.Errorf("%s: got %v; want AMBIGUOUS", way, err)
		}
		s := allocate(t, p, req)
		if left := host.Names(req.GetAttemptId()); len(left) != 1 || s.GetExternalId() != "games/"+left[0] || host.Count().Started != 1 {
			t.Errorf("%s: the repeat: %v; there are %v, %+v", way, s, left, host.Count())
		}
	}
}

// One that was not served looks the same: another server is asked for when it cannot be served any more.
func TestACallThatBrokeUnserved(t *testing.T) {
	for _, way := range ways {
		for settle, want := range map[time.Duration]providerv1.FailureReason{time.Hour: provider.Ambiguous, time.Nanosecond: 0} {
			host, cfg := start(t, fleets(), way)
			p, req := open(t, cfg), order()
			p.Settle(settle)
			host.Break(false)
			if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Ambiguous {
				t.Errorf("%s: got %v; want AMBIGUOUS", way, err)
			}
			_, err := p.Allocate(t.Context(), req)
			if err != nil && provider.ReasonOf(err) != want || (err == nil) != (want == 0) || (host.Count().Started == 1) != (want == 0) {
				t.Errorf("%s, the repeat within %v: %v, %+v; want %v", way, settle, err, host.Count(), want)
			}
		}
	}
}

// What the words say of whether a call was passed on.
func TestWhetherACallWasPassedOn(t *testing.T) {
	const reset = "upstream connect error or disconnect/reset before headers. "
	text := func(words string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, words, http.StatusServiceUnavailable) }
	}
	for name, c := range map[string]struct {
		way  string
		with http.HandlerFunc
		want providerv1.FailureReason
	}{
		"aggregator: broken":         {"cluster", text("error trying to reach service: EOF"), provider.Ambiguous},
		"aggregator: HTTP/2":         {"cluster", text(`error trying to reach service: http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug=""`), provider.Ambiguous},
		"aggregator: reset":          {"cluster", text("error trying to reach service: read tcp 10.0.0.1:40122->10.96.7.1:443: read: connection reset by peer"), provider.Ambiguous},
		"aggregator: nobody listens": {"cluster", text("error trying to reach service: dial tcp 10.96.7.1:443: connect: connection refused"), provider.Unavailable},
		"aggregator: no way there":   {"cluster", text("error trying to reach service: dial tcp 10.96.7.1:443: i/o timeout"), provider.Unavailable},
		"aggregator: none available": {"cluster", text("service unavailable"), provider.Unavailable},
		"API server starts": {"cluster", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"kind":"Status","reason":"ServiceUnavailable","message":"apiserver not ready"}`)
		}, provider.Unavailable},
		"gRPC: reset":                 {"grpc", says(14, reset+"reset reason: remote reset"), provider.Ambiguous},
		"gRPC: took too long":         {"grpc", says(14, "upstream request timeout"), provider.Ambiguous},
		"gRPC: without words":         {"grpc", says(14, ""), provider.Ambiguous},
		"gRPC: tried again":           {"grpc", says(14, reset+"retried and the latest reset reason: remote connection failure"), provider.Ambiguous},
		"gRPC: no connection":         {"grpc", says(14, reset+"reset reason: remote connection failure, transport failure reason: delayed connect error: 111"), provider.Unavailable},
		"gRPC: no connection, of old": {"grpc", says(14, reset+"reset reason: connection failure"), provider.Unavailable},
		"gRPC: connects too long":     {"grpc", says(14, reset+"reset reason: connection timeout"), provider.Unavailable},
		"gRPC: too many there":        {"grpc", says(14, reset+"reset reason: overflow"), provider.Unavailable},
		"gRPC: nobody":                {"grpc", says(14, "no healthy upstream"), provider.Unavailable},
		"REST: reset":                 {"rest", text(reset + "reset reason: connection termination"), provider.Ambiguous},
		"REST: no connection":         {"rest", text(reset + "reset reason: local connection failure"), provider.Unavailable},
		"REST: nobody":                {"rest", text("no healthy upstream"), provider.Unavailable},
		"REST: a page":                {"rest", plain(503, "<html><h1>503 Service Temporarily Unavailable</h1></html>"), provider.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t, fleets(), c.way)
			host.Answer(c.with)
			if _, err := open(t, cfg).Allocate(t.Context(), order()); provider.ReasonOf(err) != c.want {
				t.Errorf("got %v; want %v", err, c.want)
			}
		})
	}
}
