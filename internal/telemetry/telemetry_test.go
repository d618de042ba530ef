package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	metricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracespb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	metricdatapb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"introspectd/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func config() telemetry.Config {
	return telemetry.Config{
		Log:    telemetry.LogConfig{Level: "info", Format: "json"},
		Traces: telemetry.TracesConfig{Sample: 1},
	}
}

// started is telemetry in the environment of this process, which a test sets by
// t.Setenv: the exporters read it too.
func started(t *testing.T, cfg telemetry.Config) (*telemetry.Telemetry, *safeBuffer) {
	t.Helper()
	log := new(safeBuffer)
	tel, err := telemetry.New(t.Context(), cfg, telemetry.Options{
		Env: os.Environ(), LogTo: log, Version: "v1.2.3", Commit: "abc",
	})
	if err != nil {
		t.Fatal(err)
	}
	return tel, log
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name   string
		change func(*telemetry.Config)
		want   map[string]string
	}{
		{"fine", func(*telemetry.Config) {}, map[string]string{}},
		{"text and debug", func(c *telemetry.Config) { c.Log = telemetry.LogConfig{Level: "debug", Format: "text"} }, map[string]string{}},
		{
			"sample above 1", func(c *telemetry.Config) { c.Traces.Sample = 1.5 },
			map[string]string{"traces.sample": "expected a number from 0 to 1, got 1.5"},
		},
		{
			"sample below 0", func(c *telemetry.Config) { c.Traces.Sample = -1 },
			map[string]string{"traces.sample": "expected a number from 0 to 1, got -1"},
		},
		{
			"sample no number", func(c *telemetry.Config) { c.Traces.Sample = math.NaN() },
			map[string]string{"traces.sample": "expected a number from 0 to 1, got NaN"},
		},
		{
			"both of log", func(c *telemetry.Config) { c.Log = telemetry.LogConfig{Level: "loud"} },
			map[string]string{
				"log.level":  `expected one of debug, info, warn, error, got "loud"`,
				"log.format": `expected one of json, text, got ""`,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := config()
			tt.change(&c)
			got := map[string]string{}
			c.Check(func(key, problem string) { got[key] = problem })
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMetricNames(t *testing.T) {
	tel, _ := started(t, config())
	defer stop(t, tel)
	verdicts, _ := tel.Meter.Int64Counter("introspectd.verdicts")
	age, _ := tel.Meter.Float64Gauge("introspectd.jwks.age", metric.WithUnit("s"))
	keys, _ := tel.Meter.Int64Gauge("introspectd.jwks.keys")
	reloaded, _ := tel.Meter.Int64Gauge("introspectd.config.last_reload_successful")
	duration, _ := tel.Meter.Float64Histogram("http.server.request.duration", metric.WithUnit("s"))
	verdicts.Add(t.Context(), 2, metric.WithAttributes(attribute.String("issuer", "corp"), attribute.Bool("active", true)))
	age.Record(t.Context(), 1.5)
	keys.Record(t.Context(), 3)
	reloaded.Record(t.Context(), 1)
	duration.Record(t.Context(), 0.02)

	text := scraped(t, tel)
	for _, line := range []string{
		`introspectd_verdicts_total{active="true",issuer="corp"} 2`,
		`introspectd_jwks_age_seconds 1.5`,
		`introspectd_jwks_keys 3`,
		`introspectd_config_last_reload_successful 1`,
		`http_server_request_duration_seconds_count 1`,
		`introspectd_build_info{commit="abc",goversion="` + runtime.Version() + `",version="v1.2.3"} 1`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %s in:\n%s", line, text)
		}
	}
	for _, name := range []string{"\ngo_goroutines ", "\nprocess_open_fds "} {
		if !strings.Contains(text, name) {
			t.Errorf("no metric %q", name)
		}
	}
	for _, noise := range []string{"otel_scope_", "target_info"} {
		if strings.Contains(text, noise) {
			t.Errorf("%s stands in:\n%s", noise, text)
		}
	}
}

func TestHistogramBoundaries(t *testing.T) {
	tel, _ := started(t, config())
	defer stop(t, tel)
	ours, _ := tel.Meter.Float64Histogram("ours", metric.WithUnit("s"))
	own, _ := tel.Meter.Float64Histogram("own", metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(7))
	sizes, _ := tel.Meter.Float64Histogram("sizes", metric.WithUnit("By"))
	for _, h := range []metric.Float64Histogram{ours, own, sizes} {
		h.Record(t.Context(), 0.00002)
	}
	text := scraped(t, tel)
	for line, want := range map[string]bool{
		`ours_seconds_bucket{le="1e-05"} 0`:   true, // a remembered verdict is told from the rest
		`ours_seconds_bucket{le="2.5e-05"} 1`: true,
		`ours_seconds_bucket{le="30"} 1`:      true,
		`ours_seconds_bucket{le="10000"} 1`:   false, // the SDK's, for milliseconds
		`own_seconds_bucket{le="7"} 1`:        true,
		`own_seconds_bucket{le="10"} 1`:       false,
		`sizes_bytes_bucket{le="10000"} 1`:    true,
	} {
		if got := strings.Contains(text, line); got != want {
			t.Errorf("line %s: got %v, want %v", line, got, want)
		}
	}
}

func TestTwoTelemetriesDoNotShareMetrics(t *testing.T) {
	a, _ := started(t, config())
	defer stop(t, a)
	b, _ := started(t, config())
	defer stop(t, b)
	counter, _ := a.Meter.Int64Counter("introspectd.verdicts")
	counter.Add(t.Context(), 1)
	if text := scraped(t, b); strings.Contains(text, "introspectd_verdicts_total") {
		t.Error("a counter of one stands in the other")
	}
}

func TestLogLines(t *testing.T) {
	tel, log := started(t, config())
	defer stop(t, tel)
	ctx := remoteParent(t.Context(), tel, "01")
	tel.Log.With("issuer", "corp").InfoContext(ctx, "verdict", "reason", "expired")
	tel.Log.Debug("below the level")
	tel.Log.Info("without a span")

	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("got %d lines, want 2 (debug is below the level):\n%s", len(lines), log)
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil {
		t.Fatalf("line: %v in %s", err, lines[0])
	}
	delete(line, "time")
	want := map[string]any{
		"level": "INFO", "msg": "verdict", "issuer": "corp", "reason": "expired", "trace_id": traceID, "span_id": parentID,
	}
	if diff := cmp.Diff(want, line); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
	if strings.Contains(lines[1], "trace_id") {
		t.Errorf("got %s, want no trace_id without a span", lines[1])
	}
}

func TestControlCharacters(t *testing.T) {
	const hostile = "a\nlevel=ERROR msg=forged\r\x1b[31m\x00\x7f\u009b\u2028"
	for _, format := range []telemetry.Format{"text", "json"} {
		t.Run("ERR-10 quoted in a log of format "+string(format), func(t *testing.T) {
			cfg := config()
			cfg.Log.Format = format
			tel, log := started(t, cfg)
			defer stop(t, tel)
			tel.Log.Info(hostile, "claim", hostile, hostile, "value", slog.Group("g", hostile, errors.New(hostile)))

			got, ended := strings.CutSuffix(log.String(), "\n")
			if !ended || strings.Contains(got, "\n") || !strings.Contains(got, "forged") {
				t.Errorf("got %q, want one line with the text in it", got)
			}
			if n := strings.IndexFunc(got, func(r rune) bool { return r < ' ' }); n >= 0 {
				t.Errorf("a control character at %d of %q", n, got)
			}
			if format == "text" && strings.ContainsAny(got, "\x7f\u009b\u2028") {
				t.Errorf("a character that terminals act on in %q", got)
			}
		})
	}
}

func TestReloadSetsTheLevel(t *testing.T) {
	cfg := config()
	tel, log := started(t, cfg)
	defer stop(t, tel)
	derived := tel.Log.With("issuer", "corp")
	derived.Debug("before")
	cfg.Log.Level = "debug"
	tel.Reload(cfg)
	derived.Debug("after")
	if got := log.String(); strings.Contains(got, "before") || !strings.Contains(got, "after") {
		t.Errorf("got %q, want debug lines after the reload alone", got)
	}
}

func TestPropagatorReadsNoBaggage(t *testing.T) {
	tel, _ := started(t, config())
	defer stop(t, tel)
	if diff := cmp.Diff([]string{"traceparent", "tracestate"}, tel.Propagator.Fields()); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestExport(t *testing.T) {
	tests := []struct {
		name            string
		env             map[string]string // URL stands for the collector's
		spans, measured bool
	}{
		{"nothing set", nil, false, false},
		{"endpoint for all", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "URL"}, true, true},
		{"endpoint for traces", map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "URL/v1/traces"}, true, false},
		{"endpoint for metrics", map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "URL/v1/metrics"}, false, true},
		{"traces by name", map[string]string{
			"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "URL",
		}, true, false},
		{"none overrides the endpoint", map[string]string{
			"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "URL",
		}, false, false},
		{"prometheus is /metrics", map[string]string{
			"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_OTLP_ENDPOINT": "URL",
		}, true, false},
		{"SDK disabled", map[string]string{"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "URL"}, false, false},
		{"SDK not disabled", map[string]string{"OTEL_SDK_DISABLED": "false", "OTEL_EXPORTER_OTLP_ENDPOINT": "URL"}, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := startCollector(t)
			for name, value := range tt.env {
				t.Setenv(name, strings.Replace(value, "URL", c.url, 1))
			}
			tel, log := started(t, config())
			_, span := tel.Tracer.Start(t.Context(), "sample")
			if got := span.IsRecording(); got != tt.spans {
				t.Errorf("the span records: got %v, want %v", got, tt.spans)
			}
			span.End()
			counter, _ := tel.Meter.Int64Counter("introspectd.verdicts")
			counter.Add(t.Context(), 1)
			stop(t, tel)

			var want struct{ spans, metrics []string }
			if tt.spans {
				want.spans = []string{"introspectd v1.2.3 sample"}
			}
			if tt.measured {
				want.metrics = []string{"introspectd v1.2.3 introspectd.build_info", "introspectd v1.2.3 introspectd.verdicts"}
			}
			if diff := cmp.Diff(want.spans, c.spans); diff != "" {
				t.Errorf("spans at the collector (-want +got):\n%s", diff)
			}
			slices.Sort(c.metrics)
			if diff := cmp.Diff(want.metrics, c.metrics); diff != "" {
				t.Errorf("metrics at the collector (-want +got):\n%s", diff)
			}
			if log.String() != "" {
				t.Errorf("log: got %s, want nothing", log)
			}
		})
	}
}

func TestUnknownExporterIsAnError(t *testing.T) {
	for _, name := range []string{"OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
			t.Setenv(name, "pigeon")
			_, err := telemetry.New(t.Context(), config(), telemetry.Options{Env: os.Environ(), LogTo: io.Discard})
			if err == nil || !strings.Contains(err.Error(), "unknown exporter") {
				t.Errorf("got %v, want an error about the exporter", err)
			}
		})
	}
}

