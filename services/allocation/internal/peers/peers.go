// Package peers calls the services that allocation needs: token-issuer for a server's tokens, game-instance for an attempt's fate.
package peers

import (
	"context"
	"encoding/json"
	"fmt"

	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	"github.com/berth-dev/berth/pkg/rpc"
	"github.com/berth-dev/berth/pkg/tracing"
	"github.com/berth-dev/berth/sdk/go/bootstrap"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/wire"
)

// Issuer makes bootstrap documents with credentials of token-issuer. It is an allocator.Credentials and safe for concurrent use.
type Issuer struct {
	// Tokens is the client of token-issuer.
	Tokens tokenv1.TokenServiceClient
	// Gateway is the base URL of the gateway's edge, as game servers reach it.
	Gateway string
	// CA has the certificates of the authorities that sign the gateway's; empty: those of the servers' systems.
	CA string
}

// Bootstrap implements allocator.Credentials. With a claim code the pair is minted when the server claims it, and never comes here.
func (i Issuer) Bootstrap(ctx context.Context, a allocator.Allocation, p allocator.ProviderInfo) ([]byte, error) {
	if p.Pool {
		return nil, nil
	}
	doc := bootstrap.Document{
		Version: bootstrap.Version, Namespace: a.Namespace, Instance: a.InstanceID, Server: a.ServerID(), Gateway: i.Gateway, CA: i.CA, Traceparent: a.Traceparent,
	}
	mint := i.tokens
	if p.Claims {
		mint = i.claim
	}
	server, err := mint(tracing.WithParent(ctx, a.Traceparent), a, &doc)
	if err != nil {
		return nil, rpc.FromStatus(err)
	}
	if server != a.ServerID() {
		return nil, fmt.Errorf("token-issuer minted for server %s, and the attempt's is %s", server, a.ServerID())
	}
	return json.Marshal(doc)
}

// tokens puts the pair into the document, and returns whose it is.
func (i Issuer) tokens(ctx context.Context, a allocator.Allocation, doc *bootstrap.Document) (server string, err error) {
	pair, err := i.Tokens.IssueTokenPair(ctx, &tokenv1.IssueTokenPairRequest{Namespace: a.Namespace, AttemptId: a.ID})
	doc.Game, doc.Social = bootstrap.Secret(pair.GetGameToken()), bootstrap.Secret(pair.GetSocialToken())
	return pair.GetServerId(), err
}

// claim puts the claim code into the document, and returns whose it is.
func (i Issuer) claim(ctx context.Context, a allocator.Allocation, doc *bootstrap.Document) (server string, err error) {
	code, err := i.Tokens.IssueClaimCode(ctx, &tokenv1.IssueClaimCodeRequest{Namespace: a.Namespace, AttemptId: a.ID})
	doc.Claim = bootstrap.Secret(code.GetClaim())
	return code.GetServerId(), err
}

// Instances tells game-instance what became of attempts. It is an allocator.Instances, a fleet.Instances and a reaper.Instances, and safe for concurrent use.
type Instances struct {
	// Attempts is the client of game-instance.
	Attempts attemptv1.AttemptServiceClient
}

// Report implements allocator.Instances.
func (i Instances) Report(ctx context.Context, a allocator.Allocation) (allocator.Verdict, error) {
	req := &attemptv1.ReportAttemptRequest{InstanceId: a.InstanceID, AttemptId: a.ID}
	switch a.Report {
	case allocator.ReportAllocated:
		allocated := &attemptv1.Allocated{Provider: a.Provider, Region: a.Region, Endpoints: wire.Endpoints(a.Endpoints), ServerId: a.PoolServer}
		req.Outcome = &attemptv1.ReportAttemptRequest_Allocated{Allocated: allocated}
	case allocator.ReportFailed:
		failed := &attemptv1.Failed{Message: a.Message}
		if a.Failure != "" {
			failed.Elsewhere, failed.Provider, failed.Region, failed.Failure = true, a.Provider, a.Region, a.Failure
		}
		req.Outcome = &attemptv1.ReportAttemptRequest_Failed{Failed: failed}
	case allocator.ReportExited:
		req.Outcome = &attemptv1.ReportAttemptRequest_Exited{Exited: &attemptv1.Exited{Message: a.Message, Missing: a.State < allocator.Releasing}}
	case allocator.ReportReleased:
		req.Outcome = &attemptv1.ReportAttemptRequest_Released{Released: &attemptv1.Released{}}
	default:
		return allocator.Open, fmt.Errorf("allocation %s owes no report", a.ID)
	}
	return i.report(tracing.WithParent(ctx, a.Traceparent), req)
}

// Ask implements reaper.Instances.
func (i Instances) Ask(ctx context.Context, instance, attempt string) (allocator.Verdict, error) {
	asked := &attemptv1.ReportAttemptRequest_Asked{Asked: new(attemptv1.Asked)}
	return i.report(ctx, &attemptv1.ReportAttemptRequest{InstanceId: instance, AttemptId: attempt, Outcome: asked})
}

func (i Instances) report(ctx context.Context, req *attemptv1.ReportAttemptRequest) (allocator.Verdict, error) {
	resp, err := i.Attempts.ReportAttempt(ctx, req)
	if err != nil {
		return allocator.Open, rpc.FromStatus(err)
	}
	switch resp.GetVerdict() {
	case attemptv1.ReportAttemptResponse_VERDICT_ACCEPTED:
		return allocator.Accepted, nil
	case attemptv1.ReportAttemptResponse_VERDICT_ABANDONED:
		return allocator.Abandoned, nil
	case attemptv1.ReportAttemptResponse_VERDICT_UNKNOWN:
		return allocator.Unknown, nil
	default:
		return allocator.Open, nil
	}
}

// Move implements fleet.Instances.
func (i Instances) Move(ctx context.Context, a allocator.Allocation, reason string) (moved bool, message string, err error) {
	resp, err := i.Attempts.MoveInstance(ctx, &attemptv1.MoveInstanceRequest{InstanceId: a.InstanceID, AttemptId: a.ID, Reason: reason})
	if err != nil {
		return false, "", rpc.FromStatus(err)
	}
	return resp.GetMoved(), resp.GetMessage(), nil
}
