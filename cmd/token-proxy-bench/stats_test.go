package main

import (
	"slices"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for _, test := range []struct {
		sorted []time.Duration
		share  float64
		want   time.Duration
	}{
		{hundred, 0.5, 50}, {hundred, 0.9, 90}, {hundred, 0.99, 99}, {hundred, 0.999, 100}, {hundred, 1, 100},
		{hundred, 0, 1}, {hundred[:1], 0.5, 1}, {hundred[:3], 0.5, 2},
	} {
		if got := percentile(test.sorted, test.share); got != test.want {
			t.Errorf("%d samples, share %v: got %d, want %d", len(test.sorted), test.share, got, test.want)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{7}, spread{7, 7, 7, 1}},
		{[]float64{3, 1, 2}, spread{2, 1, 3, 3}},
		{[]float64{4, 1, 2, 9}, spread{3, 1, 9, 4}},
	} {
		if got := spreadOf(test.values); got != test.want {
			t.Errorf("%v: got %+v, want %+v", test.values, got, test.want)
		}
	}
}

// TestRatiosAreWithinRounds checks that a round that slows both contenders down does not change their ratio.
func TestRatiosAreWithinRounds(t *testing.T) {
	of := func(sidecar, static float64) round {
		return round{Figures: map[string]figures{sidecarName: {keyCPU: sidecar}, staticName: {keyCPU: static}}}
	}
	rounds := []round{of(2, 1), of(200, 100), {Figures: map[string]figures{sidecarName: {keyCPU: 5}}}, of(3, 0)}
	if got := ratiosOf(rounds, sidecarName, staticName, keyCPU); !slices.Equal(got, []float64{2, 2}) {
		t.Errorf("got %v", got)
	}
}

func TestSplit(t *testing.T) {
	const ms = time.Millisecond
	epoch := time.Unix(1000, 0)
	at := func(d time.Duration) sample { return sample{intended: epoch.Add(d), latency: d + 1} }
	call := func(began, ended time.Duration) tokenCall {
		return tokenCall{epoch.Add(began).UnixNano(), epoch.Add(ended).UnixNano()}
	}
	samples := []sample{at(0), at(149 * ms), at(150 * ms), at(210 * ms), at(270 * ms), at(271 * ms),
		{intended: epoch.Add(400 * ms)}, at(500 * ms), at(999 * ms)}
	inside, outside := split(samples, []tokenCall{call(200*ms, 220*ms), call(400*ms, 460*ms)})
	if want := []time.Duration{150*ms + 1, 210*ms + 1, 270*ms + 1, 500*ms + 1}; !slices.Equal(inside, want) {
		t.Errorf("inside are %v, want %v", inside, want)
	}
	if want := []time.Duration{1, 149*ms + 1, 271*ms + 1, 999*ms + 1}; !slices.Equal(outside, want) {
		t.Errorf("outside are %v, want %v", outside, want)
	}
}

func TestFigure(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 3: "3", 0.254: "0.25", 1.306: "1.31", 23.46: "23.5", 18234.4: "18234"} {
		if got := figure(v); got != want {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
}