func TestSampling(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", startCollector(t).url+"/v1/traces")
	const sampled, unsampled, none = "01", "00", ""
	tests := []struct {
		name   string
		sample float64
		trust  bool
		parent string
		want   bool
	}{
		{"all, no parent", 1, false, none, true},
		{"nothing, no parent", 0, false, none, false},
		{"all, though the parent is not", 1, false, unsampled, true},
		{"nothing, though the parent is", 0, false, sampled, false},
		{"trusted parent is sampled", 0, true, sampled, true},
		{"trusted parent is not", 1, true, unsampled, false},
		{"trusted, all, no parent", 1, true, none, true},
		{"trusted, nothing, no parent", 0, true, none, false},
	}
	tel, _ := started(t, config())
	defer stop(t, tel)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tel.Reload(telemetry.Config{Traces: telemetry.TracesConfig{Sample: tt.sample, TrustIncoming: tt.trust}})
			ctx := t.Context()
			if tt.parent != none {
				ctx = remoteParent(ctx, tel, tt.parent)
			}
			ctx, span := tel.Tracer.Start(ctx, "server")
			_, child := tel.Tracer.Start(ctx, "verify")
			defer span.End()
			defer child.End()
			if got := span.SpanContext().IsSampled(); got != tt.want {
				t.Errorf("sampled: got %v, want %v", got, tt.want)
			}
			if got := child.SpanContext().IsSampled(); got != tt.want {
				t.Errorf("the span inside: got %v, want %v as outside", got, tt.want)
			}
		})
	}
}

