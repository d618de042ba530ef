package redisstore

import (
	"context"
	"strings"

	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"introspectd/internal/seal"
)

type metrics struct {
	writes  metric.Int64Counter
	entries metric.Int64Counter
	locks   metric.Int64Counter
	results map[string][]metric.AddOption // of writes, prepared
}

// How a write behind a request ended.
const (
	writeDone    = "done"
	writeFailed  = "failed"
	writeDropped = "dropped"
)

func newMetrics(m metric.Meter, s *Store) (out metrics, err error) {
	out.results = map[string][]metric.AddOption{}
	for _, result := range []string{writeDone, writeFailed, writeDropped} {
		out.results[result] = []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("result", result)))}
	}
	if out.writes, err = m.Int64Counter("introspectd.redis.writes",
		metric.WithUnit("{entry}"), metric.WithDescription("Verdicts written to redis behind the request, by result.")); err != nil {
		return out, err
	}
	if out.entries, err = m.Int64Counter("introspectd.redis.refused_entries",
		metric.WithUnit("{entry}"), metric.WithDescription("Values found in redis that are not ours to believe, by kind and reason.")); err != nil {
		return out, err
	}
	if out.locks, err = m.Int64Counter("introspectd.redis.removed_locks",
		metric.WithUnit("{lock}"), metric.WithDescription("Locks that would have kept replicas off for longer than any of ours.")); err != nil {
		return out, err
	}
	if _, err = m.Int64ObservableGauge("introspectd.redis.up",
		metric.WithDescription("1 while every master of redis answers."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			up := int64(0)
			if s.up.Load() {
				up = 1
			}
			o.Observe(up)
			return nil
		})); err != nil {
		return out, err
	}
	_, err = m.Int64ObservableGauge("introspectd.redis.breaker_state",
		metric.WithDescription("0 closed: requests ask redis; 1 half-open, 2 open: they don't."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(map[gobreaker.State]int64{gobreaker.StateHalfOpen: 1, gobreaker.StateOpen: 2}[s.breaker.State()])
			return nil
		}))
	return out, err
}

func (m *metrics) wrote(result string, n int) {
	m.writes.Add(context.Background(), int64(n), m.results[result]...)
}

func (m *metrics) refuse(kind seal.Kind, reason string) {
	m.entries.Add(context.Background(), 1, metric.WithAttributes(
		attribute.String("kind", strings.ReplaceAll(string(kind), " ", "_")), attribute.String("reason", reason)))
}

func (m *metrics) removedLock() { m.locks.Add(context.Background(), 1) }
