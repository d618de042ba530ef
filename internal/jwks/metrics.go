package jwks

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// instruments are what an issuer's keys are measured with.
type instruments struct {
	meter    metric.Meter
	issuer   attribute.KeyValue
	fetches  metric.Int64Counter
	duration metric.Float64Histogram
	skipped  metric.Int64Counter
	age      metric.Float64ObservableGauge
	keys     metric.Int64ObservableGauge
	skew     metric.Float64ObservableGauge
	store    metric.Int64Counter
	fleet    metric.Int64Counter
}

// What a Store or a Fleet is asked for, and how that ended. They are metric
// labels: the sets are closed.
const (
	opLoad  = "load"
	opSave  = "save"
	opClaim = "claim"

	storeDone    = "done"
	storeNothing = "nothing"   // there is none
	storeRefused = "refused"   // what is there must not be used
	storeOlder   = "not_newer" // what is there is no newer than what we hold
	storeDenied  = "denied"    // another replica has the claim
	storeFailed  = "failed"    // or was not answered in time
)

func newInstruments(m metric.Meter, issuer string) (instruments, error) {
	i := instruments{meter: m, issuer: attribute.String("issuer", issuer)}
	var err error
	if i.fetches, err = m.Int64Counter("introspectd.jwks.fetches",
		metric.WithUnit("{fetch}"), metric.WithDescription("Fetches of an issuer's keys, by result.")); err != nil {
		return i, err
	}
	if i.duration, err = m.Float64Histogram("introspectd.jwks.fetch.duration",
		metric.WithUnit("s"), metric.WithDescription("Time of one fetch of keys, discovery included."),
		metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)); err != nil {
		return i, err
	}
	if i.skipped, err = m.Int64Counter("introspectd.jwks.skipped_keys",
		metric.WithUnit("{key}"), metric.WithDescription("Keys of newly read sets that are not used, by reason.")); err != nil {
		return i, err
	}
	if i.age, err = m.Float64ObservableGauge("introspectd.jwks.age",
		metric.WithUnit("s"), metric.WithDescription("Time since the keys in use were last known to be current.")); err != nil {
		return i, err
	}
	if i.keys, err = m.Int64ObservableGauge("introspectd.jwks.keys",
		metric.WithUnit("{key}"), metric.WithDescription("Usable keys at hand; 0 when they are too old.")); err != nil {
		return i, err
	}
	if i.store, err = m.Int64Counter("introspectd.jwks.state",
		metric.WithUnit("{operation}"), metric.WithDescription("Key sets loaded from the state and saved to it, by result.")); err != nil {
		return i, err
	}
	if i.fleet, err = m.Int64Counter("introspectd.jwks.fleet",
		metric.WithUnit("{operation}"), metric.WithDescription("Key sets shared between replicas and claims to fetch them, by result.")); err != nil {
		return i, err
	}
	i.skew, err = m.Float64ObservableGauge("introspectd.clock_skew",
		metric.WithUnit("s"), metric.WithDescription("How far the issuer's clock is ahead of ours, from Date."))
	return i, err
}

func (i instruments) fetched(r result, took time.Duration) {
	ctx := context.Background()
	i.fetches.Add(ctx, 1, metric.WithAttributes(i.issuer, attribute.String("result", string(r))))
	i.duration.Record(ctx, took.Seconds())
}

func (i instruments) skip(counts map[skipReason]int) {
	for reason, n := range counts {
		i.skipped.Add(context.Background(), int64(n), metric.WithAttributes(i.issuer, attribute.String("reason", string(reason))))
	}
}

func (i instruments) stored(operation, result string) {
	i.store.Add(context.Background(), 1, metric.WithAttributes(i.issuer,
		attribute.String("operation", operation), attribute.String("result", result)))
}

func (i instruments) shared(operation, result string) {
	i.fleet.Add(context.Background(), 1, metric.WithAttributes(i.issuer,
		attribute.String("operation", operation), attribute.String("result", result)))
}

// observe shows the gauges until the returned function is called.
func (k *Keys) observe() func() {
	i := k.meter
	issuer := metric.WithAttributes(i.issuer)
	registration, err := i.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		usable := 0
		if h := k.usable(); h != nil {
			usable = len(h.set.entries)
		}
		o.ObserveInt64(i.keys, int64(usable), issuer)
		if h := k.held.Load(); h != nil && !k.cfg.local() {
			o.ObserveFloat64(i.age, time.Since(h.read).Seconds(), issuer)
		}
		if ahead := k.skew.Load(); ahead != nil {
			o.ObserveFloat64(i.skew, ahead.Seconds(), issuer)
		}
		return nil
	}, i.age, i.keys, i.skew)
	if err != nil {
		k.log.Warn("keys are not measured", "error", err)
		return func() {}
	}
	return func() {
		if err := registration.Unregister(); err != nil {
			k.log.Warn("keys are still measured", "error", err)
		}
	}
}
