package redisstore

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

// format is the version of record that this code writes and knows.
const format = 1

// record is the key ring as it is stored. It is written once, so nothing here must carry over fields of newer versions.
type record struct {
	Format  int         `json:"v"`
	Signing string      `json:"signing"`
	Keys    []keyRecord `json:"keys"`
}

type keyRecord struct {
	ID         string    `json:"kid"`
	CreateTime time.Time `json:"create_time"`
	Sealed     []byte    `json:"sealed"` // nonce and AES-256-GCM, in base64
}

func encode(ring token.SealedRing) ([]byte, error) {
	r := record{Format: format, Signing: ring.Signing}
	for _, k := range ring.Keys {
		r.Keys = append(r.Keys, keyRecord(k))
	}
	return json.Marshal(r)
}

func decode(raw []byte) (token.SealedRing, error) {
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return token.SealedRing{}, fmt.Errorf("the key ring at %s cannot be read: %w", RingKey, err)
	}
	if r.Format != format {
		return token.SealedRing{}, fmt.Errorf("the key ring at %s has format %d and this version of Berth knows format %d", RingKey, r.Format, format)
	}
	ring := token.SealedRing{Signing: r.Signing}
	for _, k := range r.Keys {
		ring.Keys = append(ring.Keys, token.SealedKey(k))
	}
	return ring, nil
}
