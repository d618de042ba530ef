package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"introspectd/internal/revoke"
)

// outcome is what happened to one request: all that is logged and counted of
// it. It holds nothing of a token but its reference.
type outcome struct {
	status int
	code   string // the error that was answered
	note   string // for the operator
	id     string // of a request that panicked
	err    error  // why we could not tell

	caller, policy, profile string

	isVerdict bool
	active    bool
	issuer    string
	reason    string
	ref       string

	// Of an act that withdraws rights or gives them back: what it went by, and
	// the ids of the revocations.
	kind        revoke.Kind
	revocations []string
}

// handler answers one request and says what happened.
type handler func(http.ResponseWriter, *http.Request) outcome

// Observer turns outcomes into one log line, one span and a few counts each.
// It is safe for concurrent use.
type Observer struct {
	log        *slog.Logger
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	durations  metric.Float64Histogram
	verdicts   metric.Int64Counter
	left       metric.Int64Counter
	requestSet sync.Map // requestKey → []metric.RecordOption
	verdictSet sync.Map // verdictKey → []metric.AddOption
	gateways   rate.Sometimes
}

type requestKey struct {
	route, method string
	status        int
}

type verdictKey struct {
	issuer, reason string
	active         bool
}

// NewObserver returns an Observer that writes to the given outlets.
func NewObserver(log *slog.Logger, meter metric.Meter, tracer trace.Tracer, propagator propagation.TextMapPropagator) (*Observer, error) {
	o := &Observer{log: log, tracer: tracer, propagator: propagator, gateways: rate.Sometimes{Interval: time.Minute}}
	var err error
	if o.durations, err = meter.Float64Histogram("http.server.request.duration", metric.WithUnit("s"),
		metric.WithDescription("Duration of HTTP server requests."),
		metric.WithExplicitBucketBoundaries(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5)); err != nil {
		return nil, err
	}
	if o.verdicts, err = meter.Int64Counter("introspectd.verdicts",
		metric.WithDescription("Verdicts on tokens, as their askers were answered.")); err != nil {
		return nil, err
	}
	o.left, err = meter.Int64Counter("introspectd.headers_left_empty",
		metric.WithDescription("Identity headers answered empty though the token has the claim."))
	return o, err
}

// gin adapts a handler.
func (o *Observer) gin(route string, h handler) gin.HandlerFunc {
	return func(c *gin.Context) { o.serve(c.Writer, c.Request, route, h) }
}

// serve runs h within a span, and reports what happened; a panic is answered
// 500 and never as a verdict.
func (o *Observer) serve(w http.ResponseWriter, r *http.Request, route string, h handler) {
	start := time.Now()
	method := knownMethod(r.Method)
	ctx := o.propagator.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := o.tracer.Start(ctx, method+" "+route, trace.WithSpanKind(trace.SpanKindServer))
	defer span.End()
	out := o.guarded(w, r.WithContext(ctx), h)
	o.report(ctx, span, requestKey{route, method, out.status}, out, time.Since(start))
}

func (o *Observer) guarded(w http.ResponseWriter, r *http.Request, h handler) (out outcome) {
	defer func() {
		thrown := recover()
		if thrown == nil {
			return
		}
		if thrown == http.ErrAbortHandler { //nolint:errorlint // the sentinel itself is thrown
			panic(thrown)
		}
		out = o.panicked(r.Context(), thrown)
		clear(w.Header())
		w.Header().Set("Connection", "close") // a body may be unread, and net/http would wait for it
		respond(w, out.status, []byte(`{"error":"server_error","request_id":"`+out.id+`"}`))
	}()
	return h(w, r)
}

// run is serve for a request that doesn't come over HTTP: a panic is logged, and
// reported as status 500.
func (o *Observer) run(ctx context.Context, carrier propagation.TextMapCarrier, route, method string, work func(context.Context) outcome) {
	start := time.Now()
	method = knownMethod(method)
	ctx, span := o.tracer.Start(o.propagator.Extract(ctx, carrier), method+" "+route, trace.WithSpanKind(trace.SpanKindServer))
	defer span.End()
	out := o.survived(ctx, work)
	o.report(ctx, span, requestKey{route, method, out.status}, out, time.Since(start))
}

