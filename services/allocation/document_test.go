package allocation_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/pkg/rpc"
	"github.com/berth-dev/berth/pkg/tlsx/tlsxtest"
	"github.com/berth-dev/berth/sdk/go/bootstrap"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	"github.com/berth-dev/berth/services/allocation"
	"github.com/berth-dev/berth/services/allocation/providers"
	"github.com/berth-dev/berth/services/allocation/providers/attach"
)

// attaching is the configuration of a service whose one provider writes documents into a file.
func attaching(t *testing.T, redis string, p *peer, file string) allocation.Config {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := allocation.Default()
	cfg.GRPCListener, cfg.Redis.Addrs = ln, []string{redis}
	cfg.Auth = auth.Config{InternalKey: internalKey}
	cfg.GameInstance, cfg.TokenIssuer, cfg.GatewayURL = p.conn.Target(), p.conn.Target(), "https://edge.example.com"
	cfg.Providers = []providers.Config{{Name: "desk", Kind: "attach", Attach: attach.Config{File: file, Builds: []string{"demo"}}}}
	return cfg
}

// What is configured about credentials and authorities is what servers are started with.
func TestTheDocumentIsAsConfigured(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		file, ca := filepath.Join(t.TempDir(), "bootstrap.json"), tlsxtest.NewFiles(t, tlsxtest.NewAuthority(t)).CAFile
		cfg := attaching(t, s.Addrs()[0], newPeer(t), file)
		cfg.GatewayCAFile, cfg.Providers[0].Credentials = ca, providers.CredentialsClaim
		t.Cleanup(run(t, allocation.Module(cfg)))
		conn, err := rpc.Dial(cfg.GRPCListener.Addr().String(), internalKey)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := allocationv1.NewAllocationServiceClient(conn).CreateAllocation(t.Context(), create(1, "demo")); err != nil {
			t.Fatal(err)
		}
		var doc *bootstrap.Document
		eventually(t, func() (bool, any) {
			raw, err := os.ReadFile(file)
			if err == nil {
				doc, err = bootstrap.Parse(raw)
			}
			return err == nil, err
		})
		want, err := os.ReadFile(ca)
		if err != nil || doc.CA != string(want) || doc.Claim.Reveal() != claimCode || doc.Game != "" || doc.Gateway != "https://edge.example.com" {
			t.Errorf("the document is %+v, %v", doc, err)
		}
	})
}

func TestAnAuthorityThatCannotBeUsedIsSaidAtTheStart(t *testing.T) {
	for name, content := range map[string]string{"none": "", "no certificate": "x", "too much": strings.Repeat("x", 33<<10)} {
		cfg := attaching(t, "127.0.0.1:1", newPeer(t), filepath.Join(t.TempDir(), "bootstrap.json"))
		cfg.GatewayCAFile = filepath.Join(t.TempDir(), "ca.pem")
		if content != "" {
			if err := os.WriteFile(cfg.GatewayCAFile, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := app.New(context.Background(), app.Config{Log: slog.New(slog.DiscardHandler)}, allocation.Module(cfg))
		if err == nil || !strings.Contains(err.Error(), "BERTH_GATEWAY_CA_FILE") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
