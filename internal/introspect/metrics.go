package introspect

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// metrics are the instruments, their attributes prepared.
type metrics struct {
	lookups   metric.Int64Counter
	durations metric.Float64Histogram
	drops     metric.Int64Counter
	process   [2][]metric.AddOption // by result: miss, hit
	redis     [2][]metric.AddOption
	paths     [len(pathWords)][]metric.RecordOption
}

// path is how a verdict was come by.
type path uint8

const (
	pathHit path = iota
	pathShared
	pathVerified
)

var pathWords = [...]string{pathHit: "hit", pathShared: "shared", pathVerified: "verified"}

func newMetrics(meter metric.Meter) (m metrics, err error) {
	if m.lookups, err = meter.Int64Counter("introspectd.cache.requests",
		metric.WithDescription("Look-ups of remembered verdicts.")); err != nil {
		return m, err
	}
	if m.durations, err = meter.Float64Histogram("introspectd.verdict.duration", metric.WithUnit("s"),
		metric.WithDescription("Time to a verdict."),
		metric.WithExplicitBucketBoundaries(1e-6, 5e-6, 1e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 1, 5)); err != nil {
		return m, err
	}
	if m.drops, err = meter.Int64Counter("introspectd.dropped_claims",
		metric.WithDescription("Values of signed claims left out of answers because they were not well-formed.")); err != nil {
		return m, err
	}
	set := func(kv ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(kv...))
	}
	for n, result := range []string{"miss", "hit"} {
		m.process[n] = []metric.AddOption{set(attribute.String("tier", "process"), attribute.String("result", result))}
		m.redis[n] = []metric.AddOption{set(attribute.String("tier", "redis"), attribute.String("result", result))}
	}
	for p, word := range pathWords {
		m.paths[p] = []metric.RecordOption{set(attribute.String("path", word))}
	}
	return m, nil
}

// judged counts a verdict and, with it, a look into this process.
func (m *metrics) judged(ctx context.Context, p path, d time.Duration) {
	m.lookups.Add(ctx, 1, m.process[index(p == pathHit)]...)
	m.durations.Record(ctx, d.Seconds(), m.paths[p]...)
}

// asked counts a look into the shared store.
func (m *metrics) asked(ctx context.Context, hit bool) {
	m.lookups.Add(ctx, 1, m.redis[index(hit)]...)
}

func index(hit bool) int {
	if hit {
		return 1
	}
	return 0
}

func (m *metrics) dropped(ctx context.Context, issuer, claim string, n int) {
	if n > 0 {
		m.drops.Add(ctx, int64(n), metric.WithAttributes(attribute.String("issuer", issuer), attribute.String("claim", claim)))
	}
}
