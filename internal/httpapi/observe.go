package httpapi

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"introspectd/internal/introspect"
	"introspectd/internal/revoke"
)

// outcome is what happened to one request: all that is logged and counted of
// it. It tells nothing of a token but its reference.
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
	ref       introspect.Ref

	// Of an act that withdraws rights or gives them back: what it went by, and
	// the ids of the revocations.
	kind        revoke.Kind
	revocations []string
}

// handler answers one request and says what happened.
type handler func(http.ResponseWriter, *http.Request) outcome

// endpoint is a handler under the name that it is reported by, with what is
// made ready for that.
type endpoint struct {
	route   string
	handler handler
	// By method, see methodOf:
	spans  [len(methods)]string                            // names of spans
	labels [len(methods)]known[int, []metric.RecordOption] // of durations, by status
}

func newEndpoint(route string, h handler) *endpoint {
	e := &endpoint{route: route, handler: h}
	for n, method := range methods {
		e.spans[n] = method + " " + route
	}
	return e
}

// Observer turns outcomes into one log line and a few counts each, and a span
// where the request is traced.
// It is safe for concurrent use.
type Observer struct {
	log        *slog.Logger
	access     slog.Handler // of one line for each request
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	carriers   []string // the headers that a trace context comes in
	durations  metric.Float64Histogram
	left       metric.Int64Counter
	routes     known[string, *endpoint] // of what doesn't come over HTTP
	verdicts   known[verdictKey, *tally]
	lines      sync.Pool // of *[]slog.Attr
	gateways   rate.Sometimes
}

type verdictKey struct {
	issuer, reason string
	active         bool
}

// tally counts the verdicts of one kind.
type tally struct {
	atomic.Int64
	labels metric.ObserveOption
}

// NewObserver returns an Observer that writes to the given outlets; access gets a
// line for each request, log what else there is to tell.
func NewObserver(log, access *slog.Logger, meter metric.Meter, tracer trace.Tracer, propagator propagation.TextMapPropagator) (*Observer, error) {
	o := &Observer{log: log, access: access.Handler(), tracer: tracer, propagator: propagator, gateways: rate.Sometimes{Interval: time.Minute}}
	o.lines.New = func() any { return new(make([]slog.Attr, 0, 16)) }
	for _, field := range propagator.Fields() {
		o.carriers = append(o.carriers, http.CanonicalHeaderKey(field))
	}
	var err error
	if o.durations, err = meter.Float64Histogram("http.server.request.duration", metric.WithUnit("s"),
		metric.WithDescription("Duration of HTTP server requests."),
		metric.WithExplicitBucketBoundaries(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5)); err != nil {
		return nil, err
	}
	if _, err = meter.Int64ObservableCounter("introspectd.verdicts",
		metric.WithDescription("Verdicts on tokens, as their askers were answered."),
		metric.WithInt64Callback(func(_ context.Context, seen metric.Int64Observer) error {
			for _, t := range o.verdicts.all() {
				seen.Observe(t.Load(), t.labels)
			}
			return nil
		})); err != nil {
		return nil, err
	}
	o.left, err = meter.Int64Counter("introspectd.headers_left_empty",
		metric.WithDescription("Identity headers answered empty though the token has the claim."))
	return o, err
}

// gin adapts a handler.
func (o *Observer) gin(route string, h handler) gin.HandlerFunc {
	e := newEndpoint(route, h)
	return func(c *gin.Context) { o.serve(c.Writer, c.Request, e) }
}

// serve answers within a span, and reports what happened; a panic is answered
// 500 and never as a verdict.
func (o *Observer) serve(w http.ResponseWriter, r *http.Request, e *endpoint) {
	start, ctx := time.Now(), r.Context()
	if o.traced(r.Header) {
		ctx = o.propagator.Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	method := methodOf(r.Method)
	within, span := o.tracer.Start(ctx, e.spans[method], serverSpan...)
	defer func() { span.End() }()
	if within != r.Context() {
		r = r.WithContext(within)
	}
	out := o.guarded(w, r, e.handler)
	if out.status >= 500 && !span.IsRecording() {
		within, span = o.failed(ctx, e.spans[method], start, out.status)
	}
	o.report(within, span, e, method, &out, start)
}

// failed starts the span of a request that was not to have one, after the fact.
func (o *Observer) failed(ctx context.Context, name string, start time.Time, status int) (context.Context, trace.Span) {
	return o.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(start),
		trace.WithAttributes(attribute.String("error.type", strconv.Itoa(status))))
}

// traced says whether a request belongs to somebody's trace.
func (o *Observer) traced(h http.Header) bool {
	for _, name := range o.carriers {
		if len(h[name]) > 0 {
			return true
		}
	}
	return false
}

