package token

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/berth-dev/berth/pkg/conf"
)

const (
	// minSealingKey is short enough for 16 random bytes in hex.
	minSealingKey = 32
	// sealPurpose separates this use of the sealing key from every other one.
	sealPurpose = "berth token-issuer: seal signing keys, v1"
)

// ErrSeal means that something sealed cannot be opened: it was sealed under another sealing key, or changed since.
var ErrSeal = errors.New("sealed under another sealing key, or changed since")

// Sealer encrypts private keys (AES-256-GCM, under a key that HKDF derives from the sealing key), so that who reads the store cannot sign. It is
// safe for concurrent use.
type Sealer struct {
	aead cipher.AEAD
}

// NewSealer returns a Sealer. The sealing key is not stretched: it must be random, not a phrase that somebody thought of.
func NewSealer(sealingKey conf.Secret) (*Sealer, error) {
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
	aead, err := cipher.NewGCMWithRandomNonce(block) // puts the nonce in front
	if err != nil {
		return nil, err
	}
	return &Sealer{aead}, nil
}

// Seal encrypts the key. The key's id is bound to it: under another id it does not open.
func (s *Sealer) Seal(k *Key) SealedKey {
	return SealedKey{ID: k.id, CreateTime: k.createTime, Sealed: s.aead.Seal(nil, nil, k.private().Seed(), []byte(k.id))}
}

// Open decrypts a key, or fails with ErrSeal.
func (s *Sealer) Open(sealed SealedKey) (*Key, error) {
	seed, err := s.aead.Open(nil, nil, sealed.Sealed, []byte(sealed.ID))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("signing key %q: %w", sealed.ID, ErrSeal)
	}
	private := ed25519.NewKeyFromSeed(seed)
	return &Key{id: sealed.ID, createTime: sealed.CreateTime, private: func() ed25519.PrivateKey { return private }}, nil
}
