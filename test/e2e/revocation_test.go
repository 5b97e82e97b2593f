package e2e

import (
	"errors"
	"fmt"
	"testing"

	"github.com/berth-dev/berth/sdk/go/gameserver"
)

// A server whose tokens are revoked is cut off at whichever gateway it is, comes in no more, and stays out when all of Berth is restarted.
func TestARevokedServerStaysOut(t *testing.T) {
	s := processes(t)
	bad, good := s.register(t, 1, 1), s.register(t, 1, 1)
	cut, stays := open(t, bad), open(t, good)
	s.ok(t, 0, "POST", "/v1/namespaces/default/revocations", fmt.Sprintf(`{"serverId":%q,"reason":"stolen"}`, bad.Server), nil)
	select {
	case <-cut.Done():
	case <-within(t).Done():
		t.Fatal("the revoked server is still connected")
	}
	out := func(when string) {
		t.Helper()
		_, err := gameserver.Open(within(t), gameserver.WithBootstrap(bad))
		var refused *gameserver.Error
		if !errors.As(err, &refused) || refused.Reason != "CREDENTIALS_REVOKED" {
			t.Errorf("%s the server is answered %v", when, err)
		}
	}
	out("at once")
	if _, err := stays.Create(within(t), nil); err != nil {
		t.Errorf("another server: %v", err)
	}
	for _, p := range s.procs {
		p.kill(t)
	}
	for _, p := range s.procs {
		p.start(t)
	}
	for _, p := range s.procs {
		p.ready(t)
	}
	out("after a restart")
}
