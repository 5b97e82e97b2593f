package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	sdk "github.com/berth-dev/berth/sdk/go/token"
)

// Key is a signing key. However it is printed, only its id shows.
type Key struct {
	id         string
	algorithm  sdk.Algorithm
	createTime time.Time
	// private returns the private key. It is a function because no verb of fmt, and no mistaken one, prints what a function holds.
	private func() crypto.Signer
}

// newKey makes a key of an algorithm.
func newKey(algorithm sdk.Algorithm, now time.Time) (*Key, error) {
	var private crypto.Signer
	var err error
	switch algorithm {
	case sdk.EdDSA:
		_, private, err = ed25519.GenerateKey(nil)
	case sdk.ES256:
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		err = fmt.Errorf("algorithm %q is not known", algorithm)
	}
	if err != nil {
		return nil, fmt.Errorf("generate a signing key: %w", err)
	}
	return keyOf(algorithm, private, now)
}

// keyOf wraps a private key, whose id follows from it.
func keyOf(algorithm sdk.Algorithm, private crypto.Signer, createTime time.Time) (*Key, error) {
	k := &Key{algorithm: algorithm, createTime: createTime, private: func() crypto.Signer { return private }}
	jwk, err := k.JWK()
	k.id = jwk.thumbprint()
	return k, err
}

// ID is the key's id, which follows from the key itself: its JWK thumbprint (RFC 7638).
func (k Key) ID() string { return k.id }

// Algorithm is how the key signs.
func (k Key) Algorithm() sdk.Algorithm { return k.algorithm }

// CreateTime is when the key was made.
func (k Key) CreateTime() time.Time { return k.createTime }

// String names the key.
func (k Key) String() string { return "key " + k.id }

// method signs with the key.
func (k Key) method() jwt.SigningMethod {
	if k.algorithm == sdk.ES256 {
		return jwt.SigningMethodES256
	}
	return jwt.SigningMethodEdDSA
}

// JWK is the public half of a key: the members of RFC 7517 that depend on its type, numbers in base64url.
type JWK struct {
	// Kty, Crv, X and Y are kty, crv, x and y. Y is empty for Ed25519.
	Kty, Crv, X, Y string
	// Kid is the key's id.
	Kid string
	// Alg is its algorithm.
	Alg sdk.Algorithm
}

// JWK returns the public half of the key.
func (k Key) JWK() (JWK, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	switch public := k.private().Public().(type) {
	case ed25519.PublicKey:
		return JWK{Kty: "OKP", Crv: "Ed25519", X: b64(public), Kid: k.id, Alg: k.algorithm}, nil
	case *ecdsa.PublicKey:
		point, err := public.Bytes() // 4, x, y
		if err != nil {
			return JWK{}, err
		}
		return JWK{Kty: "EC", Crv: "P-256", X: b64(point[1:33]), Y: b64(point[33:]), Kid: k.id, Alg: k.algorithm}, nil
	default:
		return JWK{}, fmt.Errorf("a %T is no public key that is used here", public)
	}
}

// thumbprint is the JWK thumbprint of a key, over the members that RFC 7638 and RFC 8037 name, in their order.
func (j JWK) thumbprint() string {
	y := ""
	if j.Y != "" {
		y = `,"y":"` + j.Y + `"`
	}
	sum := sha256.Sum256([]byte(`{"crv":"` + j.Crv + `","kty":"` + j.Kty + `","x":"` + j.X + `"` + y + `}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
