// Package telemetry owns what the process says about itself: its log, its
// metrics and its traces, where they go, and the order in which they are
// flushed. It never decides what is worth saying.
//
// # Decisions
//
// Nothing is exported unless the environment asks for it. The exporters take
// an empty environment to mean a collector on localhost, which would fill the
// log of everyone who has none.
//
// OTEL_SDK_DISABLED=true switches every exporter off, which the SDK itself does
// not do. /metrics stays: it is a listener of our configuration, and alarms
// hang on it.
//
// Histograms in seconds get our boundaries where the instrument is made, not by
// a View: a View overrides boundaries that an instrument brings along, and the
// SDK's own, made for milliseconds, would put every duration of ours into the
// first bucket.
//
// Values of histograms wait for each other, up to 32 of a kind, and are handed to
// the SDK together, at the latest when somebody reads metrics: one alone has to
// fetch from memory all that the SDK needs for it, which takes several times as
// long as the work. Cost: one request in 32 does the work of all, and where
// OTEL_METRICS_EXEMPLAR_FILTER is always_on, an exemplar that belongs to no sampled
// span has no trace id, and the time at which it was handed on.
//
// The one global is the OpenTelemetry API's: errors of exporters reach only
// otel.SetErrorHandler. New sets it to its log; of several Telemetry the last
// one made has it.
//
// A line of the access log waits for others, up to 100 ms or 32 KiB, and is
// written with them: each write is a system call, and a reader woken, which
// costs more than the line. All lines go out in their order, a warning and
// whatever is no access line at once, with those that wait before it; Shutdown
// leaves none. Cost: a process that is killed, or broken by the runtime, takes
// the access lines of its last 100 ms with it.
//
// A request that belongs to no trace is drawn before there is a span, and one in
// a hundred gets one. The SDK makes one for each, with ids and a context, only
// to find that it is not sampled: half of what a remembered verdict takes beside
// HTTP. A failure, status 500 and above, is traced in any case, from its end. Cost:
// requests that are not traced have no trace_id in the log, unless they came with
// one; during an outage every request has a span, of which the batch processor
// drops what is too much.
//
// With trust_incoming off, the flag of a caller does not decide whether a
// request is traced, but the trace id that it sends along still enters into the
// draw. The cost is that a caller can pick ids that are drawn; what it gains is
// spans in our collector, and a trace that is sampled alike in all services.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

const (
	// scope names us as the maker of instruments and spans.
	scope = "introspectd"
	// flushLimit is for each of traces and metrics at Shutdown.
	flushLimit = 2 * time.Second
	// errorInterval is between two log lines about exporters.
	errorInterval = 30 * time.Second
)

// Options are what New needs beside its configuration.
type Options struct {
	// Env is the environment, NAME=value each. It decides whether there are
	// exporters; those read their own settings from the process's.
	Env []string
	// LogTo receives the log; writes to it are serialised.
	LogTo io.Writer
	// Version and Commit are of this build.
	Version, Commit string
}

// Telemetry is what the other packages are given to say things with. All of it
// may be used concurrently, also after Shutdown, when nothing is exported any
// more.
type Telemetry struct {
	Log *slog.Logger
	// Access is the same log, for lines of which there is one to each request:
	// below a warning they may wait for each other.
	Access *slog.Logger
	// Meter makes instruments; those with the unit s get boundaries for
	// durations. A gauge must not have the unit 1, which Prometheus would call
	// a ratio.
	Meter metric.Meter
	// Tracer makes no spans and costs nothing without an exporter, and next to
	// nothing for a request that is not traced. A span that is started with the
	// attribute error.type is sampled.
	Tracer trace.Tracer
	// Propagator reads and writes W3C trace context. Baggage is not read:
	// nothing here uses it, and its parsing was an attack (CVE-2026-29181).
	Propagator propagation.TextMapPropagator

	level    *slog.LevelVar
	sampling *sampling
	lines    *lines
	registry *prometheus.Registry
	flush    []func(context.Context) error // in order
}

