package main

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// longest is the longest latency told apart; what is longer counts as that.
const longest = 70 * time.Second

// histogram counts durations in microseconds, to three digits. It is not safe
// for concurrent use; its zero value is empty.
type histogram struct {
	counts *hdrhistogram.Histogram
	most   time.Duration
}

func (h *histogram) add(d time.Duration) {
	h.most = max(h.most, d)
	h.made()
	_ = h.counts.RecordValue(min(max(d, 0), longest).Microseconds()) // within its bounds
}

// merge adds what other has counted.
func (h *histogram) merge(other *histogram) {
	if other.counts == nil {
		return
	}
	h.made()
	h.counts.Merge(other.counts)
	h.most = max(h.most, other.most)
}

func (h *histogram) made() {
	if h.counts == nil {
		h.counts = hdrhistogram.New(1, longest.Microseconds(), 3)
	}
}

func (h *histogram) total() uint64 {
	if h.counts == nil {
		return 0
	}
	return uint64(h.counts.TotalCount())
}

// quantile is a duration that a share of q of all is not above, 0 where
// nothing was counted. It is at most a thousandth too long, and never exceeds
// the longest that was counted.
func (h *histogram) quantile(q float64) time.Duration {
	if h.counts == nil {
		return 0
	}
	return min(time.Duration(h.counts.ValueAtQuantile(q*100))*time.Microsecond+time.Microsecond-1, h.most)
}
