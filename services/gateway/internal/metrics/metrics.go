// Package metrics holds all metrics of the gateway.
package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/pkg/app"
)

// Metrics are the gateway's metrics. They are safe for concurrent use.
type Metrics struct {
	// Sockets is how many sockets are open.
	Sockets prometheus.Gauge
	// Closed counts sockets that ended, by close code.
	Closed *prometheus.CounterVec
	// Refused counts upgrades that were refused, by reason.
	Refused *prometheus.CounterVec
	// MemoryShort is 1 while memory is short and upgrades are refused for it.
	MemoryShort prometheus.Gauge
	// Requests counts requests over sockets, by the reason of their failure ("" for success).
	Requests *prometheus.CounterVec
	// RateLimited counts requests, upgrades and frames that came too fast, by the limit: address, credential, refused, upgrades or frames.
	RateLimited *prometheus.CounterVec
	// InUse counts connections that were refused because another one uses their pair, by the resume key that they showed: none, or a wrong one.
	InUse *prometheus.CounterVec
	// Notifications counts notifications that were queued to sockets.
	Notifications prometheus.Counter
	// MessagesIn and MessagesOut count messages that may be lost: those of servers that were published, and those of backends that were queued to sockets.
	MessagesIn, MessagesOut prometheus.Counter
	// MessagesLost counts those that were dropped, by the reason.
	MessagesLost *prometheus.CounterVec
	// Pulls counts reads of mailboxes: after a link, a gap, or a reminder.
	Pulls prometheus.Counter
	// Breaks counts relay streams that broke.
	Breaks prometheus.Counter
	// Lapses counts lives of the gateway that ended because the lease ran out.
	Lapses prometheus.Counter
	// Resubscribed counts subscriptions that were lost and made again.
	Resubscribed prometheus.Counter
}

// New returns the metrics, registered with reg. Several gateways in one program share them.
func New(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return app.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help}))
	}
	vector := func(name, help, label string) *prometheus.CounterVec {
		return app.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label}))
	}
	return &Metrics{
		Sockets:       app.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "berth_gateway_sockets", Help: "Open link sockets."})),
		Closed:        vector("berth_gateway_sockets_closed_total", "Link sockets that ended, by the close code that was sent; LOST where none was.", "code"),
		Refused:       vector("berth_gateway_upgrades_refused_total", "Link upgrades that were refused, by reason.", "reason"),
		MemoryShort:   app.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "berth_gateway_memory_short", Help: "1 while memory is short and link upgrades are refused for it."})),
		Requests:      vector("berth_gateway_requests_total", "Requests over link sockets, by the reason of their failure; empty for success.", "reason"),
		RateLimited:   vector("berth_gateway_rate_limited_total", "Requests, upgrades and frames that came too fast, by the limit.", "what"),
		InUse:         vector("berth_gateway_credentials_in_use_total", "Connections refused because another one uses their pair, by the resume key that they showed: none, wrong.", "resume_key"),
		Notifications: counter("berth_gateway_notifications_total", "Notifications queued to link sockets."),
		MessagesIn:    counter("berth_gateway_messages_published_total", "Ephemeral messages of game servers that were published."),
		MessagesOut:   counter("berth_gateway_messages_delivered_total", "Ephemeral messages of backends that were queued to link sockets."),
		MessagesLost:  vector("berth_gateway_messages_lost_total", "Ephemeral messages that were dropped, both ways, by reason.", "reason"),
		Pulls:         counter("berth_gateway_pulls_total", "Reads of mailboxes: after a link, a gap in what was published, or a reminder."),
		Breaks:        counter("berth_gateway_relay_breaks_total", "Relay streams to game-instance that broke."),
		Lapses:        counter("berth_gateway_lease_lapses_total", "Leases that ran out, whereupon all sockets were closed."),
		Resubscribed:  counter("berth_gateway_resubscribed_total", "Subscriptions in the store that were lost and made again."),
	}
}
