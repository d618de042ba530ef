package redisstore

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// feedMetrics counts what is out of the ordinary in a feed, by event: broken
// (not sealed by us), foreign (of another release or seal key), written_back,
// resealed, healed, empty_adopted, empty_refused.
type feedMetrics struct{ events metric.Int64Counter }

func newFeedMetrics(m metric.Meter) (feedMetrics, error) {
	events, err := m.Int64Counter("introspectd.revocation.feed",
		metric.WithUnit("{event}"), metric.WithDescription("What is out of the ordinary in the revocations that Redis holds, by event."))
	if err != nil {
		return feedMetrics{}, fmt.Errorf("measuring the feed: %w", err)
	}
	return feedMetrics{events}, nil
}

func (m feedMetrics) add(ctx context.Context, event string, n int) {
	m.events.Add(ctx, int64(n), metric.WithAttributes(attribute.String("event", event)))
}
