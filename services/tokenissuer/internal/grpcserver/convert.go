package grpcserver

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/tokenissuer/internal/caller"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

// toKeySet returns the public halves of the ring's keys. Its canonical JSON is a JSON Web Key Set (RFC 7517, RFC 7518, RFC 8037).
func toKeySet(ring *token.Ring) (*tokenv1.GetJsonWebKeySetResponse, error) {
	set := &tokenv1.GetJsonWebKeySetResponse{}
	for _, k := range ring.Keys() {
		jwk, err := k.JWK()
		if err != nil {
			return nil, err
		}
		set.Keys = append(set.Keys, &tokenv1.JsonWebKey{
			Kty: jwk.Kty, Crv: jwk.Crv, X: jwk.X, Y: jwk.Y, Use: "sig", Alg: string(jwk.Alg), Kid: jwk.Kid,
		})
	}
	return set, nil
}

// toSigningKeys says of each key what may be said.
func toSigningKeys(ring *token.Ring) []*tokenv1.SigningKey {
	sealed := ring.Sealed()
	keys := make([]*tokenv1.SigningKey, 0, len(sealed.Keys))
	for _, k := range sealed.Keys {
		keys = append(keys, &tokenv1.SigningKey{
			KeyId: k.ID, Algorithm: string(k.Algorithm), State: toState(k.State), CreateTime: timestamp(k.CreateTime), SignTime: timestamp(k.SignTime),
			RetireTime: timestamp(k.RetireTime), RemoveTime: timestamp(k.RemoveTime),
		})
	}
	return keys
}

// toState returns the state of the same name.
func toState(s token.State) tokenv1.SigningKey_State {
	return tokenv1.SigningKey_State(tokenv1.SigningKey_State_value["STATE_"+strings.ToUpper(string(s))])
}

// fromRevoke returns what a request wants revoked.
func fromRevoke(req *tokenv1.RevokeTokensRequest) (token.Target, error) {
	before, err := fromTimestamp("issued_before", req.GetIssuedBefore())
	return token.Target{
		Namespace: ids.Namespace(req.GetNamespace()), PairID: req.GetPairId(), ServerID: req.GetServerId(), InstanceID: req.GetInstanceId(), IssuedBefore: before,
	}, err
}

func toRevocation(r token.Revocation) *tokenv1.Revocation {
	return &tokenv1.Revocation{
		Id: r.ID(), Target: toTarget(r.Target), Reason: r.Reason, Actor: r.Actor,
		CreateTime: timestamp(r.CreateTime), ExpireTime: timestamp(r.ExpireTime), Version: r.Version,
	}
}

func toTargets(list []token.Target) []*tokenv1.RevocationTarget {
	targets := make([]*tokenv1.RevocationTarget, 0, len(list))
	for _, t := range list {
		targets = append(targets, toTarget(t))
	}
	return targets
}

func toTarget(t token.Target) *tokenv1.RevocationTarget {
	out := &tokenv1.RevocationTarget{Namespace: t.Namespace}
	switch {
	case t.PairID != "":
		out.Target = &tokenv1.RevocationTarget_PairId{PairId: t.PairID}
	case t.ServerID != "":
		out.Target = &tokenv1.RevocationTarget_ServerId{ServerId: t.ServerID}
	case t.InstanceID != "":
		out.Target = &tokenv1.RevocationTarget_InstanceId{InstanceId: t.InstanceID}
	case t.KeyID != "":
		out.Target = &tokenv1.RevocationTarget_KeyId{KeyId: t.KeyID}
	default:
		out.Target = &tokenv1.RevocationTarget_IssuedBefore{IssuedBefore: timestamppb.New(t.IssuedBefore)}
	}
	return out
}

func toIntrospection(found token.Introspection) *tokenv1.IntrospectTokenResponse {
	resp := &tokenv1.IntrospectTokenResponse{Active: found.Refused == nil}
	if found.Refused != nil {
		resp.Reason, resp.Message = string(found.Refused.Reason), found.Refused.Message
	}
	v := found.Verified
	if v == nil {
		return resp
	}
	resp.Claims = &tokenv1.TokenClaims{
		Audience: strings.Join(v.Audience, " "), Subject: v.Subject, Namespace: v.Namespace, PairId: v.Pair, InstanceId: v.Instance, TokenId: v.ID, KeyId: v.KeyID,
	}
	if v.IssuedAt != nil {
		resp.Claims.IssueTime = timestamppb.New(v.IssuedAt.Time)
	}
	if v.ExpiresAt != nil {
		resp.Claims.ExpireTime = timestamppb.New(v.ExpiresAt.Time)
	}
	return resp
}

func fromCreate(req *tokenv1.CreateApiKeyRequest) (caller.Key, error) {
	expires, err := fromTimestamp("expire_time", req.GetExpireTime())
	return caller.Key{
		Name: req.GetName(), Role: caller.Role(strings.TrimPrefix(req.GetRole().String(), "ROLE_")), Namespaces: req.GetNamespaces(), ExpireTime: expires,
	}, err
}

// fromTimestamp returns the zero time for nil. What is no time of the years 1 to 9999, which only gRPC can send, is an error.
func fromTimestamp(field string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, errs.Wrap(err, errs.ValidationFailed, "%s: must be a time of the years 1 to 9999, with less than 1,000,000,000 nanoseconds", field)
	}
	return t.AsTime(), nil
}

func toApiKey(k caller.Key) *tokenv1.ApiKey {
	return &tokenv1.ApiKey{
		Name: k.Name, Role: typev1.Role(typev1.Role_value["ROLE_"+string(k.Role)]), Namespaces: k.Namespaces, Creator: k.Creator,
		CreateTime: timestamp(k.CreateTime), ExpireTime: timestamp(k.ExpireTime),
	}
}

// timestamp returns nil for the zero time.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
