package wsserver

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/errs"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/berth-dev/berth/sdk/go/token"

	"github.com/berth-dev/berth/services/gateway/internal/codec"
	"github.com/berth-dev/berth/services/gateway/internal/session"
)

// ServeHTTP upgrades a request to a link connection, after its credentials were verified.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.running.Add(1)
	defer s.running.Done()
	if err := s.cfg.Door.Upgrade(r.Host, r.RemoteAddr); err != nil {
		s.auditRefusal(audit.Entry{Action: audit.Link, Actor: audit.Unknown, Address: r.RemoteAddr}, err)
		s.refuse(w, statusOf(err), err)
		return
	}
	if status, err := checkRequest(r); err != nil {
		s.auditRefusal(audit.Entry{Action: audit.Link, Actor: audit.Unknown, Address: r.RemoteAddr}, err)
		s.refuse(w, status, err)
		return
	}
	if err := s.cfg.Ready(r.Context()); err != nil {
		s.refuse(w, http.StatusServiceUnavailable, notReady(err))
		return
	}
	if s.cfg.Hub.Full() || s.cfg.Short() {
		s.refuse(w, http.StatusServiceUnavailable, notReady(nil))
		return
	}
	pair, err := s.authenticate(r)
	if err != nil {
		s.cfg.Door.Refused(r.RemoteAddr, errs.ReasonOf(err))
		s.auditRefusal(audit.Entry{Action: audit.Link, Actor: audit.Unknown, Address: r.RemoteAddr}, err)
		s.refuse(w, statusOf(err), err)
		return
	}
	s.accept(w, r, pair)
}

// auditRefusal records that somebody was refused, if it was because of who they are.
func (s *Server) auditRefusal(e audit.Entry, err error) {
	reason := errs.ReasonOf(err)
	if kind := reason.Kind(); kind != errs.KindUnauthenticated && kind != errs.KindPermissionDenied {
		return
	}
	if reason == errs.CredentialsInUse {
		e.Action = audit.CredentialsInUse
	}
	e.Outcome, e.Detail = string(reason), err.Error()
	s.cfg.Audit.Refuse(e)
}

func notReady(cause error) error {
	return errs.Wrap(cause, errs.ServiceUnavailable, "this gateway takes no connections now; try again, or another one").Retry(time.Second)
}

// checkRequest checks what does not depend on who asks.
func checkRequest(r *http.Request) (int, error) {
	switch {
	case r.Method != http.MethodGet || r.ProtoMajor != 1 || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		return http.StatusUpgradeRequired, errs.New(errs.Malformed, "the link is a WebSocket: connect with GET over HTTP/1.1 and \"Upgrade: websocket\"")
	case r.Header.Get("Origin") != "":
		return http.StatusForbidden, errs.New(errs.RoleRequired, "the link is for game servers; a request with an Origin comes from a browser")
	case r.URL.RawQuery != "":
		return http.StatusBadRequest, errs.New(errs.Malformed, "the link takes no query parameters; tokens belong into the headers Authorization and Berth-Social-Token")
	case !slices.ContainsFunc(subprotocols(r.Header), func(p string) bool { return slices.Contains(codec.Subprotocols(), p) }):
		return http.StatusBadRequest, errs.New(errs.Malformed, "Sec-WebSocket-Protocol: must offer %s", strings.Join(codec.Subprotocols(), " or "))
	}
	return 0, nil
}

func subprotocols(h http.Header) []string {
	var offered []string
	for _, line := range h.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(line, ",") {
			offered = append(offered, strings.TrimSpace(p))
		}
	}
	return offered
}

