// Package auth knows who calls and what they may do. Each service checks at its own door: credentials from the call's metadata become a
// Principal, and the rpc's proto option says which role the Principal must hold. What has no option is refused.
package auth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/sdk/go/token"
)

// Metadata keys that carry credentials. REST and the link's upgrade use headers of the same names.
const (
	// MetadataAuthorization is "Bearer KEY" or "Bearer GAME-TOKEN".
	MetadataAuthorization = "authorization"
	// MetadataSocialToken is a game server's social token.
	MetadataSocialToken = "berth-social-token"
	// MetadataInternalKey is the key that Berth's services show each other.
	MetadataInternalKey = "berth-internal-key"
)

// Role is what a Principal may do; the names are those of berth.type.v1.Role.
type Role string

// The roles.
const (
	RolePublic     Role = "PUBLIC"
	RoleViewer     Role = "VIEWER"
	RoleService    Role = "SERVICE"
	RoleOperator   Role = "OPERATOR"
	RoleAdmin      Role = "ADMIN"
	RoleGameServer Role = "GAME_SERVER"
	RolePool       Role = "POOL"
	RoleInternal   Role = "INTERNAL"
)

// ladder holds the roles of which each includes the ones before it.
var ladder = [...]Role{RoleViewer, RoleService, RoleOperator, RoleAdmin}

// Includes reports whether a holder of r may do what want asks for.
func (r Role) Includes(want Role) bool {
	if want == RolePublic || r == want {
		return true
	}
	have, need := slices.Index(ladder[:], r), slices.Index(ladder[:], want)
	return need >= 0 && have > need
}

// Principal is who calls.
type Principal struct {
	// Role is what they may do; RolePublic for a caller without credentials.
	Role Role
	// Name of the API key, or that of the caller as its identity provider has it, or, for RoleInternal, that of the service as its certificate has it.
	Name string
	// Issuer is the identity provider that knows the caller, without "https://"; empty for all others.
	Issuer string
	// Namespaces that the credentials are limited to; empty: all.
	Namespaces []string
	// Server is the game server, for RoleGameServer.
	Server token.Server
	// Expired says that the game server's tokens have expired, and are right otherwise. Few rpcs let it through.
	Expired bool
}

// Actor names the principal in history and audit, and no two callers have the same name: request ids are theirs alone.
func (p Principal) Actor() string {
	switch {
	case p.Role == RoleGameServer:
		return "server:" + p.Server.ID
	case p.Role == RoleInternal:
		return "service:" + cmp.Or(p.Name, "berth")
	case p.Role == RolePublic:
		return "public"
	case p.Issuer != "":
		return "oidc:" + p.Issuer + "#" + p.Name // no issuer has a "#"
	default:
		return "key:" + p.Name
	}
}

// MayUse returns an error unless the principal has access to the namespace.
func (p Principal) MayUse(namespace string) error {
	if len(p.Namespaces) == 0 || slices.Contains(p.Namespaces, namespace) {
		return nil
	}
	return errs.New(errs.NamespaceDenied, "namespace: these credentials have no access to %q", namespace)
}

type principalKey struct{}

