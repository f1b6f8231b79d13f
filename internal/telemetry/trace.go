package telemetry

import (
	"context"
	"errors"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/sallyport/sallyport/access"
)

// MaxAttribute bounds, in bytes, an attribute that a caller chose.
const MaxAttribute = 256

// Span is a span under way, or, as its zero value, none: then its methods do
// nothing.
type Span struct{ span trace.Span }

// Start begins a span below the one of ctx. With a nil tracer it returns ctx
// and no span.
func Start(ctx context.Context, tracer trace.Tracer, name string, options ...trace.SpanStartOption) (context.Context, Span) {
	if tracer == nil {
		return ctx, Span{}
	}
	ctx, span := tracer.Start(ctx, name, options...)
	return ctx, Span{span}
}

// Recording reports whether attributes are worth making.
func (s Span) Recording() bool { return s.span != nil && s.span.IsRecording() }

// Set adds attributes.
func (s Span) Set(attributes ...attribute.KeyValue) {
	if s.span != nil {
		s.span.SetAttributes(attributes...)
	}
}

// Name replaces the span's name, once it is known what is done.
func (s Span) Name(name string) {
	if s.span != nil {
		s.span.SetName(name)
	}
}

// End ends the span. Of an error its kind is kept: a text may quote what the
// caller sent.
func (s Span) End(err error) {
	if s.span == nil {
		return
	}
	if err != nil {
		s.span.SetAttributes(attribute.String("error.type", Kind(err)))
		s.span.SetStatus(codes.Error, "")
	}
	s.span.End()
}

// Kind is the word for an error's kind in labels and attributes: one of
// access's six, or "internal".
func Kind(err error) string {
	for _, k := range []struct {
		kind error
		word string
	}{
		{access.ErrInvalid, "invalid"},
		{access.ErrUnauthenticated, "unauthenticated"},
		{access.ErrForbidden, "forbidden"},
		{access.ErrNotFound, "not_found"},
		{access.ErrConflict, "conflict"},
		{access.ErrUnavailable, "unavailable"},
	} {
		if errors.Is(err, k.kind) {
			return k.word
		}
	}
	return "internal"
}

// Attribute is a string that a caller chose, cut to a bound.
func Attribute(key, value string) attribute.KeyValue {
	return attribute.String(key, access.Clip(value, MaxAttribute))
}

// Inject writes the trace of ctx, if it has one, into the header of that name,
// in the form of W3C Trace Context's traceparent. It belongs behind an
// allow-list: what a caller had sent under that name must be gone.
func Inject(ctx context.Context, h http.Header, name string) {
	c := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, c)
	if v := c[traceparent]; v != "" {
		h.Set(name, v)
	}
}

// traceparent is the name that W3C Trace Context gives the header.
const traceparent = "traceparent"

// Continue returns ctx with the trace that a trusted peer wrote into the header
// of that name, so that the next span is a part of it.
func Continue(ctx context.Context, h http.Header, name string) context.Context {
	values := h.Values(name)
	if len(values) != 1 {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{traceparent: values[0]})
}

// Linked is for what an untrusted caller wrote into its traceparent: the next
// span links to that trace, and has an id and a sampling decision of its own.
func Linked(h http.Header) trace.SpanStartOption {
	remote := trace.SpanContextFromContext(Continue(context.Background(), h, traceparent))
	if !remote.IsValid() {
		return trace.WithLinks()
	}
	return trace.WithLinks(trace.Link{SpanContext: remote})
}
