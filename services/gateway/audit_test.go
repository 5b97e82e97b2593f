package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/errs"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// Who is refused at the link is in the audit, with the address that only the gateway knows.
func TestRefusalsAtTheLinkAreInTheAudit(t *testing.T) {
	w := start(t, nil)
	good, forged := w.backend.issuer.pair(t), w.backend.issuer.pair(t)
	forged.game = forged.game[:len(forged.game)-8] + "AAAAAAAA"
	if _, _, err := w.dial(forged, nil); err == nil {
		t.Error("a forged token is taken")
	}
	if _, _, err := w.dial(good, func(h http.Header) { h.Set("Origin", "https://example.com") }); err == nil {
		t.Error("a browser is taken")
	}
	w.backend.sessions.set(func(s *sessions) { s.opens = refuseOpen(errs.New(errs.CredentialsInUse, "because")) })
	s, _, err := w.dial(good, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{}}})
	s.lost()

	eventually(t, "the refusals are in the audit", func() error {
		page, _, err := audit.NewStream(w.store).Page(context.Background(), "", 100, func(audit.Entry) bool { return true })
		if err != nil {
			return err
		}
		all := fmt.Sprintf("%+v", page)
		for _, secret := range []string{forged.game, forged.social, good.game, good.social} {
			if strings.Contains(all, secret[:40]) {
				t.Fatalf("the audit has a token: %s", all)
			}
		}
		for _, want := range []struct{ action, actor, outcome string }{
			{audit.Link, audit.Unknown, "CREDENTIALS_INVALID"}, {audit.Link, audit.Unknown, "ROLE_REQUIRED"}, {audit.CredentialsInUse, "server:" + good.server, "CREDENTIALS_IN_USE"},
		} {
			found := false
			for _, e := range page {
				found = found || e.Service == "gateway" && e.Action == want.action && e.Actor == want.actor && e.Outcome == want.outcome && strings.HasPrefix(e.Address, "127.0.0.1:")
			}
			if !found {
				return fmt.Errorf("%v is missing in %s", want, all)
			}
		}
		return nil
	})
}
