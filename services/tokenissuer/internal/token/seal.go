package token

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/berth-dev/berth/pkg/conf"
	sdk "github.com/berth-dev/berth/sdk/go/token"
)

const (
	// minSealingKey is short enough for 16 random bytes in hex.
	minSealingKey = 32
	// sealPurpose separates this use of the sealing key from every other one.
	sealPurpose = "berth token-issuer: seal signing keys, v1"
	// secretSize is the size in bytes of a private key of either algorithm: the seed of Ed25519, the scalar of P-256.
	secretSize = 32
)

// ErrSeal means that something sealed cannot be opened: it was sealed under another sealing key, or changed since.
var ErrSeal = errors.New("sealed under another sealing key, or changed since")

// Sealer encrypts private keys (AES-256-GCM, under a key that HKDF derives from the sealing key), so that who reads the store cannot sign. It is
// safe for concurrent use.
type Sealer struct {
	current  cipher.AEAD
	previous cipher.AEAD // nil if there is none
}

// NewSealer returns a Sealer, which seals under current and opens what was sealed under either. previous may be empty. The sealing keys are not
// stretched: they must be random, not phrases that somebody thought of.
func NewSealer(current, previous conf.Secret) (*Sealer, error) {
	s := new(Sealer)
	var err error
	if s.current, err = newAEAD(current); err != nil {
		return nil, err
	}
	if previous == "" {
		return s, nil
	}
	s.previous, err = newAEAD(previous)
	return s, err
}

func newAEAD(sealingKey conf.Secret) (cipher.AEAD, error) {
	if len(sealingKey) < minSealingKey {
		return nil, fmt.Errorf("needs at least %d characters", minSealingKey)
	}
	derived, err := hkdf.Key(sha256.New, []byte(sealingKey.Reveal()), nil, sealPurpose, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block) // puts the nonce in front
}

// Seal encrypts the key. The key's id is bound to it: under another id it does not open.
func (s *Sealer) Seal(k *Key) ([]byte, error) {
	secret, err := secretOf(k)
	if err != nil {
		return nil, err
	}
	return s.current.Seal(nil, nil, secret, []byte(k.id)), nil
}

// Open decrypts a key, or fails with ErrSeal. stale says that only the previous sealing key opens it.
func (s *Sealer) Open(sealed SealedKey) (k *Key, stale bool, err error) {
	secret, err := s.current.Open(nil, nil, sealed.Sealed, []byte(sealed.ID))
	if err != nil && s.previous != nil {
		secret, err = s.previous.Open(nil, nil, sealed.Sealed, []byte(sealed.ID))
		stale = err == nil
	}
	if err != nil || len(secret) != secretSize {
		return nil, false, fmt.Errorf("signing key %q: %w", sealed.ID, ErrSeal)
	}
	k, err = keyFromSecret(sealed, secret)
	// The id follows from public key and algorithm; one that was stored with another algorithm is not that key.
	if err != nil || k.id != sealed.ID {
		return nil, false, fmt.Errorf("signing key %q: %w", sealed.ID, ErrSeal)
	}
	return k, stale, nil
}

func secretOf(k *Key) ([]byte, error) {
	switch private := k.private().(type) {
	case ed25519.PrivateKey:
		return private.Seed(), nil
	case *ecdsa.PrivateKey:
		return private.Bytes()
	default:
		return nil, fmt.Errorf("%s: is of a type that cannot be sealed", k)
	}
}

func keyFromSecret(sealed SealedKey, secret []byte) (*Key, error) {
	switch sealed.Algorithm {
	case sdk.EdDSA:
		return keyOf(sealed.Algorithm, ed25519.NewKeyFromSeed(secret), sealed.CreateTime)
	case sdk.ES256:
		private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), secret)
		if err != nil {
			return nil, err
		}
		return keyOf(sealed.Algorithm, private, sealed.CreateTime)
	default:
		return nil, fmt.Errorf("algorithm %q is not known", sealed.Algorithm)
	}
}
