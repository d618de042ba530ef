package telemetry

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// logHandler writes lines of the given format. Both escape line ends and ESC, so
// that a claim in a line can't begin a new one; text, which is for terminals,
// quotes everything that does not print. Lines below urgent may wait.
func logHandler(w *lines, format Format, level slog.Leveler, urgent slog.Level) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	if format == "text" {
		return lineHandler{slog.NewTextHandler(w, options), w, urgent}
	}
	return lineHandler{slog.NewJSONHandler(w, options), w, urgent}
}

// lineHandler adds the trace_id and span_id of the context that a line is
// logged with, inside the groups of the logger if it has any.
type lineHandler struct {
	slog.Handler
	lines  *lines
	urgent slog.Level
}

func (h lineHandler) Handle(ctx context.Context, r slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		r = r.Clone() // its attributes may be shared with the caller's
		r.AddAttrs(slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	if err := h.Handler.Handle(ctx, r); err != nil || r.Level < h.urgent {
		return err
	}
	return h.lines.flush()
}

func (h lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return lineHandler{h.Handler.WithAttrs(attrs), h.lines, h.urgent}
}

func (h lineHandler) WithGroup(name string) slog.Handler {
	return lineHandler{h.Handler.WithGroup(name), h.lines, h.urgent}
}

const (
	// longestWait is that of a line for others to be written with.
	longestWait = 100 * time.Millisecond
	// mostHeld is how much may wait, in bytes.
	mostHeld = 32 << 10
)

// lines writes log lines together, in their order. It is safe for concurrent
// use.
type lines struct {
	to io.Writer

	mu     sync.Mutex
	held   []byte
	later  *time.Timer // set while something is held
	closed bool
}

// Write takes one line. It returns the error of what was written before it, if
// that was now.
func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = append(l.held, line...)
	if l.closed || len(l.held) >= mostHeld {
		return len(line), l.writeHeld()
	}
	if l.later == nil {
		l.later = time.AfterFunc(longestWait, func() { _ = l.flush() }) // there is nobody to tell
	}
	return len(line), nil
}

// flush writes what is held.
func (l *lines) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writeHeld()
}

// close writes what is held, and has no line wait from now on.
func (l *lines) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return l.writeHeld()
}

func (l *lines) writeHeld() error {
	if l.later != nil {
		l.later.Stop()
		l.later = nil
	}
	if len(l.held) == 0 {
		return nil
	}
	_, err := l.to.Write(l.held)
	l.held = l.held[:0]
	return err
}
