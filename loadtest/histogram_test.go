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
	if all.total != 20_000 || all.most != sorted[len(sorted)-1] {
		t.Errorf("got %d durations up to %s, want 20000 up to %s", all.total, all.most, sorted[len(sorted)-1])
	}
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		want := sorted[max(int(q*20_000)-1, 0)]
		if got := all.quantile(q); got < want || got > want+want/perDoubling+time.Microsecond {
			t.Errorf("quantile %v: got %s, want %s or at most 1/%d more", q, got, want, perDoubling)
		}
	}
}

func TestEveryDurationLiesInItsBucket(t *testing.T) {
	last := -1
	for d := time.Duration(0); d < 70*time.Second; d += max(d/300, time.Microsecond) {
		i := bucket(d)
		if i < last || i > last+1 {
			t.Fatalf("%s: got bucket %d after %d, want none left out and none lower", d, i, last)
		}
		last = i
		if end := longestIn(i); d < 67*time.Second && (d > end || end-d > d/perDoubling+time.Microsecond) {
			t.Fatalf("%s: its bucket ends at %s, want at most 1/%d above", d, end, perDoubling)
		}
	}
	if end := len(histogram{}.counts) - 1; last != end {
		t.Errorf("70s: got bucket %d, want the last, %d", last, end)
	}
}

func TestHistogramAtItsEdges(t *testing.T) {
	var h histogram
	if got := h.quantile(0.99); got != 0 {
		t.Errorf("an empty one: got %s, want 0", got)
	}
	h.add(-time.Second) // a clock that went back
	if got := h.quantile(1); got != 0 {
		t.Errorf("a negative duration: got %s, want 0", got)
	}
	h.add(time.Hour)
	if got := h.quantile(1); got > time.Hour || got < 67*time.Second {
		t.Errorf("an hour: got %s, want the last bucket and not more than an hour", got)
	}
	h = histogram{}
	h.add(42 * time.Microsecond)
	if got := h.quantile(0.5); got != 42*time.Microsecond {
		t.Errorf("one of 42µs: got %s", got)
	}
}
