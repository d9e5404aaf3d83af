package main

// round is the result of one round.
type round struct {
	Order   []string           `json:"order"`   // of the contenders
	Figures map[string]figures `json:"figures"` // by the name of the contender
}

// valuesOf returns the values of one figure of a contender, from the rounds that have it.
func valuesOf(rounds []round, name, key string) []float64 {
	var values []float64
	for _, r := range rounds {
		if v, ok := r.Figures[name][key]; ok {
			values = append(values, v)
		}
	}
	return values
}

// ratiosOf returns the ratios of one figure of two contenders, each ratio within one round.
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
