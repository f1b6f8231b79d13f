package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/sallyport/sallyport/access"
)

// value is one sample of the gateway's metrics: a counter's, a gauge's, or the
// number of a histogram's observations. Labels are "name=value".
func (r *rig) value(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	families, err := r.metrics.Gather()
	check(t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if hasLabels(m, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}

func hasLabels(m *dto.Metric, want []string) bool {
	have := map[string]bool{}
	for _, l := range m.GetLabel() {
		have[l.GetName()+"="+l.GetValue()] = true
	}
	for _, l := range want {
		if !have[l] {
			return false
		}
	}
	return true
}

func TestRequestsAreCounted(t *testing.T) {
	const total = "sallyport_gateway_requests_total"
	refuse := func(kind error) func(*rig) {
		return func(r *rig) {
			r.grant = func(access.Principal, access.ResourceID) (access.Grant, error) {
				return access.Grant{}, fmt.Errorf("no: %w", kind)
			}
		}
	}
	for _, tc := range []struct {
		name         string
		request      *http.Request
		prepare      func(*rig)
		labels       string // of the request
		step, reason string // of its refusal
	}{
		{name: "list", request: get("/api/v1/pods"), labels: "code=200 verb=list class=resource"},
		{name: "watch", request: get("/api/v1/pods?watch=true"), labels: "code=200 verb=watch class=resource"},
		{name: "a resource nobody has heard of", request: get("/apis/a.b/v1/whatever/x"), labels: "code=200 verb=get class=resource"},
		{name: "logs", request: get("/api/v1/namespaces/n/pods/p/log"), labels: "code=200 verb=get class=log"},
		{name: "service", request: get("/api/v1/namespaces/n/services/s/proxy/x"), labels: "code=200 verb=get class=proxy"},
		{name: "discovery", request: get("/apis"), labels: "code=200 verb=get class=nonresource"},
		{name: "odd status", request: get("/api/v1/pods"), labels: "code=aborted verb=list class=resource",
			prepare: func(r *rig) {
				r.answer = func(*http.Request) (*http.Response, error) { return answer(999, nil, ""), nil }
			}},
		{name: "address", request: get("/api//v1"), labels: "code=400 verb=unknown class=unknown", step: "address", reason: "invalid"},
		{name: "method", request: request("BREW", "/api/v1/pods", nil), labels: "code=400 verb=unknown class=unknown", step: "address", reason: "invalid"},
		{name: "token", request: get("/api/v1/pods"), labels: "code=401 verb=list class=resource", step: "authenticate", reason: "unauthenticated",
			prepare: func(r *rig) {
				r.authenticate = func(string) (access.Principal, error) { return access.Principal{}, access.ErrUnauthenticated }
			}},
		{name: "no binding", request: get("/api/v1/pods"), labels: "code=403 verb=list class=resource", step: "authorize", reason: "forbidden", prepare: refuse(access.ErrForbidden)},
		{name: "stale", request: get("/api/v1/pods"), labels: "code=503 verb=list class=resource", step: "authorize", reason: "unavailable", prepare: refuse(access.ErrUnavailable)},
		{name: "no agent", request: get("/api/v1/pods"), labels: "code=503 verb=list class=resource", step: "connect", reason: "unavailable",
			prepare: func(r *rig) {
				r.to = func(string) (http.RoundTripper, error) { return nil, access.ErrUnavailable }
			}},
		{name: "no record", request: get("/api/v1/pods"), labels: "code=503 verb=list class=resource", step: "audit", reason: "unavailable",
			prepare: func(r *rig) { r.auditErr = access.ErrUnavailable }},
		{name: "lost", request: get("/api/v1/pods"), labels: "code=502 verb=list class=resource", step: "forward", reason: "lost",
			prepare: func(r *rig) {
				r.answer = func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }
			}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			if tc.prepare != nil {
				tc.prepare(r)
			}
			r.do(tc.request)
			if n := r.value(t, total, strings.Fields(tc.labels)...); n != 1 {
				t.Errorf("%s of %s is %v, want 1", total, tc.labels, n)
			}
			if tc.step == "" {
				if n := testutilCount(t, r, "sallyport_gateway_refusals_total"); n != 0 {
					t.Errorf("%d refusals are counted", n)
				}
				return
			}
			if n := r.value(t, "sallyport_gateway_refusals_total", "step="+tc.step, "reason="+tc.reason); n != 1 {
				t.Errorf("refusals of step %s for %s: %v, want 1", tc.step, tc.reason, n)
			}
		})
	}
}

func testutilCount(t *testing.T, r *rig, name string) int {
	t.Helper()
	n, err := testutil.GatherAndCount(r.metrics, name)
	check(t, err)
	return n
}

// A request's time is parted in our own and the cluster's; what lasts as long
// as somebody wants is not among the whole times.
func TestTimesAreParted(t *testing.T) {
	r := newRig(t)
	r.do(request(http.MethodPost, "/api/v1/namespaces/n/pods", strings.NewReader("12345")))
	r.do(get("/api/v1/pods?watch=true"))
	for name, want := range map[string]float64{
		"sallyport_gateway_admission_duration_seconds": 2,
		"sallyport_gateway_cluster_duration_seconds":   2,
	} {
		if n := r.value(t, name); n != want {
			t.Errorf("%s has %v observations, want %v", name, n, want)
		}
	}
	if n := testutilCount(t, r, "sallyport_gateway_request_duration_seconds"); n != 1 {
		t.Errorf("whole times of %d verbs, want that of the create alone", n)
	}
	if n := r.value(t, "sallyport_gateway_bytes_total", "direction=sent"); n != float64(2*len(`{"ok":true}`)) {
		t.Errorf("%v bytes sent", n)
	}
}

func TestRevocationIsTimed(t *testing.T) {
	r := newRig(t)
	started := make(chan struct{})
	r.answer = func(req *http.Request) (*http.Response, error) {
		close(started)
		<-req.Context().Done()
		return nil, context.Cause(req.Context())
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.do(get("/api/v1/pods?watch=true"))
	}()
	receive(t, started, "the request")
	if n := r.value(t, "sallyport_gateway_inflight_requests", "kind=watch"); n != 1 {
		t.Errorf("%v watches in flight, want 1", n)
	}
	r.Revoke(bindingUID, "binding deleted")
	receive(t, done, "the end")
	for _, want := range []struct {
		name   string
		labels []string
		n      float64
	}{
		{"sallyport_gateway_revocations_total", nil, 1},
		{"sallyport_gateway_cut_requests_total", nil, 1},
		{"sallyport_gateway_cut_duration_seconds", nil, 1},
		{"sallyport_gateway_inflight_requests", []string{"kind=watch"}, 0},
	} {
		if n := r.value(t, want.name, want.labels...); n != want.n {
			t.Errorf("%s is %v, want %v", want.name, n, want.n)
		}
	}
}
