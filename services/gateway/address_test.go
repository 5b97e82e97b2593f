package gateway_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway"
	"github.com/berth-dev/berth/services/gateway/internal/door"
)

// Behind a proxy that is trusted, the services and the audit are told of the client, and a caller's own word never counts.
func TestTheClientsAddressIsThatOfTheSocketUnlessAProxyIsTrusted(t *testing.T) {
	const header = "198.51.100.66, 203.0.113.7" // the proxy has seen the second
	for name, c := range map[string]struct {
		trusted []string
		called  string // what services are told
		linked  string // what the gateway's audit has, without the port
	}{
		"trusted": {[]string{"127.0.0.0/8"}, "203.0.113.7", "203.0.113.7"},
		"not":     {[]string{"10.0.0.0/8"}, "127.0.0.1", "127.0.0.1"},
		"none":    {nil, "127.0.0.1", "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, func(cfg *gateway.Config) { cfg.TrustedProxies = c.trusted })
			forwarded := func(h http.Header) { h.Set("X-Forwarded-For", header) }
			told := func(what string, calls <-chan map[string][]string) {
				t.Helper()
				if got := next(t, what, calls)[rpc.MetadataForwardedFor]; len(got) != 1 || got[0] != c.called {
					t.Errorf("%s: the service is told of %v", what, got)
				}
			}
			w.ask("GET", "http://"+w.api+instancePath, "", forwarded)
			told("REST", w.backend.instances.metadata)

			creds := w.backend.issuer.pair(t)
			w.ask("POST", "http://"+w.edge+"/v1/game-server/instances/"+knownInstance+":updateGameData", `{"gameData":{"json":{}}}`, func(h http.Header) {
				forwarded(h)
				h.Set("Authorization", "Bearer "+creds.game)
				h.Set("Berth-Social-Token", creds.social)
			})
			told("REST at the edge", w.backend.servers.metadata)

			md := metadata.Pairs("authorization", "Bearer "+creds.game, "berth-social-token", creds.social, "x-forwarded-for", header)
			if _, err := gameserverv1.NewGameServerServiceClient(dialGRPC(t, w.edge)).UpdateGameData(metadata.NewOutgoingContext(t.Context(), md), gameData()); err != nil {
				t.Fatal(err)
			}
			told("gRPC", w.backend.servers.metadata)

			if _, _, err := w.dial(credentials{game: "x", social: "y"}, forwarded); err == nil {
				t.Error("a forged pair is taken")
			}
			s, _, err := w.dial(creds, forwarded)
			if err != nil {
				t.Fatal(err)
			}
			w.backend.sessions.set(func(b *sessions) { b.opens = refuseOpen(errs.New(errs.CredentialsInUse, "because")) })
			s.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{}}})
			s.lost()
			eventually(t, "the audit has the address", func() error {
				page, _, err := audit.NewStream(w.store).Page(context.Background(), "", 100, func(e audit.Entry) bool { return e.Service == "gateway" })
				if err != nil {
					return err
				}
				found := map[string]bool{}
				for _, e := range page {
					if host, _, err := net.SplitHostPort(e.Address); err != nil || host != c.linked {
						return fmt.Errorf("%+v", e)
					}
					found[e.Action] = true
				}
				if !found[audit.Link] || !found[audit.CredentialsInUse] {
					return fmt.Errorf("only %+v", page)
				}
				return nil
			})
		})
	}
}

// Those behind one proxy are counted one by one, and who is behind none cannot choose as whom.
func TestLimitsAreForTheClientsAddress(t *testing.T) {
	for name, c := range map[string]struct {
		trusted []string
		want    int
	}{"a trusted proxy": {[]string{"127.0.0.0/8"}, 10}, "anybody": {nil, 1}} {
		t.Run(name, func(t *testing.T) {
			w := start(t, func(cfg *gateway.Config) {
				cfg.TrustedProxies, cfg.Now, cfg.Limits.Rates = c.trusted, newStopwatch().now, door.Rates{Address: rate(1, 1), Upgrades: rate(1, 1)}
			})
			taken, upgraded := 0, 0
			for i := range 10 {
				forwarded := func(h http.Header) { h.Set("X-Forwarded-For", fmt.Sprintf("203.0.113.%d", i)) }
				if resp, _ := w.ask("GET", "http://"+w.api+"/openapi.json", "", forwarded); resp.StatusCode == 200 {
					taken++
				}
				if _, resp, _ := w.dial(w.backend.issuer.pair(t), forwarded); resp.StatusCode == http.StatusSwitchingProtocols {
					upgraded++
				}
			}
			if taken != c.want || upgraded != c.want {
				t.Errorf("%d requests and %d upgrades of 10 are taken, want %d", taken, upgraded, c.want)
			}
		})
	}
}
