package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/tunnel"
)

const (
	// reviewPath is where an API server tells a user what he may do; the default
	// ClusterRole system:basic-user lets everybody ask.
	reviewPath = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
	// reviewTimeout bounds the cluster's answer.
	reviewTimeout = 10 * time.Second
	maxReview     = 1 << 20 // bytes of it
)

// Explain says what would become of a request of p, by the code that decides
// on requests and by the cluster's own answer to the binding's user. Nothing in
// the cluster is read or changed. The id is the question's in the cluster's
// audit log; that the caller may ask, and that it is recorded, is for who calls.
func (g *Gateway) Explain(ctx context.Context, p access.Principal, cluster access.ResourceID, q access.Question, id string) access.Explanation {
	e := access.Explanation{ID: id, Question: q}
	refused := func(name string, err error) access.Explanation {
		e.Steps = append(e.Steps, failedStep(name, err))
		return e
	}
	passed := func(name, format string, args ...any) {
		e.Steps = append(e.Steps, access.Step{Name: name, Outcome: access.Passed, Why: fmt.Sprintf(format, args...)})
	}
	if !q.From.IsValid() {
		passed("address", "not asked: no address was given")
	} else if err := g.serves(q.From); err != nil {
		return refused("address", err)
	} else {
		passed("address", "the gateway serves address %s", q.From)
	}
	grant, err := g.cfg.Authorizer.Grant(p, cluster, q.From)
	if err != nil {
		return refused("consent", err)
	}
	e.Binding, e.Roles = grant.Binding, grant.Roles
	passed("consent", "binding %q gives the source %s", grant.Binding, strings.Join(grant.Roles, ", "))
	to, err := g.cfg.To(grant.ClusterUID)
	if err != nil {
		return refused("agent", errNoAgent(cluster))
	}
	passed("agent", "the agent of cluster %s is connected", cluster.Name())
	answer, err := g.review(ctx, to, grant, q.Deed, id)
	if err != nil {
		return refused("cluster", err)
	}
	step := answer.step(grant.Binding)
	e.Steps = append(e.Steps, step)
	e.Allowed = step.Outcome == access.Passed
	return e
}

// failedStep words an error as a caller of the gateway would read it. One that
// is no refusal says nothing of what would become of a request.
func failedStep(name string, err error) access.Step {
	outcome := access.Failure
	for _, kind := range []error{access.ErrForbidden, access.ErrUnauthenticated, access.ErrNotFound, access.ErrInvalid, access.ErrUnavailable} {
		// Unavailable is what a request would be told as well, but for the last
		// step, which no request passes.
		if errors.Is(err, kind) && (kind != access.ErrUnavailable || name != "cluster") {
			outcome = access.Refused
		}
	}
	return access.Step{Name: name, Outcome: outcome, Why: access.Message(err)}
}

// selfReview is the part of a SelfSubjectAccessReview that is used
// (k8s.io/api/authorization/v1).
type selfReview struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Spec       reviewSpec    `json:"spec"`
	Status     *reviewStatus `json:"status,omitempty"`
}

type reviewSpec struct {
	Resource *resourceAttributes `json:"resourceAttributes,omitempty"`
	Path     *pathAttributes     `json:"nonResourceAttributes,omitempty"`
}

type resourceAttributes struct {
	Verb        string `json:"verb"`
	Group       string `json:"group"`
	Resource    string `json:"resource"`
	Subresource string `json:"subresource,omitempty"`
	Namespace   string `json:"namespace,omitempty"`
	Name        string `json:"name,omitempty"`
}

type pathAttributes struct {
	Verb string `json:"verb"`
	Path string `json:"path"`
}

type reviewStatus struct {
	Allowed         bool   `json:"allowed"`
	Reason          string `json:"reason"`
	EvaluationError string `json:"evaluationError"`
}

// review has the binding's user ask the API server what he may do.
func (g *Gateway) review(ctx context.Context, to http.RoundTripper, grant access.Grant, d access.Deed, id string) (reviewStatus, error) {
	ask := selfReview{APIVersion: "authorization.k8s.io/v1", Kind: "SelfSubjectAccessReview"}
	if d.Resource == "" {
		ask.Spec.Path = &pathAttributes{Verb: d.Verb, Path: d.Path}
	} else {
		ask.Spec.Resource = &resourceAttributes{d.Verb, d.APIGroup, d.Resource, d.Subresource, d.Namespace, d.Name}
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return reviewStatus{}, err
	}
	// Under the binding, as a request of the source: it ends with the consent.
	ctx, release := g.cfg.Live.Register(ctx, grant.BindingUID)
	defer release()
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	if err := g.cfg.Authorizer.Holds(grant); err != nil {
		return reviewStatus{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://cluster"+reviewPath, bytes.NewReader(body))
	if err != nil {
		return reviewStatus{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	tunnel.StampClaim(req.Header, grant, id)
	resp, err := to.RoundTrip(req)
	if err != nil {
		return reviewStatus{}, fmt.Errorf("the cluster could not be asked: %w: %w", err, access.ErrUnavailable)
	}
	defer resp.Body.Close()
	if err := tunnel.Refused(resp.Header); err != nil {
		return reviewStatus{}, err
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReview))
	var answer selfReview
	if err != nil || resp.StatusCode != http.StatusCreated || json.Unmarshal(text, &answer) != nil || answer.Status == nil {
		return reviewStatus{}, fmt.Errorf("the cluster did not say: it answered a SelfSubjectAccessReview of the binding's user with status %d: %w", resp.StatusCode, access.ErrUnavailable)
	}
	return *answer.Status, nil
}

// step words the cluster's answer.
func (s reviewStatus) step(binding string) access.Step {
	outcome, word := access.Refused, "no"
	if s.Allowed {
		outcome, word = access.Passed, "yes"
	}
	why := fmt.Sprintf("the cluster says %s to the user of binding %q", word, binding)
	if s.Reason != "" {
		why += ": " + access.Clip(s.Reason, 500)
	}
	if s.EvaluationError != "" {
		why += " (" + access.Clip(s.EvaluationError, 500) + ")"
	}
	return access.Step{Name: "cluster", Outcome: outcome, Why: why}
}
