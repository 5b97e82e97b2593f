package gameserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
)

// withClaim is the document with a claim code in place of the tokens.
func (g *gateway) withClaim() gameserver.Option {
	doc := g.bootstrap()
	doc.Game, doc.Social, doc.Claim = "", "", "CLAIM-CODE"
	return gameserver.WithBootstrap(doc)
}

// claimAnswers answers claims with these in turn, the last one again and again, and returns a count of them. Each must be the same request.
func (g *gateway) claimAnswers(answers ...*refusal) *atomic.Int32 {
	asked, first := new(atomic.Int32), ""
	g.claims = func(w http.ResponseWriter, r *http.Request) {
		n := int(asked.Add(1))
		body, err := io.ReadAll(r.Body)
		if err != nil {
			g.t.Error(err)
		}
		req := new(gameserverv1.ClaimTokensRequest)
		if err := protojson.Unmarshal(body, req); err != nil || req.GetClaim() != "CLAIM-CODE" || len(req.GetNonce()) < 16 || r.URL.RawQuery != "" || r.Header.Get("Authorization") != "" {
			g.t.Errorf("claimed with %v, %v", r, err)
		}
		if first == "" {
			first = string(req.GetNonce())
		} else if first != string(req.GetNonce()) {
			g.t.Error("another nonce than before")
		}
		a := answers[min(n, len(answers))-1]
		if a == nil { // the answer is lost
			panic(http.ErrAbortHandler)
		}
		if a.retryAfter != "" {
			w.Header().Set("Retry-After", a.retryAfter)
		}
		w.WriteHeader(a.status)
		_, _ = fmt.Fprint(w, a.body)
	}
	return asked
}

// berthSays is a refusal over REST with a code of its own.
func berthSays(status int, code codes.Code, reason string) *refusal {
	return &refusal{status: status, body: fmt.Sprintf(
		`{"code":%d,"message":"no","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"berth.dev","reason":%q}]}`, code, reason)}
}

func (g *gateway) claimed(lifetime time.Duration) (*gameserverv1.RefreshTokensResponse, *refusal) {
	p := g.pair(lifetime)
	return p, berthAnswers(g.t, &gameserverv1.ClaimTokensResponse{GameToken: p.GetGameToken(), SocialToken: p.GetSocialToken(), ExpireTime: p.GetExpireTime()})
}

// A game that tries to connect again is the same claimant: with another nonce it would have its own server given up.
func TestAProcessHasOneNonceForACode(t *testing.T) {
	g := newGateway(t)
	asked := g.claimAnswers(berthSays(http.StatusForbidden, codes.PermissionDenied, "CLAIM_USED")) // checks that all are the same
	for range 2 {
		if _, err := gameserver.Connect(t.Context(), g.withClaim()); err == nil {
			t.Fatal("connected")
		}
	}
	if asked.Load() != 2 {
		t.Errorf("asked %d times", asked.Load())
	}
}

// Whatever gets lost or fails for now, the same nonce asks again, when it is told to. Nothing of the code is told to anybody.
func TestAClaimIsRepeated(t *testing.T) {
	for name, failure := range map[string]*refusal{
		"a lost answer":      nil,
		"a broken proxy":     {status: http.StatusBadGateway, body: "<html>"},
		"a strange proxy":    {status: http.StatusForbidden, body: "no"},
		"half an answer":     {status: http.StatusOK, body: `{"gameToken": "x"}`},
		"a service is away":  berthSays(http.StatusServiceUnavailable, codes.Unavailable, "SERVICE_UNAVAILABLE"),
		"a defect":           berthSays(http.StatusInternalServerError, codes.Internal, "INTERNAL"),
		"too many writers":   berthSays(http.StatusConflict, codes.Aborted, "CONTENDED"),
		"too many callers":   berthSays(http.StatusTooManyRequests, codes.ResourceExhausted, "LIMIT_EXCEEDED"),
		"a gateway that has": berthSays(499, codes.Canceled, "CANCELLED"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out lockedBuffer
				g := newBubbleGateway(t)
				pair, answer := g.claimed(time.Hour)
				if failure != nil {
					failure.retryAfter = "3"
				}
				asked := g.claimAnswers(failure, failure, answer)
				began := time.Now()
				c := g.connecting(g.withClaim(), gameserver.WithLogger(slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))))
				p := g.accept()
				p.wantTokens(pair)
				took := time.Since(began)
				p.hello()
				p.welcome("1", calm)
				p.reply(p.request("Link"), startData("ann"))
				c.server()
				if waits := failure != nil && failure.status > 403; asked.Load() != 3 || waits != (took >= 6*time.Second) {
					t.Errorf("asked %d times within %s", asked.Load(), took)
				}
				p.refresh(40 * time.Minute) // as other tokens are
				told := out.String()
				if !strings.Contains(told, "tokens claimed") || !strings.Contains(told, "trying again") {
					t.Errorf("told %s", told)
				}
				for _, secret := range []string{"CLAIM-CODE", "eyJ"} {
					if strings.Contains(told, secret) {
						t.Errorf("%s was told:\n%s", secret, told)
					}
				}
			})
		})
	}
}

// A refusal that nothing can change is told at once, with its reason.
func TestARefusedClaimIsFinal(t *testing.T) {
	for reason, code := range map[string]struct {
		status int
		code   codes.Code
	}{
		"CLAIM_USED":          {http.StatusForbidden, codes.PermissionDenied},
		"CREDENTIALS_INVALID": {http.StatusUnauthorized, codes.Unauthenticated},
		"CREDENTIALS_EXPIRED": {http.StatusUnauthorized, codes.Unauthenticated},
		"CREDENTIALS_REVOKED": {http.StatusUnauthorized, codes.Unauthenticated},
		"SUPERSEDED":          {http.StatusBadRequest, codes.FailedPrecondition},
		"STATE_NOT_ALLOWED":   {http.StatusBadRequest, codes.FailedPrecondition},
		"INSTANCE_DELETED":    {http.StatusNotFound, codes.NotFound},
		"VALIDATION_FAILED":   {http.StatusBadRequest, codes.InvalidArgument},
		"PATH_UNKNOWN":        {http.StatusNotFound, codes.NotFound},
	} {
		t.Run(reason, func(t *testing.T) {
			for name, open := range map[string]func(...gameserver.Option) error{
				"connect": func(o ...gameserver.Option) error { _, err := gameserver.Connect(t.Context(), o...); return err },
				"open":    func(o ...gameserver.Option) error { _, err := gameserver.Open(t.Context(), o...); return err },
			} {
				g := newGateway(t)
				asked := g.claimAnswers(berthSays(code.status, code.code, reason))
				err := open(g.withClaim())
				wantReason(t, err, reason)
				var refused *gameserver.Error
				if !errors.As(err, &refused) || refused.Code != code.code || strings.Contains(err.Error(), "CLAIM-CODE") || asked.Load() != 1 {
					t.Errorf("%s: asked %d times: %v", name, asked.Load(), err)
				}
			}
		})
	}
}

// Who calls says how long to wait for a gateway that is away, and is told what was wrong at last.
func TestAClaimEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newBubbleGateway(t)
		asked := g.claimAnswers(berthSays(http.StatusServiceUnavailable, codes.Unavailable, "STORE_UNAVAILABLE"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := gameserver.Connect(ctx, g.withClaim())
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "STORE_UNAVAILABLE") {
			t.Errorf("ended with %v", err)
		}
		if n := asked.Load(); n < 10 || n > 40 { // from 100 ms to 5 s, with jitter
			t.Errorf("asked %d times within a minute", n)
		}
	})
}
