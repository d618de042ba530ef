package jwks_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"introspectd/internal/jwks"
)

func TestStateIsForPeople(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		odd := jwk("c", rsaKey().Public())
		s := &source{answer: ok(keySet(jwk("b", rsaKey().Public()).with("alg", "RS256"), jwk("a", p256Key().Public()), odd.with("use", "enc")))}
		k := fromSource(t, s)
		if got := k.State(); got.Usable || got.URL != jwksURL || got.Keys == nil {
			t.Errorf("State before the first fetch: got %+v, want the URL, an empty list, not usable", got)
		}
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		at := time.Now().UTC()
		time.Sleep(90 * time.Second)
		s.set(reply(http.StatusBadGateway, ""))
		if err := k.Refresh(t.Context()); err == nil {
			t.Fatal("Refresh: got no error, want one")
		}
		var got any
		if err := json.Unmarshal(must(json.Marshal(k.State())), &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"source": "jwks_url", "url": jwksURL, "usable": true, "age_seconds": 90.0,
			"fetched_at": at.Format(time.RFC3339Nano),
			"last_error": "fetching keys of issuer corp: status 502, expected 200",
			"skipped":    map[string]any{"wrong_use": 1.0},
			"keys": []any{
				map[string]any{"kid": "a", "kty": "EC", "curve": "P-256", "algs": []any{"ES256"}, "thumbprint": find(t, k, "a", "ES256").Thumbprint.String()},
				map[string]any{"kid": "b", "kty": "RSA", "bits": 2048.0, "algs": []any{"RS256"}, "thumbprint": find(t, k, "b", "RS256").Thumbprint.String()},
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("State as JSON (-want +got):\n%s", diff)
		}
	})
}

// gathered is what a scrape shows: name{labels} to value; histograms count.
func gathered(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			slices.Sort(labels)
			name := f.GetName() + "{" + strings.Join(labels, ",") + "}"
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return got
}

func TestMetricsHaveTheirFixedNames(t *testing.T) {
	registry := prometheus.NewRegistry()
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo())
	if err != nil {
		t.Fatal(err)
	}
	provider := sdk.NewMeterProvider(sdk.WithReader(exporter))
	defer func() { _ = provider.Shutdown(context.Background()) }()
	synctest.Test(t, func(t *testing.T) {
		good := keySet(jwk("a", rsaKey().Public()), jwk("b", p256Key().Public()), `null`, jwk("c", rsaKey().Public()).with("use", "enc"))
		s := &source{}
		s.set(func(r *http.Request) (*http.Response, error) {
			return ok(good, "Date", time.Now().Add(90*time.Second).UTC().Format(http.TimeFormat))(r)
		})
		k := fromSource(t, s, func(_ *jwks.Config, o *jwks.Options) { o.Meter = provider.Meter("test") })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			k.Run(ctx)
		}()
		synctest.Wait()
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, answer := range []func(*http.Request) (*http.Response, error){
			down, hang, reply(500, ""), ok(`{"keys":[]}`), ok(`x`), ok(strings.Repeat(" ", 1<<20+1)),
		} {
			s.set(answer)
			if err := k.Refresh(t.Context()); err == nil {
				t.Error("Refresh: got no error, want one")
			}
		}
		time.Sleep(5 * time.Second)
		got := gathered(t, registry)
		want := map[string]float64{
			"introspectd_jwks_fetches_total{issuer=corp,result=changed}":        1,
			"introspectd_jwks_fetches_total{issuer=corp,result=unchanged}":      1,
			"introspectd_jwks_fetches_total{issuer=corp,result=network}":        1,
			"introspectd_jwks_fetches_total{issuer=corp,result=timeout}":        1,
			"introspectd_jwks_fetches_total{issuer=corp,result=status}":         1,
			"introspectd_jwks_fetches_total{issuer=corp,result=no_usable_keys}": 1,
			"introspectd_jwks_fetches_total{issuer=corp,result=malformed}":      1,
			"introspectd_jwks_fetches_total{issuer=corp,result=too_large}":      1,
			"introspectd_jwks_fetch_duration_seconds{}":                         8,
			"introspectd_jwks_age_seconds{issuer=corp}":                         10,
			"introspectd_jwks_keys{issuer=corp}":                                2,
			"introspectd_jwks_skipped_keys_total{issuer=corp,reason=malformed}": 1,
			"introspectd_jwks_skipped_keys_total{issuer=corp,reason=wrong_use}": 1,
			"introspectd_clock_skew_seconds{issuer=corp}":                       90,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
		cancel()
		<-done
		for name := range gathered(t, registry) {
			if strings.Contains(name, "age") || strings.Contains(name, "jwks_keys") || strings.Contains(name, "skew") {
				t.Errorf("after Run: got gauge %s, want none", name)
			}
		}
	})
}

func TestLogTellsChangesNotPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
		s := &source{answer: ok(keySet(a))}
		k := fromSource(t, s, func(_ *jwks.Config, o *jwks.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		for _, step := range []struct {
			answer func(*http.Request) (*http.Response, error)
			want   string
		}{
			{ok(keySet(a)), "keys read"},
			{ok(keySet(a)), ""},
			{ok(keySet(a.with("x5t", "x"))), ""},
			{ok(keySet(a, b)), "keys changed"},
			{down, "keys can't be fetched"},
			{reply(500, ""), ""},
			{ok(keySet(a, b)), "keys can be fetched again"},
		} {
			log.Reset()
			s.set(step.answer)
			_ = k.Refresh(t.Context())
			lines := strings.Count(log.String(), "\n")
			if step.want == "" && lines > 0 || step.want != "" && (lines != 1 || !strings.Contains(log.String(), step.want)) {
				t.Errorf("log: got %q, want one line with %q", log.String(), step.want)
			}
		}
	})
}

// A reload that changes how keys are kept takes over what is held, with its
// age, and nothing of another issuer or source.
func TestKeysTakeOverWhatWasHeldBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := holding(t, keySet(jwk("a", p256Key().Public())))
		time.Sleep(time.Hour)
		after := func(change func(*jwks.Config, *jwks.Options)) *jwks.Keys {
			return fromSource(t, &source{answer: down}, func(c *jwks.Config, o *jwks.Options) { o.Before = before }, change)
		}
		for _, row := range []struct {
			name   string
			change func(*jwks.Config, *jwks.Options)
			ready  bool
		}{
			{"another refresh", func(c *jwks.Config, _ *jwks.Options) { c.Refresh = time.Minute }, true},
			{"kid_required", func(c *jwks.Config, _ *jwks.Options) { c.KidRequired = true }, true},
			{"max_stale below its age", func(c *jwks.Config, _ *jwks.Options) { c.MaxStale = 59 * time.Minute }, false},
			{"another address", func(c *jwks.Config, _ *jwks.Options) { c.JWKSURL += "x" }, false},
			{"another issuer", func(_ *jwks.Config, o *jwks.Options) { o.Issuer += "x" }, false},
		} {
			if got := after(row.change).Ready(); got != row.ready {
				t.Errorf("%s: got ready %t, want %t", row.name, got, row.ready)
			}
		}
	})
}
