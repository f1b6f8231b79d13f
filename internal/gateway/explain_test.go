package gateway_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
)

func review(allowed bool, reason string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		return answer(201, nil, fmt.Sprintf(`{"kind":"SelfSubjectAccessReview","status":{"allowed":%v,"reason":%q}}`, allowed, reason)), nil
	}
}

// TestExplain holds each step's outcome, and that the cluster is asked nothing
// unless all before it passed.
func TestExplain(t *testing.T) {
	forbidden := fmt.Errorf("no binding: %w", access.ErrForbidden)
	for name, c := range map[string]struct {
		prepare func(r *rig)
		steps   string // name and outcome of each
		why     string // of the last
		asked   bool
	}{
		"allowed": {func(r *rig) { r.answer = review(true, "RBAC: allowed") },
			"address passed, consent passed, agent passed, cluster passed", `the cluster says yes to the user of binding "b1": RBAC: allowed`, true},
		"refused by the cluster": {func(r *rig) { r.answer = review(false, "") },
			"address passed, consent passed, agent passed, cluster refused", `the cluster says no to the user of binding "b1"`, true},
		"from an address that is not served": {func(r *rig) { r.from = func(netip.Addr) bool { return false } },
			"address refused", "the source address 192.0.2.1 is not among those that this gateway serves (--allow-from)", false},
		"without consent": {func(r *rig) {
			r.grant = func(access.Principal, access.ResourceID) (access.Grant, error) { return access.Grant{}, forbidden }
		}, "address passed, consent refused", "no binding", false},
		"without an agent": {func(r *rig) {
			r.to = func(string) (http.RoundTripper, error) { return nil, access.ErrUnavailable }
		}, "address passed, consent passed, agent refused", "no agent of cluster c1 is connected", false},
		"withdrawn meanwhile": {func(r *rig) { r.holds = func(access.Grant) error { return forbidden } },
			"address passed, consent passed, agent passed, cluster refused", "no binding", false},
		"the cluster is silent": {func(r *rig) {
			r.answer = func(*http.Request) (*http.Response, error) { return nil, errors.New("EOF") }
		}, "address passed, consent passed, agent passed, cluster failed", "the cluster could not be asked: EOF", true},
		"the cluster lets nobody ask": {func(r *rig) {
			r.answer = func(*http.Request) (*http.Response, error) { return answer(403, nil, `{"kind":"Status"}`), nil }
		}, "address passed, consent passed, agent passed, cluster failed", "the cluster did not say: it answered a SelfSubjectAccessReview of the binding's user with status 403", true},
		"the cluster says nothing of use": {func(r *rig) {
			r.answer = func(*http.Request) (*http.Response, error) { return answer(201, nil, `{"status":`), nil }
		}, "address passed, consent passed, agent passed, cluster failed", "the cluster did not say: it answered a SelfSubjectAccessReview of the binding's user with status 201", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c.prepare(r)
			q := access.Question{Source: id(t, source), From: netip.MustParseAddr("192.0.2.1"), Deed: access.Deed{Verb: "list", Resource: "pods"}}
			requestID := uuid.NewString()
			e := r.Explain(t.Context(), access.Principal{Resource: q.Source}, id(t, cluster), q, requestID)
			var steps []string
			for _, s := range e.Steps {
				steps = append(steps, s.Name+" "+s.Outcome)
			}
			if got := strings.Join(steps, ", "); got != c.steps || e.ID != requestID {
				t.Errorf("steps %q, want %q", got, c.steps)
			}
			if got := e.Steps[len(e.Steps)-1].Why; got != c.why {
				t.Errorf("the last says %q, want %q", got, c.why)
			}
			if e.Allowed != (name == "allowed") {
				t.Errorf("allowed: %v", e.Allowed)
			}
			if asked := len(r.forwarded) > 0; asked != c.asked {
				t.Errorf("the cluster was asked: %v", asked)
			}
		})
	}
}

// TestExplainAsks holds the one request that an explanation sends to a cluster.
func TestExplainAsks(t *testing.T) {
	for name, c := range map[string]struct {
		deed access.Deed
		spec string
	}{
		"a resource": {access.Deed{Verb: "create", APIGroup: "g", Resource: "pods", Subresource: "exec", Namespace: "ns", Name: "web"},
			`{"resourceAttributes":{"verb":"create","group":"g","resource":"pods","subresource":"exec","namespace":"ns","name":"web"}}`},
		"a path": {access.Deed{Verb: "get", Path: "/metrics"}, `{"nonResourceAttributes":{"verb":"get","path":"/metrics"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			var body []byte
			r.answer = func(req *http.Request) (*http.Response, error) {
				var err error
				if body, err = io.ReadAll(req.Body); err != nil {
					t.Error(err)
				}
				return review(true, "")(req)
			}
			requestID := uuid.NewString()
			r.Explain(t.Context(), access.Principal{Resource: id(t, source)}, id(t, cluster), access.Question{Source: id(t, source), Deed: c.deed}, requestID)
			if len(r.forwarded) != 1 {
				t.Fatalf("%d requests", len(r.forwarded))
			}
			req := r.forwarded[0]
			if req.Method != http.MethodPost || req.URL.Path != "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" || req.URL.RawQuery != "" {
				t.Errorf("%s %s", req.Method, req.URL)
			}
			for header, want := range map[string]string{"Sallyport-Binding": "b1", "Sallyport-Binding-Uid": bindingUID, "Sallyport-Source": source, "Sallyport-Request-Id": requestID, "Authorization": ""} {
				if got := req.Header.Get(header); got != want {
					t.Errorf("%s: %q, want %q", header, got, want)
				}
			}
			var sent struct{ Spec json.RawMessage }
			if err := json.Unmarshal(body, &sent); err != nil || string(sent.Spec) != c.spec {
				t.Errorf("asks %s, %v; want %s", sent.Spec, err, c.spec)
			}
		})
	}
}

// TestCompletionSaysWhoRefused: an answer of ours after the decision is told
// from one of the cluster's with the same status.
func TestCompletionSaysWhoRefused(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(r *rig)
		reason  string
	}{
		"the cluster": {func(r *rig) {
			r.answer = func(*http.Request) (*http.Response, error) { return answer(403, nil, `{"kind":"Status"}`), nil }
		}, ""},
		"the gateway": {func(r *rig) {
			r.holds = func(access.Grant) error { return fmt.Errorf("withdrawn: %w", access.ErrForbidden) }
		}, "withdrawn: forbidden"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c.prepare(r)
			r.do(request("GET", "/api/v1/pods", nil))
			last := r.records[len(r.records)-1]
			if last.Stage != audit.Complete || last.Status != 403 || last.Reason != c.reason {
				t.Errorf("the completion says %d, %q", last.Status, last.Reason)
			}
		})
	}
}