func TestExportErrorsAreLoggedOnceInAWhile(t *testing.T) {
	tel, log := started(t, config())
	defer stop(t, tel)
	for range 100 {
		otel.Handle(errors.New("collector away"))
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 1 || !strings.Contains(lines[0], "collector away") || !strings.Contains(lines[0], `"level":"WARN"`) {
		t.Errorf("got %d lines, want one warning:\n%s", len(lines), log)
	}
}

func TestShutdownDoesNotWaitForAHangingCollector(t *testing.T) {
	released := make(chan struct{})
	hang := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released }))
	defer hang.Close()
	defer close(released)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", hang.URL)
	tel, _ := started(t, config())
	_, span := tel.Tracer.Start(t.Context(), "sample")
	span.End()
	begun := time.Now()
	err := tel.Shutdown(t.Context())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want it to say that time ran out", err)
	}
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("took %v, want at most 2 s each for traces and metrics", took)
	}
}

const (
	traceID  = "0af7651916cd43dd8448eb211c80319c"
	parentID = "b7ad6b7169203331"
)

// remoteParent is what a request with this flag in its traceparent brings.
func remoteParent(ctx context.Context, tel *telemetry.Telemetry, flag string) context.Context {
	header := propagation.MapCarrier{"traceparent": "00-" + traceID + "-" + parentID + "-" + flag}
	ctx = tel.Propagator.Extract(ctx, header)
	if !trace.SpanContextFromContext(ctx).IsRemote() {
		panic("the propagator does not read traceparent")
	}
	return ctx
}

