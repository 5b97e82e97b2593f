// Package apikey makes API keys and knows their form: "berth_", 43 random characters and 6 of checksum, all of them letters and digits. Secret scanners
// find them by the expression berth_[0-9A-Za-z]{49} and tell them from chance by the checksum, without asking anybody.
//
// A key that was made before there was a checksum, or by hand, is an API key too where it is configured by its hash; Valid says no to it.
package apikey

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash/crc32"
	"strings"

	"github.com/berth-dev/berth/pkg/conf"
)

// Prefix begins every API key.
const Prefix = "berth_"

const (
	alphabet     = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	randomSize   = 43 // characters of nearly 6 bits: 256 bits together
	checksumSize = 6  // enough for 32 bits
	size         = len(Prefix) + randomSize + checksumSize
)

// Generate returns a new key, with 256 random bits, and its hash. It panics if the system has no randomness, as crypto/rand does.
func Generate() (key conf.Secret, hash string) {
	body := Prefix + random()
	key = conf.Secret(body + checksum(body))
	return key, Hash(key.Reveal())
}

// random returns characters that are all equally likely.
func random() string {
	const fair = 256 / len(alphabet) * len(alphabet) // bytes from here on would prefer the first characters
	var out strings.Builder
	buf := make([]byte, randomSize)
	for out.Len() < randomSize {
		_, _ = rand.Read(buf) // never fails
		for _, b := range buf {
			if int(b) < fair && out.Len() < randomSize {
				out.WriteByte(alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return out.String()
}

// checksum is the CRC-32 (IEEE) of what is before it, in base 62, highest digit first.
func checksum(body string) string {
	sum := crc32.ChecksumIEEE([]byte(body))
	digits := make([]byte, checksumSize)
	for i := range digits {
		digits[checksumSize-1-i] = alphabet[sum%uint32(len(alphabet))]
		sum /= uint32(len(alphabet))
	}
	return string(digits)
}

// Valid reports whether a key has the form of those that Generate makes, with the right checksum. It says nothing about whether the key is known anywhere, and
// what it compares is no secret.
func Valid(key string) bool {
	if len(key) != size || !strings.HasPrefix(key, Prefix) || strings.Trim(key[len(Prefix):], alphabet) != "" {
		return false
	}
	body := key[:size-checksumSize]
	return key[len(body):] == checksum(body)
}

// Hash returns the SHA-256 of a key in hex, which is what is configured and stored instead of the key.
func Hash(key string) string {
	h := sha256.Sum256([]byte(key))
	return hex.EncodeToString(h[:])
}
