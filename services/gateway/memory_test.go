package gateway_test

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/berth-dev/berth/pkg/errs"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway"
)

// While memory is short nobody new is let in; who is there stays.
func TestUpgradesAreRefusedWhileMemoryIsShort(t *testing.T) {
	var inUse atomic.Int64
	w := start(t, func(c *gateway.Config) { c.Limits.MemoryBytes, c.MemoryInUse = 1000, inUse.Load })
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	inUse.Store(1001)
	var resp *http.Response
	eventually(t, "upgrades are refused", func() (err error) {
		var other *socket
		if other, resp, err = w.dial(w.backend.issuer.pair(t), nil); err == nil {
			_ = other.ws.CloseNow()
			return errors.New("one was taken")
		}
		return nil
	})
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || refusal(t, resp).Reason != string(errs.ServiceUnavailable) {
		t.Errorf("%v", resp)
	}
	if r := s.call("Echo", "", nil); r.GetError() != nil {
		t.Errorf("%v", r)
	}
	inUse.Store(1000)
	eventually(t, "upgrades are taken again", func() error {
		_, _, err := w.dial(w.backend.issuer.pair(t), nil)
		return err
	})
}
