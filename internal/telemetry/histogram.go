package telemetry

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// mostWaiting is how many values of a histogram wait for each other.
const mostWaiting = 32

// histogram hands its values to the SDK together; see the package's decisions.
// What belongs to a sampled span is handed on at once, since the SDK takes its
// exemplars from the context. Options must not be changed afterwards.
type histogram struct {
	metric.Float64Histogram

	mu      sync.Mutex
	waiting []measurement
}

type measurement struct {
	value   float64
	options []metric.RecordOption
}

// Record implements metric.Float64Histogram.
func (h *histogram) Record(ctx context.Context, value float64, options ...metric.RecordOption) {
	if trace.SpanContextFromContext(ctx).IsSampled() {
		h.Float64Histogram.Record(ctx, value, options...)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = append(h.waiting, measurement{value, options})
	if len(h.waiting) == mostWaiting {
		h.handOn()
	}
}

// flush leaves nothing waiting.
func (h *histogram) flush() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handOn()
}

func (h *histogram) handOn() {
	for _, m := range h.waiting {
		h.Float64Histogram.Record(context.Background(), m.value, m.options...)
	}
	h.waiting = h.waiting[:0]
}

// histograms are those of a Telemetry. It is safe for concurrent use.
type histograms struct {
	mu  sync.Mutex
	all []*histogram
}

func (hs *histograms) add(h metric.Float64Histogram) metric.Float64Histogram {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, one := range hs.all {
		if one.Float64Histogram == h {
			return one // the SDK has one of a name, and whoever asks at each reload gets no more
		}
	}
	one := &histogram{Float64Histogram: h, waiting: make([]measurement, 0, mostWaiting)}
	hs.all = append(hs.all, one)
	return one
}

func (hs *histograms) flush() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, h := range hs.all {
		h.flush()
	}
}
