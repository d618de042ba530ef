package introspect

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Metrics are the instruments of a process, whichever Introspector it has, their
// attributes prepared. Look-ups are counted here and told when somebody reads
// them: adding to an instrument costs as much as the look itself. It is safe for
// concurrent use.
type Metrics struct {
	process, redis [2]atomic.Int64 // look-ups by result: miss, hit
	durations      metric.Float64Histogram
	drops          metric.Int64Counter
	paths          [len(pathWords)][]metric.RecordOption
}

// path is how a verdict was come by.
type path uint8

const (
	pathHit path = iota
	pathShared
	pathVerified
)

var pathWords = [...]string{pathHit: "hit", pathShared: "shared", pathVerified: "verified"}

// NewMetrics makes the instruments.
func NewMetrics(meter metric.Meter) (*Metrics, error) {
	m := &Metrics{}
	set := func(kv ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(kv...))
	}
	type count struct {
		of     *atomic.Int64
		labels metric.ObserveOption
	}
	var counts []count
	for n, result := range []string{"miss", "hit"} {
		counts = append(counts,
			count{&m.process[n], set(attribute.String("tier", "process"), attribute.String("result", result))},
			count{&m.redis[n], set(attribute.String("tier", "redis"), attribute.String("result", result))})
	}
	if _, err := meter.Int64ObservableCounter("introspectd.cache.requests",
		metric.WithDescription("Look-ups of remembered verdicts."),
		metric.WithInt64Callback(func(_ context.Context, seen metric.Int64Observer) error {
			for _, c := range counts {
				if n := c.of.Load(); n > 0 {
					seen.Observe(n, c.labels)
				}
			}
			return nil
		})); err != nil {
		return nil, err
	}
	var err error
	if m.durations, err = meter.Float64Histogram("introspectd.verdict.duration", metric.WithUnit("s"),
		metric.WithDescription("Time to a verdict."),
		metric.WithExplicitBucketBoundaries(1e-6, 5e-6, 1e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 1, 5)); err != nil {
		return nil, err
	}
	if m.drops, err = meter.Int64Counter("introspectd.dropped_claims",
		metric.WithDescription("Values of signed claims left out of answers because they were not well-formed.")); err != nil {
		return nil, err
	}
	for p, word := range pathWords {
		m.paths[p] = []metric.RecordOption{set(attribute.String("path", word))}
	}
	return m, nil
}

// judged counts a verdict and, with it, a look into this process.
func (m *Metrics) judged(ctx context.Context, p path, d time.Duration) {
	m.process[index(p == pathHit)].Add(1)
	m.durations.Record(ctx, d.Seconds(), m.paths[p]...)
}

// asked counts a look into the shared store.
func (m *Metrics) asked(hit bool) {
	m.redis[index(hit)].Add(1)
}

func index(hit bool) int {
	if hit {
		return 1
	}
	return 0
}

func (m *Metrics) dropped(ctx context.Context, issuer, claim string, n int) {
	if n > 0 {
		m.drops.Add(ctx, int64(n), metric.WithAttributes(attribute.String("issuer", issuer), attribute.String("claim", claim)))
	}
}
