package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/sallyport/sallyport/access"
)

// traces sends spans to an OpenTelemetry collector. Without one, tracer is nil
// and nothing is made.
type traces struct {
	tracer   trace.Tracer
	provider *sdktrace.TracerProvider
}

// startTraces begins to export to endpoint, a collector's http(s) URL, or to
// where OpenTelemetry's own environment says; what else that says (headers,
// certificates, sampler, resource) holds for both.
func startTraces(ctx context.Context, service, endpoint string, log *slog.Logger) (*traces, error) {
	fromEnv := os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") + os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || os.Getenv("OTEL_TRACES_EXPORTER") == "none" || endpoint == "" && fromEnv == "" {
		return &traces{}, nil
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if protocol := os.Getenv(name); protocol != "" && protocol != "http/protobuf" {
			return nil, fmt.Errorf("%s is %q, and must be http/protobuf: %w", name, protocol, access.ErrInvalid)
		}
	}
	var options []otlptracehttp.Option
	if endpoint != "" {
		u, err := url.Parse(endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			return nil, fmt.Errorf("--otlp-endpoint must be http(s)://host:port: %w", access.ErrInvalid) // not quoted: it may hold a password
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = "/v1/traces"
		}
		options = append(options, otlptracehttp.WithEndpointURL(u.String()))
	}
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("exporter of traces: %w", err)
	}
	described, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", service), attribute.String("service.version", thisBuild().Version)),
		resource.WithFromEnv(), // last: OTEL_SERVICE_NAME holds
	)
	if err != nil {
		return nil, fmt.Errorf("resource of traces: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(quiet{exporter, log}), sdktrace.WithResource(described))
	return &traces{tracer: provider.Tracer("github.com/sallyport/sallyport"), provider: provider}, nil
}

// stop sends what is left, within a limit.
func (t *traces) stop() error {
	if t.provider == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("last traces: %w", err)
	}
	return nil
}

// quiet logs that an export failed, where the library would write to standard
// error through its one global handler.
type quiet struct {
	sdktrace.SpanExporter
	log *slog.Logger
}

// ExportSpans implements [sdktrace.SpanExporter].
func (q quiet) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := q.SpanExporter.ExportSpans(ctx, spans); err != nil {
		q.log.Warn("traces not exported", "spans", len(spans), "error", err)
	}
	return nil
}
