package telemetry_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"introspectd/internal/telemetry"
)

// Values of histograms wait for each other, which readers of metrics may not notice.
func TestHistograms(t *testing.T) {
	durations := func(t *testing.T, tel *telemetry.Telemetry) metric.Float64Histogram {
		t.Helper()
		h, err := tel.Meter.Float64Histogram("durations", metric.WithUnit("s"))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	as := func(path string) metric.RecordOption {
		return metric.WithAttributeSet(attribute.NewSet(attribute.String("path", path)))
	}
	shown := func(t *testing.T, tel *telemetry.Telemetry, want ...string) {
		t.Helper()
		text := scraped(t, tel)
		for _, line := range want {
			if !strings.Contains(text, "\n"+line+"\n") {
				t.Errorf("no line %s in:\n%s", line, text)
			}
		}
	}

	t.Run("each scrape shows all there is", func(t *testing.T) {
		tel, _ := started(t, config())
		defer stop(t, tel)
		h := durations(t, tel)
		for n := range 100 {
			h.Record(t.Context(), 0.5, as("hit"))
			if n%3 == 0 {
				shown(t, tel, fmt.Sprintf(`durations_seconds_count{path="hit"} %d`, n+1))
			}
		}
		h.Record(t.Context(), 2, as("verified"))
		shown(t, tel, `durations_seconds_sum{path="hit"} 50`, `durations_seconds_bucket{path="hit",le="0.25"} 0`,
			`durations_seconds_bucket{path="hit",le="0.5"} 100`, `durations_seconds_sum{path="verified"} 2`)
	})

	t.Run("many at once", func(t *testing.T) {
		tel, _ := started(t, config())
		defer stop(t, tel)
		h := durations(t, tel)
		var all sync.WaitGroup
		for n := range 8 {
			all.Go(func() {
				for range 1000 {
					h.Record(t.Context(), 0.25, as([]string{"hit", "verified"}[n%2]))
				}
			})
		}
		for range 10 {
			scraped(t, tel)
		}
		all.Wait()
		shown(t, tel, `durations_seconds_count{path="hit"} 4000`, `durations_seconds_sum{path="verified"} 1000`)
	})

	t.Run("the last export has what waits", func(t *testing.T) {
		c := startCollector(t)
		t.Setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", c.url+"/v1/metrics")
		tel, _ := started(t, config())
		durations(t, tel).Record(t.Context(), 0.5)
		stop(t, tel)
		if len(c.histograms) != 1 || c.histograms[0].Count != 1 {
			t.Errorf("got %v, want one value", c.histograms)
		}
	})

	t.Run("a value of a sampled span is its example", func(t *testing.T) {
		c := startCollector(t)
		t.Setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", c.url+"/v1/metrics")
		tel, _ := started(t, config())
		h := durations(t, tel)
		h.Record(remoteParent(t.Context(), tel, "00"), 0.5)
		h.Record(remoteParent(t.Context(), tel, "01"), 0.25)
		stop(t, tel)
		if len(c.histograms) != 1 || c.histograms[0].Count != 2 || len(c.histograms[0].Exemplars) != 1 {
			t.Fatalf("got %v, want two values and one example", c.histograms)
		}
		example := c.histograms[0].Exemplars[0]
		if got := hex.EncodeToString(example.TraceId); got != traceID || example.GetAsDouble() != 0.25 {
			t.Errorf("got an example of %s, %v, want %s, 0.25", got, example.GetAsDouble(), traceID)
		}
	})

	t.Run("a scrape takes nothing from an export by delta", func(t *testing.T) {
		c := startCollector(t)
		t.Setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", c.url+"/v1/metrics")
		t.Setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
		tel, _ := started(t, config())
		h := durations(t, tel)
		h.Record(t.Context(), 0.5)
		shown(t, tel, "durations_seconds_count 1")
		h.Record(t.Context(), 0.5)
		shown(t, tel, "durations_seconds_count 2")
		stop(t, tel)
		if len(c.histograms) != 1 || c.histograms[0].Count != 2 {
			t.Errorf("got %v, want both values in the one export", c.histograms)
		}
	})

	t.Run("one that is asked for again is the same", func(t *testing.T) {
		tel, _ := started(t, config())
		defer stop(t, tel)
		if first, again := durations(t, tel), durations(t, tel); first != again {
			t.Error("got another one, which would be kept as well: keys ask at each reload that touches them")
		}
	})

	t.Run("one value allocates nothing", func(t *testing.T) {
		tel, _ := started(t, config())
		defer stop(t, tel)
		h, options := durations(t, tel), []metric.RecordOption{as("hit")}
		h.Record(t.Context(), 0.5, options...)
		if n := testing.AllocsPerRun(1000, func() { h.Record(t.Context(), 0.5, options...) }); n > 0 {
			t.Errorf("got %v allocations, want none", n)
		}
	})
}

func BenchmarkHistogram(b *testing.B) {
	tel, err := telemetry.New(b.Context(), config(), telemetry.Options{LogTo: new(safeBuffer)})
	if err != nil {
		b.Fatal(err)
	}
	h, _ := tel.Meter.Float64Histogram("durations", metric.WithUnit("s"))
	options := []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("path", "hit")))}
	b.ReportAllocs()
	for b.Loop() {
		h.Record(b.Context(), 0.5, options...)
	}
}
