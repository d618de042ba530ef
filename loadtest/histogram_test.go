package main

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestQuantilesAreCloseToThoseOfTheSortedList(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var all histogram
	var parts [3]histogram
	var sorted []time.Duration
	for i := range 20_000 {
		d := time.Duration(random.ExpFloat64() * float64(time.Millisecond))
		if i%100 == 0 {
			d *= 1000
		}
		sorted = append(sorted, d)
		parts[i%len(parts)].add(d)
	}
	slices.Sort(sorted)
	for i := range parts {
		all.merge(&parts[i])
	}
	if all.total() != 20_000 || all.most != sorted[len(sorted)-1] {
		t.Errorf("got %d durations up to %s, want 20000 up to %s", all.total(), all.most, sorted[len(sorted)-1])
	}
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		want := sorted[max(int(q*20_000)-1, 0)]
		if got := all.quantile(q); got < want || got > want+want/1000+2*time.Microsecond {
			t.Errorf("quantile %v: got %s, want %s or at most a thousandth more", q, got, want)
		}
	}
}

func TestHistogramAtItsEdges(t *testing.T) {
	var h, empty histogram
	h.merge(&empty)
	if got := h.quantile(0.99); got != 0 || h.total() != 0 {
		t.Errorf("an empty one: got %s and %d, want 0", got, h.total())
	}
	h.add(-time.Second) // a clock that went back
	if got := h.quantile(1); got != 0 {
		t.Errorf("a negative duration: got %s, want 0", got)
	}
	h.add(time.Hour)
	if got := h.quantile(1); got > time.Hour || got < longest {
		t.Errorf("an hour: got %s, want at least %s and not more than an hour", got, longest)
	}
	h = histogram{}
	h.add(42 * time.Microsecond)
	if got := h.quantile(0.5); got != 42*time.Microsecond {
		t.Errorf("one of 42µs: got %s", got)
	}
}
