package main

import (
	"fmt"
	"slices"
	"time"
)

// work is one of several things that are compared.
type work struct {
	name  string
	of    map[string]*child   // whose CPU time it takes, by what they are
	do    func() (int, error) // does some of it, and returns how often
	spent []costs             // a value a round
}

// costs are the CPU time of one operation in microseconds, by process.
type costs map[string]float64

// compare does all works in turns. What is compared is of the same minute then, whatever else the machine does. The first round warms up, and does not count.
func compare(rounds int, works ...*work) error {
	for round := range rounds + 1 {
		for _, w := range works {
			c, err := w.measure()
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			if round > 0 {
				w.spent = append(w.spent, c)
			}
		}
		progress("round %d of %d", round, rounds)
	}
	return nil
}

func (w *work) measure() (costs, error) {
	before, err := w.cpu()
	if err != nil {
		return nil, err
	}
	n, err := w.do()
	if err != nil {
		return nil, err
	}
	after, err := w.cpu()
	if err != nil {
		return nil, err
	}
	c := make(costs)
	for name := range w.of {
		c[name] = float64(after[name]-before[name]) / float64(n) / 1000
	}
	return c, nil
}

func (w *work) cpu() (map[string]time.Duration, error) {
	all := make(map[string]time.Duration)
	for name, c := range w.of {
		used, err := c.cpu()
		if err != nil {
			return nil, err
		}
		all[name] = used
	}
	return all, nil
}

// sum is the cost of all processes, or of those that are named.
func (c costs) sum(names ...string) float64 {
	total := 0.0
	for name, v := range c {
		if len(names) == 0 || slices.Contains(names, name) {
			total += v
		}
	}
	return total
}

// cost is the median of the rounds, of all processes or of those that are named.
func (w *work) cost(names ...string) float64 {
	return median(len(w.spent), func(n int) float64 { return w.spent[n].sum(names...) })
}

// median is that of n values.
func median(n int, value func(int) float64) float64 {
	all := make([]float64, n)
	for i := range all {
		all[i] = value(i)
	}
	slices.Sort(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

// to is how many times the CPU time of the other one takes: the median of the rounds' ratios.
func (w *work) to(other *work) float64 {
	return median(len(w.spent), func(n int) float64 { return w.spent[n].sum() / other.spent[n].sum() })
}
