// Package pagetoken makes and checks the tokens that name a place in a list. They say which list they are of and cannot be made by others, so that nobody
// comes to rely on what is in them, and none leads into another list than the one that it was returned with.
package pagetoken

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
)

// Key makes and checks the tokens of one service. It is safe for concurrent use.
type Key struct{ key []byte }

// New derives the key of a service from the secret that all of its replicas share: a token is good on each of them, and after a restart.
func New(secret conf.Secret, service string) (Key, error) {
	key, err := hkdf.Key(sha256.New, []byte(secret.Reveal()), nil, "berth page tokens of "+service+" v1", sha256.Size)
	return Key{key: key}, err
}

// Token names a place in a list; "" for the empty place, which is the end. What names the list, its filter included, is encoded as JSON: it must differ
// from what names the service's other lists.
func (k Key) Token(list any, place string) (string, error) {
	if place == "" {
		return "", nil
	}
	sum, err := k.sum(list, place)
	return base64.RawURLEncoding.EncodeToString(append([]byte(place), sum...)), err
}

// Place returns the place that a token of the list names; "" for the empty token, which names the beginning.
func (k Key) Place(list any, token string) (string, error) {
	if token == "" {
		return "", nil
	}
	invalid := errs.New(errs.ValidationFailed, "page_token: not one of this list; take next_page_token as it is, with the same namespace and filter, or leave it empty")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) <= sha256.Size {
		return "", invalid
	}
	place := string(raw[:len(raw)-sha256.Size])
	sum, err := k.sum(list, place)
	if err != nil {
		return "", err
	}
	if !hmac.Equal(sum, raw[len(place):]) {
		return "", invalid
	}
	return place, nil
}

// sum authenticates a place together with the list that it is in.
func (k Key) sum(list any, place string) ([]byte, error) {
	name, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(name)
	mac := hmac.New(sha256.New, k.key)
	_, _ = mac.Write(digest[:]) // a hash never fails
	_, _ = mac.Write([]byte(place))
	return mac.Sum(nil), nil
}
