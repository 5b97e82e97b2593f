// Package oidctest has an identity provider for tests: a server with TLS on 127.0.0.1 that publishes keys and signs tokens with them, and can be made to
// lie, to hang and to be away.
package oidctest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/berth-dev/berth/pkg/auth/oidc"
	"github.com/berth-dev/berth/pkg/egress"
)

// Audience is what the tokens are for.
const Audience = "berth"

// Paths of what is published.
const (
	DiscoveryPath = "/realms/game/.well-known/openid-configuration"
	KeysPath      = "/realms/game/keys"
)

// Key signs tokens.
type Key struct {
	// ID is the key's id.
	ID string
	// Algorithm is that of the tokens.
	Algorithm jose.SignatureAlgorithm
	// Private is the key.
	Private crypto.Signer
}

// NewKey returns a key for ES256.
func NewKey(t testing.TB, id string) Key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return Key{id, jose.ES256, private}
}

// JWK is the public half of the key as it is published.
func (k Key) JWK() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.Private.Public(), KeyID: k.ID, Use: "sig"}
}

// Sign returns a token with claims and, beside those that it needs, header members. A nil claim or member is left out.
func (k Key) Sign(t testing.TB, claims, header map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(without(claims))
	if err != nil {
		t.Fatal(err)
	}
	return k.SignBytes(t, payload, header)
}

// SignBytes is Sign for what need not be claims.
func (k Key) SignBytes(t testing.TB, payload []byte, header map[string]any) string {
	t.Helper()
	members := map[jose.HeaderKey]any{"kid": k.ID, "typ": "JWT"}
	for name, value := range header {
		members[jose.HeaderKey(name)] = value
	}
	maps.DeleteFunc(members, func(_ jose.HeaderKey, v any) bool { return v == nil })
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.Algorithm, Key: k.Private}, &jose.SignerOptions{ExtraHeaders: members})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func without(claims map[string]any) map[string]any {
	out := maps.Clone(claims)
	maps.DeleteFunc(out, func(_ string, v any) bool { return v == nil })
	return out
}

// KeySet is the document that publishes keys.
func KeySet(t testing.TB, keys ...Key) []byte {
	t.Helper()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range keys {
		set.Keys = append(set.Keys, k.JWK())
	}
	doc, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// Issuer is the identity provider. Its methods are safe for concurrent use.
type Issuer struct {
	// Server is where it listens.
	*httptest.Server
	// URL is the issuer's name.
	URL string

	t      testing.TB
	caFile string

	mu       sync.Mutex
	handlers map[string]http.HandlerFunc
	asked    map[string]int
}

// New starts an identity provider that publishes the keys.
func New(t testing.TB, keys ...Key) *Issuer {
	t.Helper()
	i := &Issuer{t: t, handlers: map[string]http.HandlerFunc{}, asked: map[string]int{}}
	i.Server = httptest.NewUnstartedServer(http.HandlerFunc(i.serve))
	i.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	i.StartTLS()
	t.Cleanup(i.Close)
	i.URL = i.Server.URL + "/realms/game"
	i.caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(i.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	i.Restore(keys...)
	return i
}

func (i *Issuer) serve(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.asked[r.URL.Path]++
	handler := i.handlers[r.URL.Path]
	i.mu.Unlock()
	if handler == nil {
		handler = http.NotFound
	}
	handler(w, r)
}

// Restore makes it publish the keys, as an honest one does.
func (i *Issuer) Restore(keys ...Key) {
	i.t.Helper()
	i.Publish(DiscoveryPath, i.Discovery(i.URL, i.Server.URL+KeysPath))
	i.Publish(KeysPath, KeySet(i.t, keys...))
}

// Discovery is the document in which it describes itself.
func (i *Issuer) Discovery(issuer, keys string) []byte {
	i.t.Helper()
	doc, err := json.Marshal(map[string]any{"issuer": issuer, "jwks_uri": keys, "response_types_supported": []string{"code"}})
	if err != nil {
		i.t.Fatal(err)
	}
	return doc
}

// Publish makes it answer a path with a document.
func (i *Issuer) Publish(path string, doc []byte) {
	i.Handle(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(doc) })
}

// Handle makes it answer a path in some other way.
func (i *Issuer) Handle(path string, handler http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.handlers[path] = handler
}

// Asked is how often a path was asked for.
func (i *Issuer) Asked(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked[path]
}

// Config is the configuration that takes its tokens.
func (i *Issuer) Config() oidc.Config { return oidc.Config{Issuer: i.URL, Audience: Audience} }

// Egress is the configuration that reaches it.
func (i *Issuer) Egress() egress.Config {
	return egress.Config{Allow: []string{"127.0.0.1/32"}, CAFile: i.caFile}
}

// Claims are those of a token that is taken, changed and added to by more; nil takes one away.
func Claims(issuer string, more map[string]any) map[string]any {
	now := time.Now()
	claims := map[string]any{"iss": issuer, "aud": Audience, "sub": "ann", "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	maps.Copy(claims, more)
	return claims
}
