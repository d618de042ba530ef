package telemetry

import (
	"context"
	"strings"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// environment is NAME=value each; of a name given twice the first counts.
type environment []string

func (e environment) value(name string) string {
	for _, entry := range e {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// exports tells whether a signal, TRACES or METRICS, is to be exported. An
// endpoint alone means OTLP.
func (e environment) exports(signal string) bool {
	if strings.EqualFold(e.value("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	if exporter := e.value("OTEL_" + signal + "_EXPORTER"); exporter != "" {
		return exporter != "none"
	}
	return e.value("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || e.value("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}

// spanExporter is nil where there is none.
func spanExporter(ctx context.Context, env environment) (sdktrace.SpanExporter, error) {
	if !env.exports("TRACES") {
		return nil, nil
	}
	return autoexport.NewSpanExporter(ctx)
}

// metricReader is nil where there is none. "prometheus" is none: its reader
// would open a listener of its own, and /metrics is there already.
func metricReader(ctx context.Context, env environment) (sdkmetric.Reader, error) {
	if !env.exports("METRICS") || env.value("OTEL_METRICS_EXPORTER") == "prometheus" {
		return nil, nil
	}
	return autoexport.NewMetricReader(ctx)
}
