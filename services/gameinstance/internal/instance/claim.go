package instance

import (
	"bytes"
	"context"
	"crypto/sha256"

	"github.com/berth-dev/berth/pkg/errs"
)

// Claim says that somebody has shown the claim code of an attempt's server, and made this nonce for it. The instance is its arbiter, as it is of the
// attempt: the first nonce has the code, and another one before the link ends the attempt, because nobody can say which of the two is the server.
type Claim struct {
	AttemptID string
	// NonceHash is the nonce's SHA-256.
	NonceHash []byte
}

func (c Claim) decide(t *turn) error {
	a := t.i.attempt(c.AttemptID)
	switch {
	case a == nil || a.Registered || a.Pooled():
		return errs.New(errs.NotAssigned, "claim: the instance has not asked for the server that this code is for")
	case a.claimedWith(c.NonceHash): // again, because the answer was lost
		return t.claimable(a)
	case a.ClaimNonceHash != nil && a.Fate == Open:
		message := "the claim code of server " + a.ServerID + " was used by two before the server linked; somebody else may have read it"
		t.record("claimed_twice", "server %s", a.ServerID)
		t.loseServer(ClaimedTwice, "%s", message)
		return nil
	case a.ClaimNonceHash != nil:
		return errClaimUsed("nothing was changed")
	case a.Fate == Accepted:
		return errs.New(errs.ClaimUsed, "claim: the server of this code has linked already, without it; the code is good for nothing any more, and nothing was changed")
	}
	if err := t.claimable(a); err != nil {
		return err
	}
	a.ClaimNonceHash = c.NonceHash
	t.record("claimed", "server %s", a.ServerID)
	return nil
}

// claimable refuses to give out the pair of a server that could do nothing with it.
func (t *turn) claimable(a *Attempt) error {
	if err := t.assigned(a.ServerID); err != nil {
		return err
	}
	return t.live()
}

// claimedWith reports whether the server's claim code was used with a nonce.
func (a *Attempt) claimedWith(nonceHash []byte) bool {
	return a.ClaimNonceHash != nil && bytes.Equal(a.ClaimNonceHash, nonceHash)
}

func errClaimUsed(outcome string) error {
	return errs.New(errs.ClaimUsed, "claim: the code was used before, with another nonce: by somebody else, or by an earlier process of this server; %s", outcome)
}

// Claim uses the claim code of an attempt's server. It returns nil to the first nonce, however often that asks and as long as the instance waits for the
// server or has it, and CLAIM_USED to any other.
func (s *Service) Claim(ctx context.Context, actor, namespace, instanceID, attemptID string, nonce []byte) error {
	hash := sha256.Sum256(nonce)
	inst, err := s.Apply(ctx, namespace, instanceID, Envelope{Actor: actor}, Claim{AttemptID: attemptID, NonceHash: hash[:]})
	if err != nil {
		return err
	}
	if a := inst.attempt(attemptID); a.claimedWith(hash[:]) {
		return nil
	}
	return errClaimUsed("its server had not linked yet, and is given up")
}
