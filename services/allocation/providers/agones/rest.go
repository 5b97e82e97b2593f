package agones

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"sync/atomic"

	"google.golang.org/grpc/codes"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// restSide is the REST side of agones-allocator.
type restSide struct {
	api *hostapi.Client
	op  *hostapi.Operation
	// in says that the allocator has answered since it last refused our certificate.
	in atomic.Bool
}

func newRESTSide(op *hostapi.Operation, url string, conf *tls.Config) (*restSide, error) {
	s := &restSide{op: op}
	var err error
	if s.api, err = hostapi.New(hostapi.Config{Host: serviceHost, URL: url, TLS: conf, Explain: s.explain}); err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	return s, nil
}

// request is an AllocationRequest in JSON.
type request struct {
	Namespace string     `json:"namespace"`
	Selectors []selector `json:"gameServerSelectors"`
	Metadata  patch      `json:"metadata"`
}

// Allocate implements side. Whether it was let in it does not know: a call is on its way before the handshake is over at the other end.
func (s *restSide) Allocate(ctx context.Context, o order) (made allocationStatus, in bool, err error) {
	err = s.api.Do(ctx, hostapi.Call{
		Operation: s.op, Method: http.MethodPost, Path: "/gameserverallocation", Out: &made,
		In: request{Namespace: o.namespace, Selectors: []selector{o.selector}, Metadata: o.patch},
	})
	if err == nil {
		s.in.Store(true)
	}
	return made, false, err
}

// MayBeRead implements side. Authorities may be changed between the call and the refusal.
func (s *restSide) MayBeRead() bool { return s.in.Swap(false) }

// Close implements side.
func (s *restSide) Close() { s.api.Close() }

// explain says what a refusal means: its body has the status of gRPC that it is. What has none is of something on the way.
func (s *restSide) explain(r hostapi.Refusal) error {
	s.in.Store(true)
	var said struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	_ = r.Decode(&said) // what is no JSON has no code
	switch {
	case said.Code == 0 && r.Status == http.StatusNotFound: // it has one thing to ask for, and answers nothing so
		return r.Failure(provider.NotFound, r.Words())
	case said.Code == 0 && r.Status == http.StatusServiceUnavailable && brokeBehind(r.Words()):
		return r.Failure(provider.Ambiguous, r.Words()) // others say 502 or 504 of a call that they have passed on
	case said.Code == 0:
		return nil
	}
	return refusal{code: codes.Code(said.Code), words: said.Message, after: r.RetryAfter()}.failure(r.Operation)
}
