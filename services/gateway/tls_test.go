package gateway_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"testing"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	grpccreds "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/tlsx/tlsxtest"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway"
)

// Both listeners speak TLS, and the link, REST and gRPC work over it.
func TestTheEdgeAndTheAPISpeakTLS(t *testing.T) {
	authority := tlsxtest.NewAuthority(t)
	files := tlsxtest.NewFiles(t, authority)
	w := start(t, func(c *gateway.Config) { c.EdgeTLS, c.APITLS = files.KeyPair, files.KeyPair })
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.PEM)
	w.http.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	t.Cleanup(w.http.CloseIdleConnections)

	c := w.backend.issuer.pair(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "wss://"+w.edge+"/v1/link", &websocket.DialOptions{
		HTTPClient: w.http, Subprotocols: []string{"berth.v1.proto"}, HTTPHeader: http.Header{"Authorization": {"Bearer " + c.game}, "Berth-Social-Token": {c.social}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	s := &socket{tb: t, ws: ws}
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{}}})
	if s.receive().GetWelcome() == nil {
		t.Error("no Welcome over wss")
	}
	if resp, body := w.ask("GET", "https://"+w.api+instancePath, "", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("REST: %d %s", resp.StatusCode, body)
	}
	conn, err := grpc.NewClient(w.edge, grpc.WithTransportCredentials(grpccreds.NewTLS(&tls.Config{RootCAs: roots})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.game, "berth-social-token", c.social)
	if _, err := gameserverv1.NewGameServerServiceClient(conn).UpdateGameData(ctx, gameData()); err != nil {
		t.Errorf("gRPC: %v", err)
	}
	for _, addr := range []string{w.edge, w.api} {
		resp, err := w.http.Get("http://" + addr + "/openapi.json")
		if err == nil && resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s answers without TLS: %v", addr, resp.Status)
		}
		if err == nil {
			_ = resp.Body.Close()
		}
	}
}
