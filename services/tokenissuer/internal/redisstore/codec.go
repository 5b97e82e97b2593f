package redisstore

import (
	"encoding/json"
	"fmt"
	"time"

	sdk "github.com/berth-dev/berth/sdk/go/token"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

const (
	// format is the version of ringRecord that this code writes.
	format = 2
	// firstFormat, which is read too, has one key for ever: no revision, times or states.
	firstFormat = 1
)

// ringRecord is the key ring as it is stored. It is always written as a whole, and by no code that does not know its format, so nothing here must carry over
// fields of newer versions.
type ringRecord struct {
	Format   int         `json:"v"`
	Lineage  string      `json:"lineage,omitempty"`
	Revision int64       `json:"rev,omitempty"`
	Signing  string      `json:"signing,omitempty"` // firstFormat
	Keys     []keyRecord `json:"keys"`
}

type keyRecord struct {
	ID         string        `json:"kid"`
	Algorithm  sdk.Algorithm `json:"alg,omitempty"`
	State      token.State   `json:"state,omitempty"`
	CreateTime time.Time     `json:"create_time"`
	SignTime   time.Time     `json:"sign_time,omitzero"`
	RetireTime time.Time     `json:"retire_time,omitzero"`
	RemoveTime time.Time     `json:"remove_time,omitzero"`
	Lifetime   int64         `json:"lifetime_ms,omitempty"`
	Sealed     []byte        `json:"sealed,omitempty"` // nonce and AES-256-GCM, in base64
}

func encodeRing(ring token.SealedRing) ([]byte, error) {
	r := ringRecord{Format: format, Lineage: ring.Lineage, Revision: ring.Revision}
	for _, k := range ring.Keys {
		r.Keys = append(r.Keys, keyRecord{
			ID: k.ID, Algorithm: k.Algorithm, State: k.State, CreateTime: k.CreateTime.UTC(), SignTime: utc(k.SignTime),
			RetireTime: utc(k.RetireTime), RemoveTime: utc(k.RemoveTime), Lifetime: k.Lifetime.Milliseconds(), Sealed: k.Sealed,
		})
	}
	return json.Marshal(r)
}

// utc keeps the zero time zero.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

func decodeRing(raw []byte) (token.SealedRing, error) {
	var r ringRecord
	if err := json.Unmarshal(raw, &r); err != nil {
		return token.SealedRing{}, fmt.Errorf("the key ring at %s cannot be read: %w", RingKey, err)
	}
	if r.Format != format && r.Format != firstFormat {
		return token.SealedRing{}, fmt.Errorf("the key ring at %s has format %d and this version of Berth knows formats %d and %d", RingKey, r.Format, firstFormat, format)
	}
	ring := token.SealedRing{Lineage: r.Lineage, Revision: r.Revision}
	for _, k := range r.Keys {
		key := token.SealedKey{
			ID: k.ID, Algorithm: k.Algorithm, State: k.State, CreateTime: k.CreateTime, SignTime: k.SignTime,
			RetireTime: k.RetireTime, RemoveTime: k.RemoveTime, Lifetime: time.Duration(k.Lifetime) * time.Millisecond, Sealed: k.Sealed,
		}
		if r.Format == firstFormat {
			key.Algorithm, key.State, key.SignTime, key.Lifetime = sdk.EdDSA, token.Retired, k.CreateTime, firstLifetime
			if k.ID == r.Signing {
				key.State = token.Signing
			}
		}
		ring.Keys = append(ring.Keys, key)
	}
	return ring, nil
}

// firstLifetime is the longest lifetime that tokens could have had when rings had the first format.
const firstLifetime = 24 * time.Hour