// authenticate verifies the pair of tokens in the headers.
func (s *Server) authenticate(r *http.Request) (*session.Pair, error) {
	authorization, social := r.Header.Values("Authorization"), r.Header.Values("Berth-Social-Token")
	if len(authorization) > 1 || len(social) > 1 {
		return nil, errs.New(errs.CredentialsInvalid, "Authorization and Berth-Social-Token must be there once each")
	}
	game := ""
	if len(authorization) == 1 {
		scheme, value, ok := strings.Cut(authorization[0], " ")
		if !ok || !strings.EqualFold(scheme, "bearer") {
			return nil, errs.New(errs.CredentialsInvalid, "Authorization: must be \"Bearer\" and the game token")
		}
		game = strings.TrimSpace(value)
	}
	shown, err := s.cfg.Verify(r.Context(), game, strings.Join(social, ""))
	if err != nil {
		return nil, err
	}
	if shown.Expired { // whatever is out of order at Berth, nobody new is let in
		return nil, errs.New(errs.CredentialsExpired, "the tokens have expired; refresh them with POST /v1/game-server/tokens:refresh and the resume key")
	}
	// Clones, because the header's strings would keep the whole request in memory.
	return session.NewPair(shown.Server, strings.Clone(game), strings.Clone(strings.Join(social, "")), s.cfg.Verify), nil
}

// maxTraceparent is how long a traceparent is; one of a later version may be longer, and is read as far as this one knows.
const maxTraceparent = 55

// accept upgrades the connection and lets it run in goroutines of its own, so that the handler can return and net/http let go of the request.
func (s *Server) accept(w http.ResponseWriter, r *http.Request, pair *session.Pair) {
	c := newConn(s, pair)
	c.traceparent = strings.Clone(r.Header.Get("Traceparent")[:min(len(r.Header.Get("Traceparent")), maxTraceparent)])
	c.remote, c.frames = strings.Clone(r.RemoteAddr), s.cfg.Door.Frames(pair.Server().PairID)
	hj := &hijacker{ResponseWriter: w, buffers: &s.batches}
	ws, err := websocket.Accept(hj, r, &websocket.AcceptOptions{
		Subprotocols:    codec.Subprotocols(),
		CompressionMode: websocket.CompressionDisabled, // with context takeover it costs 1.2 MB a connection, for ever
		OnPongReceived:  func(context.Context, []byte) { c.hear() },
		OnPingReceived:  func(context.Context, []byte) bool { c.hear(); return true },
	})
	if err != nil { // the library has answered the request
		s.cfg.Metrics.Refused.WithLabelValues(string(errs.Malformed)).Inc()
		return
	}
	ws.SetReadLimit(-1) // the read loop has its own limit, because its close code is not the library's
	c.ws, c.raw, c.codec = ws, hj.conn, codec.Of(ws.Subprotocol())
	if !s.cfg.Hub.Add(c) { // it began to drain, or filled up, meanwhile
		c.Close(linkv1.CloseCode_CLOSE_CODE_GOING_AWAY, "this gateway takes no connections now; try again, or another one")
	}
	c.closeIfRevoked() // after the hub has it: what is revoked from now on is looked for there
	s.running.Go(c.run)
}

// refuse answers an upgrade with an error, in the form that docs/link-protocol.md gives.
func (s *Server) refuse(w http.ResponseWriter, status int, err error) {
	var e *errs.Error
	if !errors.As(err, &e) {
		s.cfg.Log.Error("an upgrade failed", "error", err)
		e = errs.New(errs.Internal, "internal error")
	}
	s.cfg.Metrics.Refused.WithLabelValues(string(e.Reason)).Inc()
	body, err := json.Marshal(struct {
		Code    int    `json:"code"`
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}{int(e.Reason.Kind()), string(e.Reason), e.Message})
	if err != nil {
		status = http.StatusInternalServerError
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if status == http.StatusUpgradeRequired {
		h.Set("Upgrade", "websocket")
		h.Set("Connection", "Upgrade")
	}
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		h.Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(e.RetryAfter.Seconds())))))
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // whoever does not read it has gone
}

func statusOf(err error) int {
	var e *errs.Error
	if !errors.As(err, &e) {
		return http.StatusInternalServerError
	}
	switch e.Reason.Kind() {
	case errs.KindUnauthenticated:
		return http.StatusUnauthorized
	case errs.KindPermissionDenied:
		return http.StatusForbidden
	case errs.KindResourceExhausted:
		return http.StatusTooManyRequests
	case errs.KindUnavailable, errs.KindDeadlineExceeded, errs.KindCancelled:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// identity is for logs.
func identity(server token.Server) []any {
	return []any{"server_id", server.ID, "namespace", server.Namespace}
}
