package gateway_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// hint says that there is a new list, as token-issuer does.
func (w *world) hint() {
	w.tb.Helper()
	if err := w.store.Publish(context.Background(), redisx.RevocationsChannel, "").Err(); err != nil {
		w.tb.Fatal(err)
	}
}

// A server whose tokens are revoked is cut off, whatever it does, and comes in no more; nobody else notices.
func TestARevokedServerIsCutOff(t *testing.T) {
	w := start(t, nil)
	iss := w.backend.issuer
	bad, good, silent := iss.pair(t), iss.pair(t), iss.pair(t)
	cut, stays := w.open(bad, &linkv1.Hello{}), w.open(good, &linkv1.Hello{})
	before, _, err := w.dial(silent, nil) // has not said Hello yet
	if err != nil {
		t.Fatal(err)
	}
	iss.revoke(1, bad.server, silent.server)
	w.hint()
	for _, s := range []*socket{cut, before} {
		if code := s.closed(); code != linkv1.CloseCode_CLOSE_CODE_REVOKED {
			t.Errorf("closed with %s", code)
		}
	}
	if _, resp, err := w.dial(bad, nil); err == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("let in again: %v, %v", resp, err)
	}
	if got := reasonOf(stays.call("Echo", "", nil)); got != "" {
		t.Errorf("another server: %s", got)
	}
	// What is known stays so while token-issuer is away, or has lost it.
	iss.revoke(0)
	w.hint()
	iss.mu.Lock()
	iss.noList = true
	iss.mu.Unlock()
	w.hint()
	if _, resp, err := w.dial(bad, nil); err == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("let in after a loss: %v, %v", resp, err)
	}
}

// A gateway that cannot know who was revoked admits nobody.
func TestWithoutTheListNobodyIsAdmitted(t *testing.T) {
	w := newWorldWithout(t, redistest.Embedded(t), newSessions(), func(i *issuer) { i.noList = true })
	eventually(t, "only the list is missing", func() error { return onlyMissing(w, "revocations") })
	if _, resp, err := w.dial(w.backend.issuer.pair(t), nil); err == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("let in: %v, %v", resp, err)
	}
	iss := w.backend.issuer
	iss.mu.Lock()
	iss.noList = false
	iss.mu.Unlock()
	eventually(t, "the gateway gets ready", func() error { return w.app.Ready(context.Background()) })
	if got := reasonOf(w.open(iss.pair(t), &linkv1.Hello{}).call("Echo", "", nil)); got != errs.Reason("") {
		t.Errorf("refused: %s", got)
	}
}
