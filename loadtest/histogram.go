package main

import (
	"math"
	"math/bits"
	"time"
)

const (
	// perDoubling is how many buckets there are between a duration and its
	// double: a quantile is at most 1/128 above the duration it stands for.
	perDoubling = 128
	// mostBits is the length of the longest duration told apart, in bits of
	// microseconds: 67 s.
	mostBits = 26
	// smallBits is the length up to which every microsecond has a bucket.
	smallBits = 8
)

// histogram counts durations in buckets that grow with them, in the manner of
// HDR histograms: each microsecond has its own below 256 µs, and each doubling
// of time has 128 above. It is not safe for concurrent use; its zero value is
// empty.
type histogram struct {
	counts [(mostBits - smallBits + 2) * perDoubling]uint64
	total  uint64
	most   time.Duration
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(d)]++
	h.total++
	h.most = max(h.most, d)
}

// merge adds what other has counted.
func (h *histogram) merge(other *histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
	h.most = max(h.most, other.most)
}

// quantile is a duration that a share of q of all is not above, 0 where
// nothing was counted. It is exact to a microsecond below 256 µs and at most
// 1/128 too long above; it never exceeds the longest that was counted.
func (h *histogram) quantile(q float64) time.Duration {
	rank := max(uint64(math.Ceil(q*float64(h.total))), 1)
	for i, n := range h.counts {
		if n >= rank {
			return min(longestIn(i), h.most)
		}
		rank -= n
	}
	return h.most
}

// bucket is where d is counted; what is longer than the histogram reaches goes
// to the last.
func bucket(d time.Duration) int {
	v := uint64(max(d.Microseconds(), 0))
	if v < perDoubling {
		return int(v)
	}
	shift := bits.Len64(v) - smallBits
	if shift > mostBits-smallBits {
		return len(histogram{}.counts) - 1
	}
	return shift*perDoubling + int(v>>shift)
}

// longestIn is the longest duration that bucket i stands for.
func longestIn(i int) time.Duration {
	if i < 2*perDoubling {
		return time.Duration(i)*time.Microsecond + time.Microsecond - 1
	}
	shift := i/perDoubling - 1
	first := (perDoubling + i%perDoubling) << shift
	return time.Duration(first+1<<shift)*time.Microsecond - 1
}
