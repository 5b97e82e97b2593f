package e2e

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/pkg/rpc"
	"github.com/berth-dev/berth/pkg/tlsx"
	"github.com/berth-dev/berth/pkg/tlsx/tlsxtest"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
)

// All services speak TLS to each other, with certificates of one authority, while a match is played.
func TestAWholeMatchWithTLSBetweenServices(t *testing.T) {
	authority := tlsxtest.NewAuthority(t)
	s := processesWith(t, redistest.Server(t), nil, func(binary string) []string {
		files := tlsxtest.NewFiles(t, authority, tlsx.Name(strings.TrimPrefix(binary, "berth-")))
		return []string{"BERTH_TLS_CERT_FILE=" + files.CertFile, "BERTH_TLS_KEY_FILE=" + files.KeyFile, "BERTH_TLS_CA_FILE=" + files.CAFile}
	})
	id := s.create(t, "hold", "ann").GetId()
	s.becomes(t, id, running)
	s.join(t, id, "ann").say(t, "END")
	s.becomes(t, id, ended)
	gone(t, id)

	// What the gateway passes on has not the gateway's power.
	if status, body := do(t, "GET", s.urls[0]+instances+"/"+id, ""); status != http.StatusUnauthorized || !strings.Contains(string(body), "CREDENTIALS_MISSING") {
		t.Errorf("a call without credentials: %d %s", status, body)
	}

	// Backends need no certificate; another service of the same authority, or the internal key, is no Berth service.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for name, c := range map[string]struct {
		name string
		ctx  context.Context
		want errs.Reason
	}{
		"a backend":           {"", metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.key), errs.RoleRequired},
		"another service":     {"spiffe://berth/billing", ctx, errs.CredentialsMissing},
		"a service it is not": {tlsx.Name("token-issuer"), ctx, errs.CredentialsMissing},
		"the internal key":    {"", metadata.AppendToOutgoingContext(ctx, auth.MetadataInternalKey, testInternalKey), errs.CredentialsInvalid},
	} {
		files := tlsxtest.NewFiles(t, authority)
		key := ""
		if c.name != "" {
			files, key = tlsxtest.NewFiles(t, authority, c.name), testInternalKey
		}
		source, err := files.Open(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := rpc.DialTLS(s.api, conf.Secret(key), source, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, err = attemptv1.NewAttemptServiceClient(conn).ReportAttempt(c.ctx, &attemptv1.ReportAttemptRequest{})
		if got := errs.ReasonOf(rpc.FromStatus(err)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if name == "a backend" {
			if _, err := instancev1.NewGameInstanceServiceClient(conn).GetGameInstance(c.ctx, &instancev1.GetGameInstanceRequest{InstanceId: id}); err != nil {
				t.Error(err)
			}
		}
	}
}
