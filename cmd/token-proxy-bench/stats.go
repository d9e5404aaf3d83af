package main

import (
	"math"
	"slices"
	"time"
)

// spread is a figure over the rounds.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Rounds int     `json:"rounds"` // that have the figure
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return spread{
		Median: (sorted[(n-1)/2] + sorted[n/2]) / 2,
		Min:    sorted[0],
		Max:    sorted[n-1],
		Rounds: n,
	}
}

// percentile is the smallest sample that at least the share p of all does not exceed.
func percentile(sorted []time.Duration, p float64) time.Duration {
	i := int(math.Ceil(p*float64(len(sorted)))) - 1
	return sorted[max(i, 0)]
}

// valuesOf are a contender's values of one figure, of the rounds that have it.
func valuesOf(rounds []round, name, key string) []float64 {
	var values []float64
	for _, r := range rounds {
		if v, ok := r.Figures[name][key]; ok {
			values = append(values, v)
		}
	}
	return values
}

// ratiosOf are the ratios of a figure of two contenders, each within one round.
func ratiosOf(rounds []round, name, base, key string) []float64 {
	var ratios []float64
	for _, r := range rounds {
		v, ok := r.Figures[name][key]
		b, okBase := r.Figures[base][key]
		if ok && okBase && b != 0 {
			ratios = append(ratios, v/b)
		}
	}
	return ratios
}
