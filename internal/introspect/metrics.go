package introspect

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// metrics are the instruments, their attributes prepared.
type metrics struct {
	lookups         metric.Int64Counter
	durations       metric.Float64Histogram
	drops           metric.Int64Counter
	hitAdd, missAdd []metric.AddOption
	hitRec, missRec []metric.RecordOption
}

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
	tier := attribute.String("tier", "process")
	m.hitAdd = []metric.AddOption{set(tier, attribute.String("result", "hit"))}
	m.missAdd = []metric.AddOption{set(tier, attribute.String("result", "miss"))}
	m.hitRec = []metric.RecordOption{set(attribute.String("path", "hit"))}
	m.missRec = []metric.RecordOption{set(attribute.String("path", "verified"))}
	return m, nil
}

func (m *metrics) hit(ctx context.Context, d time.Duration) {
	m.lookups.Add(ctx, 1, m.hitAdd...)
	m.durations.Record(ctx, d.Seconds(), m.hitRec...)
}

func (m *metrics) miss(ctx context.Context, d time.Duration) {
	m.lookups.Add(ctx, 1, m.missAdd...)
	m.durations.Record(ctx, d.Seconds(), m.missRec...)
}

func (m *metrics) dropped(ctx context.Context, issuer, claim string, n int) {
	if n > 0 {
		m.drops.Add(ctx, int64(n), metric.WithAttributes(attribute.String("issuer", issuer), attribute.String("claim", claim)))
	}
}