// NewContext returns a context that carries the principal.
func NewContext(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// FromContext returns the principal of a call; one without any right if there is none.
func FromContext(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}

// APIKey is a root key in a service's configuration: its hash, never the key.
type APIKey struct {
	// Name of the key, for history and audit.
	Name string `yaml:"name"`
	// SHA256 of the key, in hex.
	SHA256 string `yaml:"sha256"`
	// Role is VIEWER, SERVICE, OPERATOR or ADMIN, or POOL for the servers of warm pools.
	Role Role `yaml:"role"`
	// Namespaces that the key is limited to; empty: all.
	Namespaces []string `yaml:"namespaces"`
}

// Config says whom to know.
type Config struct {
	// InternalKey is the key that Berth's services show each other. At least 32 characters.
	InternalKey conf.Secret `yaml:"internal_key" env:"INTERNAL_KEY,unset"`
	// APIKeys are the root keys.
	APIKeys []APIKey `yaml:"api_keys"`
	// APIKeySHA256 is the hash (hex) of one more root key, with role ADMIN: for set-ups without a file.
	APIKeySHA256 string `yaml:"api_key_sha256" env:"API_KEY_SHA256"`
	// OIDC are the identity providers whose tokens are taken.
	OIDC []OIDC `yaml:"oidc"`
}

// Pairs verifies a game server's pair of tokens.
type Pairs interface {
	VerifyPair(ctx context.Context, game, social string) (token.Server, error)
}

// Authenticator turns credentials into principals. It is safe for concurrent use.
type Authenticator struct {
	internal [sha256.Size]byte
	keys     map[[sha256.Size]byte]APIKey
	pairs    Pairs
	// issuedKeys are those that the configuration does not have.
	issuedKeys Keys
	// providers are the identity providers by issuer.
	providers map[string]provider
}

// Validate returns an error that names each setting that cannot be used.
func (c Config) Validate() error {
	var bad []error
	if len(c.InternalKey) < 32 {
		bad = append(bad, errors.New("auth.internal_key (BERTH_AUTH_INTERNAL_KEY): needs at least 32 characters, the same for all services"))
	}
	if _, err := parseHash(c.APIKeySHA256); c.APIKeySHA256 != "" && err != nil {
		bad = append(bad, fmt.Errorf("auth.api_key_sha256 (BERTH_AUTH_API_KEY_SHA256): %w", err))
	}
	for _, k := range c.APIKeys {
		if _, err := parseHash(k.SHA256); err != nil {
			bad = append(bad, fmt.Errorf("auth.api_keys: %q: sha256: %w", k.Name, err))
		}
		if k.Name == "" || k.Role != RolePool && !slices.Contains(ladder[:], k.Role) {
			bad = append(bad, fmt.Errorf("auth.api_keys: %q: needs a name and one of the roles %v, or %s", k.Name, ladder, RolePool))
		}
	}
	return errors.Join(append(bad, validateOIDC(c.OIDC))...)
}

// parseHash reads the hash of an API key.
func parseHash(s string) (sum [sha256.Size]byte, err error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(sum) {
		return sum, errors.New("must be 64 hex digits: the SHA-256 of the key")
	}
	return [sha256.Size]byte(raw), nil
}

// New returns an Authenticator that knows no identity providers; see Open. pairs may be nil in a service that game servers never call, and issued in one
// that only knows the configured keys.
func New(cfg Config, pairs Pairs, issued Keys) (*Authenticator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	keys := cfg.APIKeys
	if cfg.APIKeySHA256 != "" {
		keys = append(slices.Clone(keys), APIKey{Name: "root", SHA256: cfg.APIKeySHA256, Role: RoleAdmin})
	}
	a := &Authenticator{internal: sha256.Sum256([]byte(cfg.InternalKey.Reveal())), keys: make(map[[sha256.Size]byte]APIKey, len(keys)), pairs: pairs, issuedKeys: issued}
	for _, k := range keys {
		sum, err := parseHash(k.SHA256)
		if err != nil {
			return nil, err
		}
		a.keys[sum] = k
	}
	return a, nil
}

// Authenticate returns who shows the credentials in the metadata: a principal with RolePublic when there are none. A credential that is not valid
// is refused, wanted or not; an internal key or an API key stands for itself, and what else is there is not looked at.
func (a *Authenticator) Authenticate(ctx context.Context, md metadata.MD) (Principal, error) {
	internal, err := single(md, MetadataInternalKey)
	if err != nil {
		return Principal{}, err
	}
	if internal != "" {
		sum := sha256.Sum256([]byte(internal))
		if subtle.ConstantTimeCompare(sum[:], a.internal[:]) != 1 {
			return Principal{}, errs.New(errs.CredentialsInvalid, "the internal key is not this deployment's")
		}
		return Principal{Role: RoleInternal}, nil
	}
	authorization, err := single(md, MetadataAuthorization)
	if err != nil {
		return Principal{}, err
	}
	social, err := single(md, MetadataSocialToken)
	if err != nil {
		return Principal{}, err
	}
	bearer, isBearer := bearerOf(authorization)
	switch {
	case authorization == "" && social == "":
		return Principal{Role: RolePublic}, nil
	case authorization != "" && !isBearer:
		return Principal{}, errs.New(errs.CredentialsInvalid, "authorization: must be \"Bearer\" and a key or token")
	case strings.HasPrefix(bearer, apikey.Prefix):
		return a.apiKey(ctx, bearer)
	default:
		return a.token(ctx, bearer, social)
	}
}

// token returns who shows a token, or, with social, a pair of them.
func (a *Authenticator) token(ctx context.Context, bearer, social string) (Principal, error) {
	if social == "" {
		if p, theirs, err := a.identity(ctx, bearer); theirs {
			return p, err
		}
	}
	switch {
	case social == "" && strings.Count(bearer, ".") != 2:
		return Principal{}, errs.New(errs.CredentialsInvalid, "authorization: neither an API key (%s…) nor a game server's token", apikey.Prefix)
	case a.pairs == nil:
		return Principal{}, errs.New(errs.CredentialsInvalid, "authorization: this service takes API keys (%s…) only", apikey.Prefix)
	default:
		return a.Pair(ctx, bearer, social)
	}
}

// Expired reports whether nothing is wrong with a pair, as VerifyPair has answered, but that its lifetime is over.
func Expired(server token.Server, err error) bool {
	var refused *token.Error
	return server.ID != "" && errors.As(err, &refused) && refused.Reason == token.Expired
}

// Pair returns the principal of a game server's two tokens.
func (a *Authenticator) Pair(ctx context.Context, game, social string) (Principal, error) {
	server, err := a.pairs.VerifyPair(ctx, game, social)
	expired := Expired(server, err)
	if err != nil && !expired {
		return Principal{}, TokenErr(err)
	}
	return Principal{Role: RoleGameServer, Server: server, Namespaces: []string{server.Namespace}, Expired: expired}, nil
}

func (a *Authenticator) apiKey(ctx context.Context, key string) (Principal, error) {
	// A map looked up by hash tells an attacker nothing about the keys in it.
	k, ok := a.keys[sha256.Sum256([]byte(key))]
	if !ok {
		var err error
		if k, err = a.issued(ctx, key); err != nil {
			return Principal{}, err
		}
	}
	return Principal{Role: k.Role, Name: k.Name, Namespaces: k.Namespaces}, nil
}

// TokenErr turns an error of token verification into one that callers may see.
func TokenErr(err error) error {
	var te *token.Error
	if errors.As(err, &te) {
		return errs.New(errs.Reason(te.Reason), "%s", te.Message)
	}
	return errs.Wrap(err, errs.ServiceUnavailable, "tokens cannot be verified now: the signing keys, or what was revoked, are out of reach").Retry(time.Second)
}

// single returns the only value of a key; two are an attempt to have two readers see two things.
func single(md metadata.MD, key string) (string, error) {
	switch v := md.Get(key); len(v) {
	case 0:
		return "", nil
	case 1:
		return v[0], nil
	default:
		return "", errs.New(errs.CredentialsInvalid, "%s: must be there once, not %d times", key, len(v))
	}
}

func bearerOf(authorization string) (string, bool) {
	scheme, value, ok := strings.Cut(authorization, " ")
	return strings.TrimSpace(value), ok && strings.EqualFold(scheme, "bearer")
}