// New starts what cfg, checked before, and the environment ask for. An error
// means that an exporter could not be made of its settings.
func New(ctx context.Context, cfg Config, o Options) (*Telemetry, error) {
	t := &Telemetry{
		Propagator: propagation.TraceContext{},
		level:      new(slog.LevelVar),
		sampling:   new(sampling),
		lines:      &lines{to: o.LogTo},
	}
	t.Tracer = &tracer{sampling: t.sampling}
	t.Reload(cfg)
	t.Log = slog.New(logHandler(t.lines, cfg.Log.Format, t.level, math.MinInt))
	t.Access = slog.New(logHandler(t.lines, cfg.Log.Format, t.level, slog.LevelWarn))
	otel.SetErrorHandler(exportErrors(t.Log))

	res, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(
			attribute.String("service.name", scope),
			attribute.String("service.version", o.Version)),
		resource.WithFromEnv()) // last, so that OTEL_SERVICE_NAME wins
	if err != nil {
		return nil, fmt.Errorf("describing this process to OpenTelemetry: %w", err)
	}
	env := environment(o.Env)
	if err := t.startTraces(ctx, env, res); err != nil {
		return nil, fmt.Errorf("starting the trace exporter: %w", err)
	}
	if err := t.startMetrics(ctx, env, res, o); err != nil {
		return nil, errors.Join(fmt.Errorf("starting metrics: %w", err), t.Shutdown(ctx))
	}
	return t, nil
}

// Reload takes over the log level and the sampling of cfg. The log's format is
// settled by New.
func (t *Telemetry) Reload(cfg Config) {
	t.level.Set(cfg.Log.Level.slog())
	t.sampling.set(cfg.Traces)
}

// Metrics serves the metrics of this process in Prometheus' text format.
func (t *Telemetry) Metrics() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(t.Log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 4,
	})
}

// Shutdown writes and exports what is still held, log lines and traces first,
// and stops. It takes at most 2 s for each of traces and metrics, less if ctx
// ends; what could not be exported by then is lost and is the error. It is called
// once.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	errs := []error{t.lines.close()}
	for _, flush := range t.flush {
		limited, stop := context.WithTimeout(ctx, flushLimit)
		errs = append(errs, flush(limited))
		stop()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("flushing telemetry: %w", err)
	}
	return nil
}

func (t *Telemetry) startTraces(ctx context.Context, env environment, res *resource.Resource) error {
	exporter, err := spanExporter(ctx, env)
	if err != nil || exporter == nil {
		return err
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(res),
		sdktrace.WithSampler(t.sampling))
	t.Tracer = &tracer{sdk: provider.Tracer(scope), sampling: t.sampling}
	t.flush = append(t.flush, provider.Shutdown)
	return nil
}

func (t *Telemetry) startMetrics(ctx context.Context, env environment, res *resource.Resource, o Options) error {
	t.registry = prometheus.NewRegistry()
	t.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	scraped, err := otelprometheus.New(
		otelprometheus.WithRegisterer(t.registry),
		otelprometheus.WithoutScopeInfo(),
		otelprometheus.WithoutTargetInfo())
	if err != nil {
		return err
	}
	options := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(scraped)}
	pushed, err := metricReader(ctx, env)
	if err != nil {
		return err
	}
	if pushed != nil {
		options = append(options, sdkmetric.WithReader(pushed))
	}
	provider := sdkmetric.NewMeterProvider(options...)
	all := &histograms{}
	t.Meter = meter{provider.Meter(scope), all}
	t.flush = append(t.flush, provider.Shutdown)
	build := metric.WithAttributes(
		attribute.String("version", o.Version), attribute.String("commit", o.Commit), attribute.String("goversion", runtime.Version()))
	// The SDK calls back before it looks at what was recorded.
	_, err = t.Meter.Int64ObservableGauge("introspectd.build_info",
		metric.WithDescription("The build that runs; always 1."),
		metric.WithInt64Callback(func(_ context.Context, seen metric.Int64Observer) error {
			all.flush()
			seen.Observe(1, build)
			return nil
		}))
	return err
}

// meter gives histograms in seconds our boundaries unless they bring their own,
// and has their values wait for each other.
type meter struct {
	metric.Meter
	all *histograms
}

// From a remembered verdict, some microseconds, to a request that meets the
// write limit.
var secondsBoundaries = []float64{
	.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30,
}

func (m meter) Float64Histogram(name string, options ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	c := metric.NewFloat64HistogramConfig(options...)
	if c.Unit() == "s" && c.ExplicitBucketBoundaries() == nil {
		options = append(options, metric.WithExplicitBucketBoundaries(secondsBoundaries...))
	}
	h, err := m.Meter.Float64Histogram(name, options...)
	return m.all.add(h), err
}

// exportErrors logs what goes wrong in the SDK, one line in a while: with the
// collector away there is an error for each batch.
func exportErrors(log *slog.Logger) otel.ErrorHandler {
	var now rate.Sometimes
	var unsaid atomic.Int64
	now.Interval = errorInterval
	return otel.ErrorHandlerFunc(func(err error) {
		unsaid.Add(1)
		now.Do(func() {
			log.Warn("telemetry is not exported", "error", err, "errors", unsaid.Swap(0))
		})
	})
}
