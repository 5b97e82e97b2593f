package timer

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/pkg/app"
)

// Metrics are the sweeper's metrics. They are safe for concurrent use.
type Metrics struct {
	// MassLoss is 1 while a mass loss stands, as this replica counts.
	MassLoss prometheus.Gauge
	// PartitionsHeld is in how many partitions nothing expires after a gap.
	PartitionsHeld prometheus.Gauge
	// Held counts deadlines that were put off, by "gap" or "mass_loss".
	Held *prometheus.CounterVec
}

// NewMetrics returns the metrics, registered with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	return &Metrics{
		MassLoss: app.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_mass_loss", Help: "1 while unusually many links are lost at once, so that their servers are not given up.",
		})),
		PartitionsHeld: app.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_partitions_held", Help: "Partitions in which nothing expires, because no sweep ran for a while.",
		})),
		Held: app.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_deadlines_held_total", Help: "Deadlines that were put off, by the cause: gap or mass_loss.",
		}, []string{"why"})),
	}
}
