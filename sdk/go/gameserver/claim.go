package gameserver

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
)

const pathClaim = "/v1/claim"

// processSecret is one for the life of this process. A game that calls Connect again, because its context ended before there was a link, is the same
// claimant: with another nonce it would have its own server given up.
var processSecret = sync.OnceValue(func() []byte { //nolint:gochecknoglobals // it is the process that claims, not a Host
	secret := make([]byte, sha256.Size)
	_, _ = rand.Read(secret) // it never fails
	return secret
})

// nonceFor returns this process's nonce for a claim code. Whoever else has the code does not know it.
func nonceFor(code string) []byte {
	mac := hmac.New(sha256.New, processSecret())
	mac.Write([]byte(code))
	return mac.Sum(nil)
}

// claimTokens exchanges the claim code of the bootstrap document, if it has one, for the tokens. Until it has them it asks again with the same nonce, so
// that an answer which was lost is given again. It gives up when Berth refuses for good, or ctx ends.
func (h *Host) claimTokens(ctx context.Context) error {
	if h.claimCode == "" {
		return nil
	}
	defer h.http.CloseIdleConnections() // nothing else uses them yet, and there may be no Close
	body, err := protojson.Marshal(&gameserverv1.ClaimTokensRequest{Claim: h.claimCode.Reveal(), Nonce: nonceFor(h.claimCode.Reveal())})
	if err != nil {
		return errors.New("the claim code of the bootstrap document is no text") // the marshaller's words may quote it
	}
	if err := h.insist(ctx, "claiming the tokens", func(ctx context.Context) error { return h.tryClaim(ctx, body) }); err != nil {
		return err
	}
	h.claimCode = ""
	h.log.Info("tokens claimed")
	return nil
}

// insist tries until it works, Berth refuses for good, or ctx ends. what is what it tries, for the log.
func (h *Host) insist(ctx context.Context, what string, try func(context.Context) error) error {
	for wait := (backoff{}); ; {
		err := try(ctx)
		if err == nil || refusedForGood(err) {
			return err
		}
		pause := wait.next() + spread(retryAfter(err))
		if ctx.Err() == nil {
			h.log.Warn("Berth refuses or is away; trying again", "what", what, "error", err, "after", pause)
		}
		if !sleep(ctx, pause) {
			return fmt.Errorf("%w; the last try failed: %w", ctx.Err(), err)
		}
	}
}

func (h *Host) tryClaim(ctx context.Context, body []byte) error {
	resp, answer, err := h.post(ctx, pathClaim, body, nil) //nolint:bodyclose // post closes it
	switch {
	case err != nil:
		return fmt.Errorf("claim of the tokens: %w", err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("claim of the tokens: %w", claimError(resp, answer))
	}
	return h.takeAnswer(answer, new(gameserverv1.ClaimTokensResponse), "claim of the tokens")
}

// claimError turns a refusal into an error. What comes from Berth has the code that Berth gave it; anything else may pass.
func claimError(resp *http.Response, answer []byte) *Error {
	e := refreshError(resp, answer)
	var body struct{ Code codes.Code }
	if e.Code != codes.Unavailable || json.Unmarshal(answer, &body) != nil || berthReason(answer) == "" {
		return e
	}
	e.Code = body.Code
	return e
}

// refusedForGood reports whether Berth will never give tokens for what it was shown.
func refusedForGood(err error) bool {
	var refused *Error
	if !errors.As(err, &refused) || refused.Code == codes.Canceled {
		return false
	}
	return refused.expired() || !refused.temporary() && !refused.mishap()
}
