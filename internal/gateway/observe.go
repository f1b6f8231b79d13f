package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/telemetry"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// observed is one request as metrics and traces see it. It belongs to the
// request's goroutine.
type observed struct {
	g      *Gateway
	answer *recorder
	labels labels
	cause  error // why the request was cut, if it was

	began, sent, answered time.Time
	body                  *upload // nil for a request without one
	leave                 func()

	whole, forward telemetry.Span
}

// observe begins with a request's arrival. The trace is our own; the one that a
// client says it is part of is linked to, for a client must not choose our ids
// nor what we sample.
func (g *Gateway) observe(answer *recorder, r *http.Request, requestID string) (*http.Request, *observed) {
	o := &observed{g: g, answer: answer, labels: labels{"unknown", "unknown"}, began: g.cfg.Now(), leave: func() {}}
	ctx := r.Context()
	if g.cfg.Tracer != nil {
		ctx, o.whole = telemetry.Start(ctx, g.cfg.Tracer, "gateway", trace.WithSpanKind(trace.SpanKindServer), telemetry.Linked(r.Header))
		o.whole.Set(attribute.String("sallyport.request.id", requestID), attribute.String("network.protocol.version", strconv.Itoa(r.ProtoMajor)))
		r = r.WithContext(ctx)
	}
	if r.Body != nil && r.Body != http.NoBody {
		out := *r
		o.body = &upload{ReadCloser: r.Body, size: r.ContentLength, first: r.ProtoMajor == 1, conn: http.NewResponseController(answer)}
		out.Body, r = o.body, &out
		answer.body = o.body
	}
	return r, o
}

// read notes what the request's address says.
func (o *observed) read(adm admission, method string) {
	o.labels = labelsOf(adm.info)
	if o.whole.Recording() {
		o.whole.Name("gateway " + o.labels.verb + " " + o.labels.class)
		o.whole.Set(telemetry.Attribute("http.request.method", method), telemetry.Attribute("url.path", adm.path))
	}
}

// admitted is called when the request is about to be forwarded.
func (o *observed) admitted(adm admission) {
	kind := "request"
	switch {
	case adm.upgrade:
		kind = "upgraded"
	case o.labels.long():
		kind = "watch"
	}
	gauge := o.g.metrics.inFlight.WithLabelValues(kind)
	gauge.Inc()
	o.leave = gauge.Dec
	if o.whole.Recording() {
		o.whole.Set(attribute.String("k8s.cluster.uid", adm.grant.ClusterUID), attribute.String("sallyport.binding.uid", adm.grant.BindingUID))
	}
}

// end counts the request, by what it was answered and why it ended.
func (o *observed) end() {
	o.body.end()
	m, now := o.g.metrics, o.g.cfg.Now()
	o.leave()
	code := "aborted"
	if o.answer.status >= 100 && o.answer.status < 600 { // a cluster may say anything
		code = strconv.Itoa(o.answer.status)
	}
	m.requests.WithLabelValues(code, o.labels.verb, o.labels.class).Inc()
	m.bytes.WithLabelValues("sent").Add(float64(o.answer.bytes - o.answer.received))
	m.bytes.WithLabelValues("received").Add(float64(o.answer.received + o.body.received()))
	if !o.answered.IsZero() {
		m.admission.Observe(o.sent.Sub(o.began).Seconds())
		m.cluster.Observe(o.answered.Sub(o.sent).Seconds())
		if !o.labels.long() {
			m.duration.WithLabelValues(o.labels.verb).Observe(now.Sub(o.began).Seconds())
		}
	}
	var cut cutError
	if errors.As(o.cause, &cut) {
		m.cutTime.Observe(now.Sub(cut.at).Seconds())
	}
	o.forward.End(o.cause)
	if o.whole.Recording() {
		o.whole.Set(attribute.Int("http.response.status_code", o.answer.status))
	}
	if o.cause == nil && o.answer.status >= http.StatusInternalServerError {
		o.cause = errServer
	}
	o.whole.End(o.cause)
}

var errServer = errors.New("answered with an error of the server")

// authenticate asks whose the token is.
func (g *Gateway) authenticate(ctx context.Context, token string) (access.Principal, error) {
	ctx, span := telemetry.Start(ctx, g.cfg.Tracer, "authenticate")
	p, err := g.cfg.Authenticate(ctx, token)
	span.End(err)
	return p, err
}

// authorize asks for the caller's grant.
func (g *Gateway) authorize(ctx context.Context, p access.Principal, cluster access.ResourceID, from netip.Addr) (access.Grant, error) {
	_, span := telemetry.Start(ctx, g.cfg.Tracer, "authorize")
	grant, err := g.cfg.Authorizer.Grant(p, cluster, from)
	span.End(err)
	return grant, err
}

// timed marks when a request leaves for the cluster and when its answer's head
// is here, and hands the trace on.
type timed struct {
	next http.RoundTripper
	seen *observed
}

// RoundTrip implements [http.RoundTripper]. The trace goes in a header of the
// tunnel's own: an application's traceparent passes as it is.
func (t timed) RoundTrip(r *http.Request) (*http.Response, error) {
	o := t.seen
	if o.g.cfg.Tracer != nil {
		var ctx context.Context
		ctx, o.forward = telemetry.Start(r.Context(), o.g.cfg.Tracer, "forward", trace.WithSpanKind(trace.SpanKindClient))
		r = r.Clone(ctx)
		telemetry.Inject(ctx, r.Header, tunnel.HeaderTrace)
	}
	o.sent = o.g.cfg.Now()
	resp, err := t.next.RoundTrip(r)
	if err == nil {
		o.answered = o.g.cfg.Now()
	}
	return resp, err
}
