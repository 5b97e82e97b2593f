package rpc_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	"github.com/berth-dev/berth/pkg/tlsx"
	"github.com/berth-dev/berth/pkg/tlsx/tlsxtest"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
)

const (
	viewerKey  = apikey.Prefix + "viewerKeyThatIsNowhere"
	limitedKey = apikey.Prefix + "limitedKeyThatIsNowhere"
)

// kept is a stream in memory.
type kept struct {
	mu      sync.Mutex
	entries []audit.Entry
}

func (k *kept) Append(_ context.Context, _ int, entries []audit.Entry) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.entries = append(k.entries, entries...)
	return nil
}

// audited is a server with an audit. stop ends the recorder and returns what it has recorded, and the lines that it wrote.
func audited(t *testing.T) (s *secure, authority *tlsxtest.Authority, stop func() ([]audit.Entry, string)) {
	t.Helper()
	authority = tlsxtest.NewAuthority(t)
	stream, lines := &kept{}, &bytes.Buffer{}
	recorder := audit.New(audit.Config{Service: "test", Stream: stream, Length: 1000, Out: lines, Log: slog.New(slog.DiscardHandler), Window: time.Hour})
	a, err := auth.New(auth.Config{InternalKey: internalKey, APIKeySHA256: apikey.Hash(apiKey), APIKeys: []auth.APIKey{
		{Name: "eyes", SHA256: apikey.Hash(viewerKey), Role: auth.RoleViewer},
		{Name: "lobby", SHA256: apikey.Hash(limitedKey), Role: auth.RoleService, Namespaces: []string{"eu"}},
	}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = recorder.Run(ctx) }()
	s = serveTLS(t, tlsxtest.NewFiles(t, authority), func(c *rpc.Config) { c.Audit, c.Auth = recorder, a })
	stop = sync.OnceValues(func() ([]audit.Entry, string) { cancel(); <-done; return stream.entries, lines.String() })
	t.Cleanup(func() { stop() })
	return s, authority, stop
}

func TestRefusalsAndActsAreRecorded(t *testing.T) {
	s, authority, stop := audited(t)
	plain := source(t, tlsxtest.NewFiles(t, authority))
	named := source(t, tlsxtest.NewFiles(t, authority, "spiffe://berth/billing"))
	stranger := tlsxtest.NewFiles(t, tlsxtest.NewAuthority(t), tlsx.Name("gateway"))
	stranger.Write(t, nil, nil, authority.PEM)
	as := func(key string) context.Context {
		return metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+key, rpc.MetadataForwardedFor, "evil, 203.0.113.7")
	}
	reason := func(err error) errs.Reason { return errs.ReasonOf(rpc.FromStatus(err)) }
	get := func(ctx context.Context, conn *grpc.ClientConn, namespace string) error {
		_, err := instancev1.NewGameInstanceServiceClient(conn).GetGameInstance(ctx, &instancev1.GetGameInstanceRequest{Namespace: namespace, InstanceId: id})
		return err
	}
	terminate := func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := instancev1.NewGameInstanceServiceClient(conn).TerminateGameInstance(ctx, &instancev1.TerminateGameInstanceRequest{Namespace: "eu", InstanceId: id})
		return err
	}
	create := func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := instancev1.NewGameInstanceServiceClient(conn).CreateGameInstance(ctx, &instancev1.CreateGameInstanceRequest{RequestId: "r1", Placement: &instancev1.Placement{Build: "b"}})
		return err
	}
	watch := func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := instancev1.NewGameInstanceServiceClient(conn).WatchGameInstance(ctx, &instancev1.WatchGameInstanceRequest{InstanceId: id})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	var wanted []audit.Entry
	var details []string
	const service = "/berth.instance.v1.GameInstanceService/"
	forged := "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
	for _, c := range []struct {
		call   func() errs.Reason
		reason errs.Reason
		want   audit.Entry // Actor "": nothing is recorded
		detail string
	}{
		{func() errs.Reason { return reason(get(as(apiKey), dialTLS(t, s.addr, "", plain), "eu")) }, "", audit.Entry{}, ""},
		{func() errs.Reason { return reason(terminate(as(apiKey), dialTLS(t, s.addr, "", plain))) }, errs.MethodUnknown,
			audit.Entry{Action: service + "TerminateGameInstance", Actor: "key:root", Role: "ADMIN", Namespace: "eu", Resource: "instance:" + id, Outcome: "METHOD_UNKNOWN", ForwardedFor: "203.0.113.7"}, ""},
		{func() errs.Reason { return reason(create(as(apiKey), dialTLS(t, s.addr, "", plain))) }, "",
			audit.Entry{Action: service + "CreateGameInstance", Actor: "key:root", Role: "ADMIN", Namespace: "default", Resource: "instance:made", RequestID: "r1", Outcome: audit.OK, ForwardedFor: "203.0.113.7"}, ""},
		{func() errs.Reason { return reason(terminate(as(viewerKey), dialTLS(t, s.addr, "", plain))) }, errs.RoleRequired,
			audit.Entry{Action: service + "TerminateGameInstance", Actor: "key:eyes", Role: "VIEWER", Namespace: "eu", Resource: "instance:" + id, Outcome: "ROLE_REQUIRED", ForwardedFor: "203.0.113.7"}, ""},
		{func() errs.Reason { return reason(get(as(limitedKey), dialTLS(t, s.addr, "", plain), "us")) }, errs.NamespaceDenied,
			audit.Entry{Action: service + "GetGameInstance", Actor: "key:lobby", Role: "SERVICE", Namespace: "us", Resource: "instance:" + id, Outcome: "NAMESPACE_DENIED", ForwardedFor: "203.0.113.7"}, ""},
		{func() errs.Reason {
			return reason(get(as(apikey.Prefix+"wrongKeyThatIsNowhere"), dialTLS(t, s.addr, "", plain), ""))
		}, errs.CredentialsInvalid,
			audit.Entry{Action: service + "GetGameInstance", Actor: audit.Unknown, Namespace: "default", Resource: "instance:" + id, Outcome: "CREDENTIALS_INVALID", ForwardedFor: "203.0.113.7"}, "not known"},
		{func() errs.Reason { return reason(watch(as(forged), dialTLS(t, s.addr, "", plain))) }, errs.CredentialsInvalid,
			audit.Entry{Action: service + "WatchGameInstance", Actor: audit.Unknown, Outcome: "CREDENTIALS_INVALID", ForwardedFor: "203.0.113.7"}, "API keys"},
		{func() errs.Reason { return reason(get(context.Background(), dialTLS(t, s.addr, "", plain), forged)) }, errs.CredentialsMissing,
			audit.Entry{Action: service + "GetGameInstance", Actor: "public", Role: "PUBLIC", Namespace: "(secret)", Resource: "instance:" + id, Outcome: "CREDENTIALS_MISSING"}, ""},
		{func() errs.Reason { return internal(context.Background(), dialTLS(t, s.addr, internalKey, named)) }, errs.CredentialsMissing,
			audit.Entry{Action: "/berth.token.v1.TokenService/IssueTokenPair", Actor: "public", Role: "PUBLIC", Namespace: "default", Resource: "attempt:" + id + "-1", Outcome: "CREDENTIALS_MISSING"}, "spiffe://berth/billing"},
		{func() errs.Reason {
			return internal(context.Background(), dialTLS(t, s.addr, internalKey, source(t, stranger)))
		}, errs.ServiceUnavailable,
			audit.Entry{Action: audit.Handshake, Actor: audit.Unknown, Outcome: "CREDENTIALS_INVALID"}, "unknown authority"},
		{func() errs.Reason {
			conn := dialTLS(t, s.addr, "", plain)
			return reason(conn.Invoke(as(apiKey+"x"), "/invented/Method", &instancev1.GetGameInstanceRequest{}, &instancev1.GetGameInstanceResponse{}))
		}, errs.CredentialsInvalid, audit.Entry{Action: "unknown", Actor: audit.Unknown, Outcome: "CREDENTIALS_INVALID", ForwardedFor: "203.0.113.7"}, ""},
	} {
		if got := c.call(); got != c.reason {
			t.Errorf("%+v: the call was answered %q", c.want, got)
		}
		if c.want.Actor != "" {
			wanted, details = append(wanted, c.want), append(details, c.detail)
		}
	}
	got, lines := stop()
	for n, want := range wanted {
		found := false
		for _, e := range got {
			bare := e
			bare.ID, bare.Time, bare.LastTime, bare.Count, bare.Service, bare.Address, bare.Detail = "", time.Time{}, time.Time{}, 0, "", "", ""
			if bare == want {
				found = found || strings.HasPrefix(e.Address, "127.0.0.1:") && strings.Contains(e.Detail, details[n]) && e.ID != "" && !e.Time.IsZero()
			}
		}
		if !found {
			t.Errorf("not recorded: %+v", want)
		}
	}
	if t.Failed() {
		t.Logf("recorded: %+v", got)
	}
	for _, e := range got {
		if strings.HasSuffix(e.Action, "GetGameInstance") && e.Outcome == audit.OK {
			t.Errorf("a read is recorded: %+v", e)
		}
	}
	all := lines + fmt.Sprintf("%+v", got)
	if !strings.Contains(lines, `"audit":true`) {
		t.Errorf("no lines: %s", lines)
	}
	for _, secret := range []string{apiKey, viewerKey, limitedKey, "wrongKeyThatIsNowhere", internalKey, forged, "eyJhbGci", "c2lnbmF0dXJl"} {
		if strings.Contains(all, secret) {
			t.Errorf("the audit has %s", secret)
		}
	}
}
