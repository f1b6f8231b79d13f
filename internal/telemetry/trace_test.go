package telemetry_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/telemetry"
)

// A peer's span is continued and a stranger's only linked to.
func TestTraceCrossesAHop(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	const stranger = "0af7651916cd43dd8448eb211c80319c"

	client := http.Header{"Traceparent": {"00-" + stranger + "-b7ad6b7169203331-01"}}
	ctx, first := telemetry.Start(t.Context(), tracer, "first", telemetry.Linked(client))
	hop := http.Header{"X-Trace": {"what a stranger sent under that name"}}
	telemetry.Inject(ctx, hop, "X-Trace")
	_, second := telemetry.Start(telemetry.Continue(t.Context(), hop, "X-Trace"), tracer, "second")
	second.End(fmt.Errorf("secret: %w", access.ErrForbidden))
	first.End(nil)

	ended := spans.Ended()
	if len(ended) != 2 {
		t.Fatalf("%d spans", len(ended))
	}
	inner, outer := ended[0], ended[1]
	if inner.Parent().SpanID() != outer.SpanContext().SpanID() || inner.SpanContext().TraceID() != outer.SpanContext().TraceID() {
		t.Error("the second span is not a part of the first")
	}
	if links := outer.Links(); len(links) != 1 || links[0].SpanContext.TraceID().String() != stranger || outer.SpanContext().TraceID().String() == stranger {
		t.Errorf("the stranger's trace is not linked to, or was taken: %v", links)
	}
	if text := fmt.Sprint(inner.Attributes(), inner.Status(), inner.Events()); strings.Contains(text, "secret") || !strings.Contains(text, "forbidden") {
		t.Errorf("the span holds the error's text, or not its kind: %s", text)
	}
}

func TestContinueIgnoresWhatIsNoTrace(t *testing.T) {
	for name, values := range map[string][]string{
		"none":     nil,
		"twice":    {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		"nonsense": {"hello"},
		"zero":     {"00-00000000000000000000000000000000-0000000000000000-01"},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			telemetry.Inject(telemetry.Continue(t.Context(), http.Header{"X-Trace": values}, "X-Trace"), h, "Out")
			if len(h) != 0 {
				t.Errorf("was taken for a trace: %v", h)
			}
		})
	}
}

func TestNoTracerCostsNothing(t *testing.T) {
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		_, span := telemetry.Start(ctx, nil, "x")
		span.Name("y")
		span.End(nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestKind(t *testing.T) {
	for want, err := range map[string]error{
		"invalid": access.ErrInvalid, "unauthenticated": access.ErrUnauthenticated, "forbidden": access.ErrForbidden,
		"not_found": access.ErrNotFound, "conflict": access.ErrConflict, "unavailable": access.ErrUnavailable, "internal": errors.New("what"),
	} {
		if got := telemetry.Kind(fmt.Errorf("because: %w", err)); got != want {
			t.Errorf("%v is %q, want %q", err, got, want)
		}
	}
}
