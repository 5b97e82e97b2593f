package auth

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/errs"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
)

// Keys knows the API keys that were made by rpc.
type Keys interface {
	// LookupKey returns the key with a hash (SHA-256, hex); false if there is none in force.
	LookupKey(ctx context.Context, hash string) (APIKey, bool, error)
}

const (
	// lookupLife is how long an answer is good for: so long a revoked key may go on.
	lookupLife = 5 * time.Second
	// lookupGrace is how long a key that was known goes on while token-issuer cannot be asked.
	lookupGrace = time.Minute
	// maxLookups bounds the answers that are kept. Overflow: those that are not good any more go, or all of them.
	maxLookups = 4096
	// lookupTimeout bounds one question.
	lookupTimeout = 2 * time.Second
)

// IssuedKeys asks token-issuer, and keeps its answers for some seconds. It is safe for concurrent use.
type IssuedKeys struct {
	client tokenv1.TokenServiceClient

	mu      sync.Mutex
	answers map[string]lookup
}

type lookup struct {
	key   APIKey
	known bool
	at    time.Time
}

// NewIssuedKeys returns the keys of a token-issuer, over a connection that shows the internal key.
func NewIssuedKeys(issuer grpc.ClientConnInterface) *IssuedKeys {
	return &IssuedKeys{client: tokenv1.NewTokenServiceClient(issuer), answers: map[string]lookup{}}
}

// LookupKey implements Keys.
func (k *IssuedKeys) LookupKey(ctx context.Context, hash string) (APIKey, bool, error) {
	now := time.Now()
	k.mu.Lock()
	kept, ok := k.answers[hash]
	k.mu.Unlock()
	if ok && now.Sub(kept.at) < lookupLife {
		return kept.key, kept.known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	out, err := k.client.LookupApiKey(ctx, &tokenv1.LookupApiKeyRequest{Sha256: hash})
	if err != nil {
		if ok && kept.known && now.Sub(kept.at) < lookupGrace {
			return kept.key, true, nil
		}
		return APIKey{}, false, errs.Wrap(err, errs.ServiceUnavailable, "API keys cannot be looked up now: token-issuer is out of reach").Retry(time.Second)
	}
	answer := lookup{at: now}
	if found := out.GetApiKey(); found != nil {
		answer.known = true
		answer.key = APIKey{Name: found.GetName(), SHA256: hash, Role: Role(strings.TrimPrefix(found.GetRole().String(), "ROLE_")), Namespaces: found.GetNamespaces()}
	}
	k.keep(hash, answer)
	return answer.key, answer.known, nil
}

func (k *IssuedKeys) keep(hash string, answer lookup) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.answers) >= maxLookups {
		for h, kept := range k.answers {
			if answer.at.Sub(kept.at) >= lookupLife {
				delete(k.answers, h)
			}
		}
	}
	if len(k.answers) >= maxLookups {
		clear(k.answers)
	}
	k.answers[hash] = answer
}

// issued looks a key up that the configuration does not have. Only what has the checksum of a key is worth a question.
func (a *Authenticator) issued(ctx context.Context, key string) (APIKey, error) {
	unknown := errs.New(errs.CredentialsInvalid, "authorization: this API key is not known")
	if a.issuedKeys == nil || !apikey.Valid(key) {
		return APIKey{}, unknown
	}
	found, ok, err := a.issuedKeys.LookupKey(ctx, apikey.Hash(key))
	if err == nil && !ok {
		err = unknown
	}
	return found, err
}
