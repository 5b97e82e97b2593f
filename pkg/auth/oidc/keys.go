package oidc

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // case counts, and a member that is there twice is an error

	"github.com/berth-dev/berth/pkg/egress"
)

// algorithms are those that a token may be signed with. None is symmetric: what verifies is public.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.ES384, jose.EdDSA}

const (
	minRSA = 2048
	maxRSA = 8192 // a larger one costs more to verify than its issuer can need
	// maxKeys bounds what is read of a key set.
	maxKeys = 100
)

// discovery is what is read of an issuer's description of itself (OpenID Connect Discovery 1.0).
type discovery struct {
	Issuer  string `json:"issuer"`
	JWKSURI string `json:"jwks_uri"`
}

// wellKnown is where an issuer describes itself.
func wellKnown(issuer string) string {
	return strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
}

// parseDiscovery returns where the keys of an issuer are.
func parseDiscovery(raw []byte, issuer string) (string, error) {
	var d discovery
	if err := json.Unmarshal(raw, &d); err != nil {
		return "", fmt.Errorf("discovery document: %w", err)
	}
	if d.Issuer != issuer {
		return "", fmt.Errorf("discovery document: issuer is %.200q, which is not %q as configured", d.Issuer, issuer)
	}
	u, err := url.Parse(d.JWKSURI)
	if err != nil {
		return "", errors.New("discovery document: jwks_uri is no URL")
	}
	if err := egress.CheckURL(u); err != nil {
		return "", fmt.Errorf("discovery document: jwks_uri: %w", err)
	}
	return d.JWKSURI, nil
}

// key is a public key of an issuer.
type key struct {
	public any
	// for has the algorithms that it may be used with. The key says so, and never the token.
	algorithms []jose.SignatureAlgorithm
	// unusable is why it is not used; nil if it is.
	unusable error
}

// keySet has keys by id. An id may stand for several.
type keySet map[string][]key

// parseKeys reads a JSON Web Key Set. A key that cannot be used is kept as such, so that tokens which name it are refused for what it is; those without
// an id, or for something else than signatures, are left out.
func parseKeys(raw []byte) (keySet, error) {
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	if doc.Keys == nil {
		return nil, errors.New("key set: keys is missing")
	}
	if len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("key set: has %d keys, and at most %d are read", len(doc.Keys), maxKeys)
	}
	set := make(keySet, len(doc.Keys))
	for _, raw := range doc.Keys {
		var about struct {
			Kid string `json:"kid"`
			Use string `json:"use"`
		}
		if err := json.Unmarshal(raw, &about); err != nil || about.Kid == "" || about.Use != "" && about.Use != "sig" {
			continue
		}
		set[about.Kid] = append(set[about.Kid], parseKey(raw))
	}
	return set, nil
}

func parseKey(raw []byte) key {
	var k jose.JSONWebKey
	if err := json.Unmarshal(raw, &k); err != nil {
		return key{unusable: err}
	}
	can, err := usable(k.Key)
	if err == nil && k.Algorithm != "" {
		if !slices.Contains(can, jose.SignatureAlgorithm(k.Algorithm)) {
			err = fmt.Errorf("it is for %.20q, and such a key is used for %v", k.Algorithm, can)
		}
		can = []jose.SignatureAlgorithm{jose.SignatureAlgorithm(k.Algorithm)}
	}
	return key{public: k.Key, algorithms: can, unusable: err}
}

// usable returns the algorithms that a key can be used with.
func usable(public any) ([]jose.SignatureAlgorithm, error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSA || bits > maxRSA {
			return nil, fmt.Errorf("RSA keys must have %d to %d bits, and it has %d", minRSA, maxRSA, bits)
		}
		return []jose.SignatureAlgorithm{jose.RS256, jose.PS256}, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return []jose.SignatureAlgorithm{jose.ES256}, nil
		case elliptic.P384():
			return []jose.SignatureAlgorithm{jose.ES384}, nil
		}
	case ed25519.PublicKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}, nil
	}
	return nil, errors.New("it is of a type that is not used here, or private")
}
