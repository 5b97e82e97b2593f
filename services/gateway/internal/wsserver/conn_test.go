package wsserver

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/services/gateway/internal/hub"
	"github.com/berth-dev/berth/services/gateway/internal/metrics"
	"github.com/berth-dev/berth/services/gateway/internal/session"
)

// When the reads fail that were to fill the queue again, nothing is written whose end would make the other mailboxes be read: a reminder does.
func TestAReminderGoesOnWithMailboxesThatWaitForRoom(t *testing.T) {
	s := New(Config{Hub: hub.New(1), Metrics: metrics.New(prometheus.NewRegistry())})
	c := newConn(s, nil)
	c.state.Hello(0)
	c.state.Open([]session.Link{{Instance: "i", Epoch: 1}})
	at, _ := c.state.StartPull("i")
	c.state.PausePull(at)

	c.out.count = s.cfg.Limits.MaxQueue
	if c.Remind("i"); len(s.pulls.jobs) != 0 {
		t.Error("it is read although there is no room")
	}
	c.out.count = 0
	if c.Remind("i"); len(s.pulls.jobs) != 1 {
		t.Error("it is not read")
	}
}
