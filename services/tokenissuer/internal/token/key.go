package token

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"
)

// Key is an Ed25519 signing key. However it is printed, only its id shows.
type Key struct {
	id         string
	createTime time.Time
	// private returns the private key. It is a function because no verb of fmt, and no mistaken one, prints what a function holds.
	private func() ed25519.PrivateKey
}

func newKey() (*Key, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("generate a signing key: %w", err)
	}
	return &Key{id: thumbprint(public), createTime: time.Now().UTC(), private: func() ed25519.PrivateKey { return private }}, nil
}

// ID is the key's id, which follows from the key itself: its JWK thumbprint (RFC 7638).
func (k Key) ID() string { return k.id }

// CreateTime is when the key was made.
func (k Key) CreateTime() time.Time { return k.createTime }

// Public returns the key that verifies.
func (k Key) Public() ed25519.PublicKey {
	public, _ := k.private().Public().(ed25519.PublicKey) // by the type's contract
	return public
}

// String names the key.
func (k Key) String() string { return "key " + k.id }

// thumbprint is the JWK thumbprint of a key, over the members that RFC 8037 names, in their order.
func thumbprint(public ed25519.PublicKey) string {
	x := base64.RawURLEncoding.EncodeToString(public)
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + x + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
