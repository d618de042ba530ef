package telemetry_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"introspectd/internal/telemetry"
)

// order is the messages of a log, in their order.
func order(log *safeBuffer) (messages []string) {
	for line := range strings.Lines(log.String()) {
		_, rest, _ := strings.Cut(line, `"msg":"`)
		message, _, _ := strings.Cut(rest, `"`)
		messages = append(messages, message)
	}
	return messages
}

func TestAccessLinesWaitForEachOther(t *testing.T) {
	tests := []struct {
		name string
		act  func(tel *telemetry.Telemetry)
		want []string
	}{
		{"a moment", func(tel *telemetry.Telemetry) {
			tel.Access.Info("a")
			time.Sleep(99 * time.Millisecond)
			tel.Access.Info("b")
		}, nil},
		{"not for longer", func(tel *telemetry.Telemetry) {
			tel.Access.Info("a")
			time.Sleep(99 * time.Millisecond)
			tel.Access.Info("b")
			time.Sleep(2 * time.Millisecond)
		}, []string{"a", "b"}},
		{"and again", func(tel *telemetry.Telemetry) {
			tel.Access.Info("a")
			time.Sleep(150 * time.Millisecond)
			tel.Access.Info("b")
			time.Sleep(101 * time.Millisecond)
			tel.Access.Info("c")
		}, []string{"a", "b"}},
		{"until another line comes, which is behind them", func(tel *telemetry.Telemetry) {
			tel.Access.Info("a")
			tel.Log.Info("b")
			tel.Access.Info("c")
		}, []string{"a", "b"}},
		{"unless they are urgent", func(tel *telemetry.Telemetry) {
			tel.Access.Info("a")
			tel.Access.Error("b")
		}, []string{"a", "b"}},
		{"also with attributes and groups", func(tel *telemetry.Telemetry) {
			tel.Access.With("k", "v").WithGroup("g").Info("a")
			tel.Log.With("k", "v").WithGroup("g").Info("b")
		}, []string{"a", "b"}},
		{"not at the end", func(tel *telemetry.Telemetry) {
			tel.Access.Info("a")
			_ = tel.Shutdown(context.Background())
		}, []string{"a"}},
		{"not after it", func(tel *telemetry.Telemetry) {
			_ = tel.Shutdown(context.Background())
			tel.Access.Info("a")
		}, []string{"a"}},
		{"nothing is lost without anybody to wait for", func(tel *telemetry.Telemetry) {
			tel.Access.Debug("below the level")
			time.Sleep(time.Second)
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tel, log := started(t, config())
				tt.act(tel)
				synctest.Wait()
				if got := order(log); !slices.Equal(got, tt.want) {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			})
		})
	}
}

func TestFewAccessLinesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel, log := started(t, config())
		const each, most = 1000, 32 << 10
		for range 40 {
			tel.Access.Info(strings.Repeat("x", each))
		}
		if got := len(log.String()); got < 40*each-most {
			t.Errorf("got %d bytes at once, want all but %d of %d and more", got, most, 40*each)
		}
		stop(t, tel)
		if got := len(order(log)); got != 40 {
			t.Errorf("got %d lines in the end, want 40", got)
		}
	})
}

func TestFailuresAreTraced(t *testing.T) {
	c := startCollector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", c.url+"/v1/traces")
	cfg := config()
	cfg.Traces.Sample, cfg.Traces.TrustIncoming = 0, true
	tel, _ := started(t, cfg)
	failure := trace.WithAttributes(attribute.String("error.type", "503"))
	for name, ctx := range map[string]context.Context{
		"alone": t.Context(), "in a trace that is not sampled": remoteParent(t.Context(), tel, "00"),
	} {
		_, plain := tel.Tracer.Start(ctx, "not "+name, trace.WithAttributes(attribute.String("http.route", "/auth")))
		plain.End()
		_, span := tel.Tracer.Start(ctx, name, failure, trace.WithTimestamp(time.Now().Add(-time.Second)))
		span.End()
	}
	stop(t, tel)
	slices.Sort(c.spans)
	if want := []string{"introspectd v1.2.3 alone", "introspectd v1.2.3 in a trace that is not sampled"}; !slices.Equal(c.spans, want) {
		t.Errorf("got %q, want %q", c.spans, want)
	}
}

// A request that is not traced pays for no span: its context stays its own.
func TestRequestsThatAreNotTracedGetNoSpan(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", startCollector(t).url+"/v1/traces")
	cfg := config()
	cfg.Traces.Sample = 0
	tel, _ := started(t, cfg)
	defer stop(t, tel)
	ctx := t.Context()
	within, span := tel.Tracer.Start(ctx, "server")
	defer span.End()
	if within != ctx || span.SpanContext().IsValid() || span.IsRecording() {
		t.Errorf("got the span %v, want none", span.SpanContext())
	}
	if got := testing.AllocsPerRun(100, func() {
		_, span := tel.Tracer.Start(ctx, "server")
		span.End()
	}); got > 0 {
		t.Errorf("got %v allocations, want none", got)
	}
}