func (o *Observer) survived(ctx context.Context, work func(context.Context) outcome) (out outcome) {
	defer func() {
		if thrown := recover(); thrown != nil {
			out = o.panicked(ctx, thrown)
		}
	}()
	return work(ctx)
}

// panicked logs a panic under the id of its request.
func (o *Observer) panicked(ctx context.Context, thrown any) outcome {
	id := requestID(ctx)
	o.log.ErrorContext(ctx, "panic", "request_id", id, "panic", fmt.Sprint(thrown), "stack", string(debug.Stack()))
	return outcome{status: http.StatusInternalServerError, code: "server_error", note: "panic " + id, id: id}
}

// guard is for requests that are not reported, such as probes: a panic in one
// is answered and logged all the same.
func (o *Observer) guard(c *gin.Context) {
	o.guarded(c.Writer, c.Request, func(http.ResponseWriter, *http.Request) outcome {
		c.Next()
		return outcome{}
	})
}

// requestID names a request in an answer that says nothing else.
func requestID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		return sc.TraceID().String()
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	return hex.EncodeToString(id[:])
}

func (o *Observer) report(ctx context.Context, span trace.Span, key requestKey, out outcome, took time.Duration) {
	o.durations.Record(ctx, took.Seconds(), o.requestOptions(key)...)
	if out.isVerdict {
		o.verdicts.Add(ctx, 1, o.verdictOptions(verdictKey{out.issuer, out.reason, out.active})...)
	}
	if span.IsRecording() {
		span.SetAttributes(attribute.String("http.request.method", key.method), attribute.String("http.route", key.route),
			attribute.Int("http.response.status_code", key.status), attribute.String("introspectd.reason", out.reason))
		if key.status >= 500 {
			span.SetStatus(codes.Error, out.code)
		}
	}
	level := slog.LevelInfo
	if key.status >= 500 {
		level = slog.LevelError
	}
	if !o.log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 15)
	attrs = append(attrs,
		slog.String("route", key.route), slog.String("method", key.method), slog.Int("status", key.status),
		slog.Float64("duration_ms", float64(took.Microseconds())/1000))
	for _, a := range [...]struct{ key, value string }{
		{"error", out.code},
		{"note", out.note},
		{"caller", out.caller},
		{"policy", out.policy},
		{"profile", out.profile},
		{"issuer", out.issuer},
		{"reason", out.reason},
		{"token_ref", out.ref},
	} {
		if a.value != "" {
			attrs = append(attrs, slog.String(a.key, a.value))
		}
	}
	if out.isVerdict && out.err == nil {
		attrs = append(attrs, slog.Bool("active", out.active))
	}
	if out.err != nil {
		attrs = append(attrs, slog.String("cause", out.err.Error()))
	}
	o.log.LogAttrs(ctx, level, "request", attrs...)
}

func (o *Observer) requestOptions(k requestKey) []metric.RecordOption {
	if known, ok := o.requestSet.Load(k); ok {
		return known.([]metric.RecordOption)
	}
	options := []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(
		attribute.String("http.request.method", k.method), attribute.String("http.route", k.route),
		attribute.Int("http.response.status_code", k.status)))}
	o.requestSet.Store(k, options)
	return options
}

func (o *Observer) verdictOptions(k verdictKey) []metric.AddOption {
	if known, ok := o.verdictSet.Load(k); ok {
		return known.([]metric.AddOption)
	}
	issuer := k.issuer
	if issuer == "" {
		issuer = "unknown"
	}
	options := []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(
		attribute.String("issuer", issuer), attribute.String("active", strconv.FormatBool(k.active)), attribute.String("reason", k.reason)))}
	o.verdictSet.Store(k, options)
	return options
}

// knownMethod keeps a label's values few, whatever methods are sent.
func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return m
	}
	return "_OTHER"
}

func (o *Observer) headersLeft(policy string, n int) {
	if n > 0 {
		o.left.Add(context.Background(), int64(n), metric.WithAttributes(attribute.String("policy", policy)))
	}
}

// refusedGateway tells, once a minute, the line that would let a peer in.
func (o *Observer) refusedGateway(remote string) {
	o.gateways.Do(func() {
		host, _, err := net.SplitHostPort(remote)
		if err != nil {
			host = "unix"
		}
		o.log.Warn("a gateway was refused for its address; auth.allow_from can let it in",
			"peer", host, "line", "auth: {allow_from: ["+strconv.Quote(host)+"]}")
	})
}
