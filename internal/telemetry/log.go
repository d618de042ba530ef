package telemetry

import (
	"context"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

// logHandler writes lines of the given format. Both escape line ends and ESC, so
// that a claim in a line can't begin a new one; text, which is for terminals,
// quotes everything that does not print.
func logHandler(w io.Writer, format Format, level slog.Leveler) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	if format == "text" {
		return spanHandler{slog.NewTextHandler(w, options)}
	}
	return spanHandler{slog.NewJSONHandler(w, options)}
}

// spanHandler adds the trace_id and span_id of the context that a line is
// logged with, inside the groups of the logger if it has any.
type spanHandler struct{ slog.Handler }

func (h spanHandler) Handle(ctx context.Context, r slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		r = r.Clone() // its attributes may be shared with the caller's
		r.AddAttrs(slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h spanHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return spanHandler{h.Handler.WithAttrs(attrs)}
}

func (h spanHandler) WithGroup(name string) slog.Handler {
	return spanHandler{h.Handler.WithGroup(name)}
}
