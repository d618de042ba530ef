package telemetry

import (
	"context"
	"math/rand/v2"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"
)

// tracer starts the spans that are worth it: those of somebody's trace, those
// that are drawn, and those of a failure, which are started with the attribute
// error.type. Of any other there is none, and its context stays as it is: to
// make one that nobody sees would be the dearest part of answering a request.
type tracer struct {
	embedded.Tracer
	sdk      trace.Tracer // nil for no exporter
	sampling *sampling
}

// Start implements trace.Tracer.
func (t *tracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	outer := trace.SpanFromContext(ctx)
	if t.sdk == nil {
		return ctx, outer
	}
	within := outer.SpanContext().IsValid()
	switch {
	case failed(options), !within && t.sampling.draws():
		ctx = context.WithValue(ctx, chosen{}, true)
	case !within:
		return ctx, outer
	}
	return t.sdk.Start(ctx, name, options...)
}

func failed(options []trace.SpanStartOption) bool {
	c := trace.NewSpanStartConfig(options...)
	for _, a := range c.Attributes() {
		if a.Key == errorType {
			return true
		}
	}
	return false
}

const errorType attribute.Key = "error.type"

// chosen marks the context of a span that is sampled already.
type chosen struct{}

// sampling is a sampler that a reload replaces.
type sampling struct {
	current atomic.Pointer[ruled]
}

// ruled is a sampler with the part of requests that it takes.
type ruled struct {
	sdktrace.Sampler
	sample float64
}

func (s *sampling) set(c TracesConfig) {
	r := &ruled{sdktrace.TraceIDRatioBased(c.Sample), c.Sample}
	if c.TrustIncoming {
		r.Sampler = sdktrace.ParentBased(r.Sampler)
	}
	s.current.Store(r)
}

// draws says whether a request that belongs to no trace begins one.
func (s *sampling) draws() bool { return rand.Float64() < s.current.Load().sample }

// ShouldSample implements sdktrace.Sampler.
func (s *sampling) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.ParentContext.Value(chosen{}) != nil {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample, Tracestate: trace.SpanContextFromContext(p.ParentContext).TraceState()}
	}
	return s.current.Load().ShouldSample(p)
}

// Description implements sdktrace.Sampler.
func (s *sampling) Description() string { return s.current.Load().Description() }
