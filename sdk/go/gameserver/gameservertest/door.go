package gameservertest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest/wire"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	"github.com/berth-dev/berth/sdk/go/token"
	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/protobuf/encoding/protojson"
)

const (
	maxFrame    = 1<<20 + 64<<10
	maxInFlight = 64
)

// upgrade lets a server in, or not. The connection lives within it.
func (b *Backend) upgrade(w http.ResponseWriter, r *http.Request) {
	b.conns.Add(1)
	defer b.conns.Done()
	b.mu.Lock()
	refused := b.admit(r)
	b.mu.Unlock()
	if refused != nil {
		refused.write(w)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{wire.Proto, wire.JSON}})
	if err != nil {
		return // it was answered
	}
	ws.SetReadLimit(-1) // too large a frame has a close code of its own
	codec, err := wire.New(ws.Subprotocol())
	if err != nil {
		_ = ws.Close(websocket.StatusPolicyViolation, "no sub-protocol of the link was offered")
		return
	}
	newConn(b, ws, codec).run() //nolint:contextcheck // the connection outlives the request that it came from
}

// Refusal is how a connection is refused before it is one.
type Refusal struct {
	// Reason goes into the answer, and the HTTP status with it: "SERVICE_UNAVAILABLE" (503) if empty.
	Reason string
	// RetryAfter is what Retry-After says, in whole seconds; 0: the header is not there.
	RetryAfter time.Duration
}

func (f Refusal) write(w http.ResponseWriter) {
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(f.RetryAfter.Seconds()))))
	}
	w.WriteHeader(statusOf(f.Reason))
	_ = json.NewEncoder(w).Encode(map[string]any{"code": codeOf(f.Reason), "reason": f.Reason, "message": "refused by the test's backend"})
}

// admit checks who asks. The caller holds mu.
func (b *Backend) admit(r *http.Request) *Refusal {
	defer b.notify()
	b.session.upgrades++
	if len(b.faults.refusals) > 0 {
		next := b.faults.refusals[0]
		b.faults.refusals = b.faults.refusals[1:]
		return &next
	}
	if b.session.final != "" {
		b.violation("the server connected again after it was sent away for good (%s)", b.session.final)
	}
	offered := strings.Join(r.Header.Values("Sec-WebSocket-Protocol"), ",")
	if !strings.Contains(offered, wire.Proto) && !strings.Contains(offered, wire.JSON) {
		b.violation("the upgrade offers neither %s nor %s, but %q", wire.Proto, wire.JSON, offered)
		return &Refusal{Reason: reasonMalformed}
	}
	if r.URL.RawQuery != "" {
		b.violation("the upgrade has a query")
		return &Refusal{Reason: reasonMalformed}
	}
	game, social := bearer(r), r.Header.Get("Berth-Social-Token")
	if reason := b.checkTokens(game, social, "", ""); reason != "" {
		b.violation("the upgrade was refused with %s: Authorization must have the game token, and Berth-Social-Token the social token of its pair", reason)
		return &Refusal{Reason: reason}
	}
	switch {
	case b.faults.revoked:
		return &Refusal{Reason: reasonRevoked}
	case b.faults.expired:
		return &Refusal{Reason: reasonExpired}
	}
	return nil
}

func bearer(r *http.Request) string {
	value, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return value
}

// checkTokens returns what is wrong with two credentials, each a token or the handle that may stand for it; "" if nothing is. The caller holds mu.
func (b *Backend) checkTokens(game, social, gameHandle, socialHandle string) string {
	if game == "" || social == "" {
		return reasonMissing
	}
	gameAt := slices.IndexFunc(b.pairs, func(p tokens) bool { return p.game == game })
	socialAt := slices.IndexFunc(b.pairs, func(p tokens) bool { return p.social == social })
	if gameHandle != "" && game == gameHandle {
		gameAt = len(b.pairs) - 1
	}
	if socialHandle != "" && social == socialHandle {
		socialAt = len(b.pairs) - 1
	}
	if gameAt >= 0 && socialAt >= 0 {
		return "" // tokens of one pair, which is minted anew; the old ones stay valid
	}
	swapped := func(p tokens) bool { return p.social == game || p.game == social }
	if slices.ContainsFunc(b.pairs, swapped) || gameHandle != "" && (game == socialHandle || social == gameHandle) {
		return reasonSwapped
	}
	return reasonInvalid
}

// refresh mints the pair anew. The caller holds mu.
func (b *Backend) refresh() *gameserverv1.RefreshTokensResponse {
	pair := newTokens()
	b.pairs = append(b.pairs, pair)
	b.faults.expired = false
	now := time.Now()
	return &gameserverv1.RefreshTokensResponse{
		GameToken: pair.game, SocialToken: pair.social, ExpireTime: stamp(now.Add(time.Hour)), RefreshTime: stamp(now.Add(50 * time.Minute)),
	}
}

// refreshREST is the refresh of a server that has lost its connection.
func (b *Backend) refreshREST(w http.ResponseWriter, r *http.Request) {
	var body struct{ ResumeKey, InstanceID string }
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxFrame)).Decode(&body)
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.notify()
	reason := b.checkTokens(bearer(r), r.Header.Get("Berth-Social-Token"), "", "")
	switch {
	case reason != "":
	case b.faults.revoked:
		reason = reasonRevoked
	case err != nil:
		reason = reasonMalformed
	case b.faults.expired && (body.ResumeKey == "" || body.ResumeKey != b.session.resumeKey || body.InstanceID != b.named()):
		reason = reasonExpired
	}
	if reason != "" {
		w.WriteHeader(statusOf(reason))
		_ = json.NewEncoder(w).Encode(map[string]any{
			"code": codeOf(reason), "message": "refused", "details": []any{map[string]string{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "berth.dev"}},
		})
		return
	}
	answer, err := protojson.Marshal(b.refresh())
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(answer)
}

// keyID is the id of the key that signs tickets.
const keyID = "gameservertest"

// jwks has the public key of tickets.
func (b *Backend) jwks(w http.ResponseWriter, _ *http.Request) {
	public, _ := b.signer.Public().(ed25519.PublicKey)
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
		"kty": "OKP", "crv": "Ed25519", "kid": keyID, "x": base64.RawURLEncoding.EncodeToString(public),
	}}})
}

// Ticket returns a fresh ticket for a player, as Berth gives it to one who may join. gameserver.Server.VerifyTicket takes it while the player is in the instance.
func (b *Backend) Ticket(playerID string) string {
	b.tb.Helper()
	b.mu.Lock()
	instance, namespace, added := b.match.in.GetId(), b.match.in.GetNamespace(), int64(0)
	if p := b.match.player(playerID); p != nil {
		added = p.GetAddTime().AsTime().UnixMicro()
	}
	b.mu.Unlock()
	now := time.Now()
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, token.Claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: token.Issuer, Subject: playerID, Audience: jwt.ClaimStrings{token.AudienceTicket}, ID: rand.Text(),
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(2 * time.Minute)),
		},
		Namespace: namespace, Instance: instance, Added: added,
	})
	t.Header["kid"] = keyID
	raw, err := t.SignedString(b.signer)
	if err != nil {
		b.tb.Fatalf("gameservertest: a ticket: %v", err)
	}
	return raw
}

// newID returns a random UUID.
func newID() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // it never fails
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