var serverSpan = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer)}

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
	e, n := o.routes.of(route, func(route string) *endpoint { return newEndpoint(route, nil) }), methodOf(method)
	ctx = o.propagator.Extract(ctx, carrier)
	within, span := o.tracer.Start(ctx, e.spans[n], serverSpan...)
	defer func() { span.End() }()
	out := o.survived(within, work)
	if out.status >= 500 && !span.IsRecording() {
		within, span = o.failed(ctx, e.spans[n], start, out.status)
	}
	o.report(within, span, e, n, &out, start)
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

func (o *Observer) report(ctx context.Context, span trace.Span, e *endpoint, method int, out *outcome, start time.Time) {
	end := time.Now()
	o.durations.Record(ctx, end.Sub(start).Seconds(), e.labels[method].of(out.status, func(status int) []metric.RecordOption {
		return []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(e.described(method, status)...))}
	})...)
	if out.isVerdict {
		o.verdicts.of(verdictKey{out.issuer, out.reason, out.active}, newTally).Add(1)
	}
	if span.IsRecording() {
		span.SetAttributes(append(e.described(method, out.status), attribute.String("introspectd.reason", out.reason))...)
		if out.status >= 500 {
			span.SetStatus(codes.Error, out.code)
		}
	}
	level := slog.LevelInfo
	if out.status >= 500 {
		level = slog.LevelError
	}
	if !o.access.Enabled(ctx, level) {
		return
	}
	attrs := o.lines.Get().(*[]slog.Attr)
	*attrs = out.appendTo(append((*attrs)[:0],
		slog.String("route", e.route), slog.String("method", methods[method]), slog.Int("status", out.status),
		slog.Float64("duration_ms", float64(end.Sub(start).Microseconds())/1000)))
	line := slog.NewRecord(end, level, "request", 0)
	// A group without a name is as good as its attributes, and is not copied.
	line.AddAttrs(slog.Attr{Value: slog.GroupValue(*attrs...)})
	_ = o.access.Handle(ctx, line) // as slog.Logger has it: there is nobody to tell
	o.lines.Put(attrs)
}

// appendTo appends what a log line says of an outcome.
func (o *outcome) appendTo(attrs []slog.Attr) []slog.Attr {
	for _, a := range [...]struct{ key, value string }{
		{"error", o.code},
		{"note", o.note},
		{"caller", o.caller},
		{"policy", o.policy},
		{"profile", o.profile},
		{"issuer", o.issuer},
		{"reason", o.reason},
		{"token_ref", o.ref.String()},
	} {
		if a.value != "" {
			attrs = append(attrs, slog.String(a.key, a.value))
		}
	}
	if o.isVerdict && o.err == nil {
		attrs = append(attrs, slog.Bool("active", o.active))
	}
	if o.err != nil {
		attrs = append(attrs, slog.String("cause", o.err.Error()))
	}
	return attrs
}

// described is a request in the words of OpenTelemetry's semantic conventions.
func (e *endpoint) described(method, status int) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("http.request.method", methods[method]), attribute.String("http.route", e.route),
		attribute.Int("http.response.status_code", status),
	}
}

func newTally(k verdictKey) *tally {
	return &tally{labels: metric.WithAttributeSet(attribute.NewSet(
		attribute.String("issuer", cmp.Or(k.issuer, "unknown")), attribute.String("active", strconv.FormatBool(k.active)), attribute.String("reason", k.reason)))}
}

// known holds what was made ready for keys of which there are few. A look at it
// takes no lock and allocates nothing. The zero value is empty.
type known[K comparable, V any] struct {
	made atomic.Pointer[map[K]V]
	mu   sync.Mutex
}

// of returns the value of key, which ready makes once.
func (k *known[K, V]) of(key K, ready func(K) V) V {
	if v, ok := k.all()[key]; ok {
		return v
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if v, ok := k.all()[key]; ok {
		return v
	}
	more, v := maps.Clone(k.all()), ready(key)
	if more == nil {
		more = make(map[K]V)
	}
	more[key] = v
	k.made.Store(&more)
	return v
}

// all must not be changed.
func (k *known[K, V]) all() map[K]V {
	if made := k.made.Load(); made != nil {
		return *made
	}
	return nil
}

// methods are those that labels name; the last stands for all others.
var methods = [...]string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
	http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace, "_OTHER",
}

// methodOf is the place of a method among methods: a label's values stay few,
// whatever is sent.
func methodOf(m string) int {
	if n := slices.Index(methods[:], m); n >= 0 {
		return n
	}
	return len(methods) - 1
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