func scraped(t *testing.T, tel *telemetry.Telemetry) string {
	t.Helper()
	w := httptest.NewRecorder()
	tel.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("/metrics: got %d %s", w.Code, w.Header().Get("Content-Type"))
	}
	return w.Body.String()
}

func stop(t *testing.T, tel *telemetry.Telemetry) {
	t.Helper()
	if err := tel.Shutdown(context.WithoutCancel(t.Context())); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// collector takes OTLP over HTTP and remembers service, version and name of
// what it gets. It is read after Shutdown of the sender.
type collector struct {
	url            string
	spans, metrics []string
	histograms     []*metricdatapb.HistogramDataPoint
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	c := new(collector)
	var mu sync.Mutex
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = c.take(r.URL.Path, body)
		}
		if err != nil {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
	}))
	t.Cleanup(s.Close)
	c.url = s.URL
	return c
}

func (c *collector) take(path string, body []byte) error {
	switch path {
	case "/v1/traces":
		var request tracespb.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &request); err != nil {
			return err
		}
		for _, rs := range request.ResourceSpans {
			for _, span := range rs.ScopeSpans[0].Spans {
				c.spans = append(c.spans, service(rs.Resource)+span.Name)
			}
		}
		return nil
	case "/v1/metrics":
		var request metricspb.ExportMetricsServiceRequest
		if err := proto.Unmarshal(body, &request); err != nil {
			return err
		}
		for _, rm := range request.ResourceMetrics {
			for _, m := range rm.ScopeMetrics[0].Metrics {
				c.metrics = append(c.metrics, service(rm.Resource)+m.Name)
				c.histograms = append(c.histograms, m.GetHistogram().GetDataPoints()...)
			}
		}
		return nil
	}
	return errors.New("no such signal")
}

// service is the name and version in r, each with a space after it.
func service(r *resourcepb.Resource) string {
	var name, version string
	for _, a := range r.Attributes {
		switch a.Key {
		case "service.name":
			name = a.Value.GetStringValue()
		case "service.version":
			version = a.Value.GetStringValue()
		}
	}
	return name + " " + version + " "
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
