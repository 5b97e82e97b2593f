package gameserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const (
	methodRefresh = "RefreshTokens"
	pathRefresh   = "/v1/game-server/tokens:refresh"

	maxTokenAnswer = 64 << 10 // bytes; what comes on top is not read
)

// errRefreshed is why there is no connection yet: now there may be one.
var errRefreshed = errors.New("the tokens had expired and were refreshed")

// refreshRequest shows what an expired pair has to: that this is the server with the session, and for which instance it is needed. Of a
// registered server Berth knows the instances.
func (h *Host) refreshRequest() *gameserverv1.RefreshTokensRequest {
	return &gameserverv1.RefreshTokensRequest{ResumeKey: h.run.resumeKey, InstanceId: h.doc.Instance}
}

// startRefreshing begins to keep the tokens fresh over a connection. What it returns ends that, and waits for its end: so there is never
// more than one connection over which they are refreshed.
func (h *Host) startRefreshing(ctx context.Context) (stop func()) {
	payload, err := proto.Marshal(h.refreshRequest())
	if err != nil {
		h.log.Error("the tokens cannot be refreshed", "error", err)
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.keepFresh(ctx, payload)
	}()
	return func() {
		cancel()
		<-done
	}
}

// keepFresh refreshes the tokens over a connection whenever it is time, until ctx ends. Without a connection nobody refreshes them until
// the gateway says that they have expired, so there are never two who do.
func (h *Host) keepFresh(ctx context.Context, payload []byte) {
	defer h.outbox.forgetLink(h.refreshes)
	h.tokens.connected(time.Now())
	for h.tokens.due(ctx) {
		answered := make(chan bool, 1)
		c := &call{of: h.refreshes, method: methodRefresh, payload: payload}
		c.settle = func(_ *socket, r *linkv1.Response) error {
			h.outbox.forget(c) // another try gets a number of its own
			fresh, err := h.refreshAnswered(r)
			answered <- fresh
			return err
		}
		h.outbox.addLink(c)
		select {
		case fresh := <-answered:
			if fresh { // about as often, look whether keys were withdrawn; if they cannot be fetched, those that are known stay
				_ = h.keys.Refresh(ctx)
			}
		case <-ctx.Done():
			return
		}
	}
}

// refreshAnswered takes over fresh tokens, and reports whether there are any. It fails if there never will be.
func (h *Host) refreshAnswered(r *linkv1.Response) (fresh bool, err error) {
	refused := errorOf(r.GetError())
	if r.GetError() == nil {
		var a gameserverv1.RefreshTokensResponse
		if proto.Unmarshal(r.GetResult(), &a) == nil && h.tokens.take(&a, time.Now()) {
			h.log.Info("tokens refreshed")
			return true, nil
		}
		refused = errorOf(unreadable(methodRefresh))
	}
	if refused.expired() || refused.Reason == reasonRevoked {
		return false, fmt.Errorf("refresh of the tokens: %w", refused)
	}
	wait := h.tokens.failed(time.Now(), retryAfter(refused))
	h.log.Warn("the tokens could not be refreshed, trying again", "reason", refused.Reason, "message", refused.Message, "after", wait)
	return false, nil
}

// outdated reports whether the gateway lets nobody in with these tokens, but may refresh them. That takes a session. Tokens can expire
// between upgrade and Hello; of what is refused then the close code does not say why.
func (h *Host) outdated(err error) bool {
	var closed *CloseError
	if errors.As(err, &closed) {
		return closed.Code == linkv1.CloseCode_CLOSE_CODE_UNAUTHENTICATED && h.run.resumeKey != "" && h.tokens.old(time.Now())
	}
	return refusedFor(err, reasonExpired) && h.run.resumeKey != ""
}

// refreshOverREST refreshes the tokens without a connection. It returns errRefreshed, or why that has failed.
func (h *Host) refreshOverREST(ctx context.Context) error {
	body, err := protojson.Marshal(h.refreshRequest())
	if err != nil {
		return fmt.Errorf("refresh of the tokens: %w", err)
	}
	resp, answer, err := h.post(ctx, pathRefresh, body, h.tokens.authorize) //nolint:bodyclose // post closes it
	switch {
	case err != nil:
		return fmt.Errorf("refresh of the tokens: %w", err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("refresh of the tokens: %w", refreshError(resp, answer))
	}
	if err := h.takeAnswer(answer, new(gameserverv1.RefreshTokensResponse), "refresh of the tokens"); err != nil {
		return err
	}
	h.log.Info("tokens refreshed")
	if !h.run.refreshed {
		h.run.wait = backoff{} // but if the gateway refuses them at once, it is not asked all the time
	}
	h.run.refreshed = true
	return errRefreshed
}

// post makes a call over REST, with the credentials that authorize puts into its header; nil: none.
func (h *Host) post(ctx context.Context, path string, body []byte, authorize func(http.Header)) (resp *http.Response, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at(h.doc, path), bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if authorize != nil {
		authorize(req.Header)
	}
	req.Header.Set("Content-Type", "application/json")
	if resp, err = h.http.Do(req); err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	return resp, answer, err
}

// takeAnswer takes over the tokens of an answer over REST.
func (h *Host) takeAnswer(answer []byte, into interface {
	proto.Message
	pair
}, what string) error {
	if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(answer, into) != nil || !h.tokens.take(into, time.Now()) {
		return errors.New(what + ": the answer cannot be read") // a parser's words may quote it
	}
	return nil
}

// refreshError turns a refusal over REST into an error. It is final only where it comes from Berth: on it a match may depend.
func refreshError(resp *http.Response, answer []byte) *Error {
	var body struct{ Message string }
	_ = json.Unmarshal(answer, &body)
	reason := berthReason(answer)
	e := httpError(resp, reason, body.Message)
	if reason == "" {
		e.Code = codes.Unavailable
	}
	return e
}

// berthReason returns the reason of a refusal that comes from Berth itself.
func berthReason(answer []byte) string {
	var body struct {
		Details []struct{ Domain, Reason string }
	}
	_ = json.Unmarshal(answer, &body)
	reason := ""
	for _, d := range body.Details {
		if d.Domain == errorDomain {
			reason = d.Reason
		}
	}
	return reason
}
