package httpapi_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// counts are a counter's values by its attributes.
func counts(t *testing.T, reader *sdkmetric.ManualReader, name string) map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					out[p.Attributes.Encoded(attribute.DefaultEncoder())] += p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					out[p.Attributes.Encoded(attribute.DefaultEncoder())] += int64(p.Count)
				}
			}
		}
	}
	return out
}

func TestMetrics(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	f := newFixture(t, func(s *setup) { s.meter = meters.Meter("") })
	good := mint(corp(), members{"scope": "read"})

	f.ask("any", "/introspect", good)
	f.ask("any", "/transform", good)
	f.ask("partner-desk", "/introspect", good)
	f.ask("any", "/introspect", "garbage")
	f.ask("any", "/introspect", mint(corp(), members{"exp": time.Now().Unix() - 100}))
	f.ask("any", "/introspect", mint(dark(), nil))
	f.get("/auth/strict", good)
	f.post("/introspect", form("token", good)) // nobody asks: no verdict
	f.get("/auth/lenient", mint(corp(), members{"client_id": "a\nb", "preferred_username": "a\rb"}))
	for n := range 30 {
		f.send(fmt.Sprintf("M%d", n), fmt.Sprintf("/%d", n), "")
	}

	t.Run("METRICS one verdict is counted once, under its reason", func(t *testing.T) {
		got := counts(t, reader, "introspectd.verdicts")
		want := map[string]int64{
			"active=true,issuer=corp,reason=":                    3,
			"active=false,issuer=corp,reason=unknown_issuer":     1,
			"active=false,issuer=unknown,reason=malformed":       1,
			"active=false,issuer=corp,reason=expired":            1,
			"active=false,issuer=dark,reason=keys_unavailable":   1,
			"active=false,issuer=corp,reason=insufficient_scope": 1,
		}
		for key, n := range want {
			if got[key] != n {
				t.Errorf("%s: got %d, want %d in %v", key, got[key], n, got)
			}
		}
		if len(got) != len(want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	t.Run("GW-05 headers left empty are counted", func(t *testing.T) {
		if got := counts(t, reader, "introspectd.headers_left_empty"); got["policy=lenient"] != 2 {
			t.Errorf("got %v, want 2 for lenient", got)
		}
	})
	t.Run("METRICS labels come from closed sets", func(t *testing.T) {
		got := counts(t, reader, "http.server.request.duration")
		if n := got["http.request.method=_OTHER,http.response.status_code=404,http.route="]; n != 30 {
			t.Errorf("got %d requests by unknown methods under one label, want 30 in %v", n, got)
		}
		if len(got) > 12 {
			t.Errorf("got %d label sets, want few: %v", len(got), slices.Sorted(maps.Keys(got)))
		}
	})
}
