package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"testing"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// A whole match whose server is started without tokens: it claims them, links, is played and ends with its result.
func TestAWholeMatchWithAClaimCode(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		id := s.create(t, "claim-hold", "ann").GetId()
		s.becomes(t, id, running)
		code := claimCode(t, id)
		ann := s.join(t, id, "ann")
		// Who reads the code now, from the process or a host's page about it, cannot disturb the match.
		if reason, _ := s.claim(t, 0, code, "a thief's nonce, late"); reason != "CLAIM_USED" {
			t.Errorf("a late claim is answered %q", reason)
		}
		ann.say(t, "END")
		if inst := s.becomes(t, id, ended); inst.GetResult() == nil || len(inst.GetAttempts()) != 1 {
			t.Errorf("after the match: %v", inst)
		}
		gone(t, id)
		events := s.events(t, id)
		if claimed, linked := slices.Index(events, "claimed"), slices.Index(events, "linked"); claimed < 0 || linked < claimed {
			t.Errorf("the history has %v", events)
		}
		if reason, _ := s.claim(t, 0, code, "a thief's nonce, too late"); reason != "CLAIM_USED" {
			t.Errorf("a claim after the end is answered %q", reason)
		}
	})
}

// The answer is the same through each gateway, and so is the fate of a code that two have.
func TestAClaimCodeThroughEachGateway(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		id, last := s.create(t, "claim-never-link", "ann").GetId(), len(s.edges)-1
		s.becomes(t, id, instancev1.GameInstance_STATE_ALLOCATED)
		code := claimCode(t, id)
		var pairs []*gameserverv1.ClaimTokensResponse
		for _, gateway := range []int{0, last} {
			reason, out := s.claim(t, gateway, code, "the server's own nonce")
			if reason != "" {
				t.Fatalf("the claim is answered %s", reason)
			}
			pairs = append(pairs, out)
		}
		grpc := s.overGRPC(t)
		for _, p := range pairs { // both are good, and of one pair
			if _, reason := grpc(t, pairs[0].GetGameToken(), p.GetSocialToken(), id, "ConnectPlayers", nil); reason != "STATE_NOT_ALLOWED" {
				t.Errorf("before the link, players cannot be connected because of %q", reason)
			}
		}
		if _, reason := grpc(t, code, pairs[0].GetSocialToken(), id, "ConnectPlayers", nil); reason != "CREDENTIALS_INVALID" {
			t.Errorf("a code in the place of a token: %q", reason)
		}
		if reason, _ := s.claim(t, last, code, "a thief's own nonce"); reason != "CLAIM_USED" {
			t.Errorf("the second is answered %q", reason)
		}
		if inst := s.becomes(t, id, terminated); inst.GetReason() != instancev1.GameInstance_REASON_CLAIMED_TWICE {
			t.Errorf("the instance is %v", inst)
		}
		if _, reason := grpc(t, pairs[0].GetGameToken(), pairs[0].GetSocialToken(), id, "ConnectPlayers", nil); reason != "SUPERSEDED" {
			t.Errorf("what the first one got is refused with %q", reason)
		}
		gone(t, id)
	})
}

// claim uses a claim code through the n-th gateway, and returns the reason of a refusal.
func (s *berth) claim(t *testing.T, gateway int, code, nonce string) (string, *gameserverv1.ClaimTokensResponse) {
	t.Helper()
	status, body := do(t, "POST", s.edges[gateway]+"/v1/claim", fmt.Sprintf(`{"claim":%q,"nonce":%q}`, code, base64.StdEncoding.EncodeToString([]byte(nonce))))
	if status != http.StatusOK {
		reason, message := errorOf(t, body)
		if message == "" {
			t.Error("a refusal without a message")
		}
		return reason, nil
	}
	out := new(gameserverv1.ClaimTokensResponse)
	if err := protojson.Unmarshal(body, out); err != nil {
		t.Fatal(err)
	}
	return "", out
}
