package allocation

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/services/allocation/internal/allocator"
)

// metrics shows what the worker does now. Nothing is asked for it: lanes and breakers are this replica's, and who waits is what it has seen last. Its labels are
// names of providers, their regions and their builds.
type metrics struct {
	worker                                    *allocator.Worker
	inFlight, parked, breaker, waits, longest *prometheus.Desc
	passed                                    *prometheus.Desc
}

// watch registers the metrics of a worker.
func watch(reg prometheus.Registerer, w *allocator.Worker) error {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("berth_allocation_"+name, help, labels, nil)
	}
	m := &metrics{
		worker:   w,
		inFlight: desc("calls_in_flight", "Allocations that turn to a provider now, in this replica: at most its max_calls.", "provider"),
		parked:   desc("calls_parked", "Allocations that wait until fewer turn to the provider, in this replica.", "provider"),
		breaker:  desc("breaker_state", "1 for the state of the breaker of a provider that this replica has asked for servers in a region: closed, open, half-open.", "provider", "region", "state"),
		waits:    desc("waiting", "Allocations that wait for room for a build, in all replicas.", "build"),
		longest:  desc("waiting_longest_seconds", "For how long the one has waited for room for a build that has waited longest; 0: nobody waits.", "build"),
		passed:   desc("records_passed_over_total", "Records of allocations that this replica passed over because they cannot be read; one that is met again counts again."),
	}
	if err := reg.Register(m); err != nil {
		return fmt.Errorf("metrics of allocation: %w", err)
	}
	return nil
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.inFlight, m.parked, m.breaker, m.waits, m.longest, m.passed} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	ch <- prometheus.MustNewConstMetric(m.passed, prometheus.CounterValue, float64(m.worker.PassedOver().Count()))
	for _, l := range m.worker.Lanes() {
		gauge(m.inFlight, float64(l.InFlight), l.Provider)
		gauge(m.parked, float64(l.Parked), l.Provider)
	}
	for _, h := range m.worker.Health() {
		for _, state := range []string{allocator.BreakerClosed, allocator.BreakerOpen, allocator.BreakerHalfOpen} {
			on := 0.0
			if h.Breaker == state {
				on = 1
			}
			gauge(m.breaker, on, h.Provider, h.Region, state)
		}
	}
	for _, c := range m.worker.Crowds() {
		gauge(m.waits, float64(c.Waiting), c.Build)
		gauge(m.longest, c.Longest.Seconds(), c.Build)
	}
}
