package rbac

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/access"
)

// parallelReviews bounds the questions asked at once.
const parallelReviews = 4

// removal is something that only a deleted role gave.
type removal struct {
	binding string // name of the deleted ClusterRoleBinding
	access  authorizationv1.SubjectAccessReviewSpec
}

// conclude decides whether a binding is in force: written, and seen to have
// taken effect. Then, not before, the roles that an update removed go.
func (p *pass) conclude(ctx context.Context, w *work, everything bool) {
	if !p.known[w.binding.UID] {
		return // refused by plan; no object is its own
	}
	state := w.progress
	asked := false
	if w.applied && w.admitted && (!state.inForce || everything) {
		state.inForce = false
		if err := p.enforced(ctx, w); err != nil {
			w.problems = append(w.problems, err.Error())
			p.again = true
		} else {
			asked = true
		}
	}
	// A removal waits for its replacement to serve, but not for ever: it is a
	// revocation.
	waited := p.cfg.Now().Sub(state.since) > enforceLimit
	if w.kept && !asked && !state.inForce && !w.final && !waited {
		return
	}
	if err := p.retire(ctx, w); err != nil {
		w.fail("%v", err)
		p.again = true
		return
	}
	// Reported though the binding is not in force: whoever still acts by a role
	// that went must be cut.
	if err := p.withdrawn(ctx, w); err != nil {
		w.problems = append(w.problems, err.Error())
		p.again = true
		return
	}
	state.retired = true
	state.inForce = state.inForce || asked
}

// enforced asks the API server for one tuple of each rule, as the binding's
// user, and for the proxy's right to be that user.
func (p *pass) enforced(ctx context.Context, w *work) error {
	specs := p.proxyReviews(w.binding)
	for _, role := range w.binding.Roles {
		for _, rule := range role.Rules {
			specs = append(specs, p.asUser(w.binding, rule))
		}
	}
	for i, answer := range p.review(ctx, specs) {
		if answer.err != nil {
			return fmt.Errorf("written, but whether it is in force could not be asked: %w", answer.err)
		}
		if !answer.status.Allowed {
			return fmt.Errorf("written, but not in force after %s: the API server does not allow %s",
				p.cfg.Now().Sub(w.progress.since).Round(10*time.Millisecond), describe(specs[i]))
		}
	}
	return nil
}

// withdrawn asks whether deleted roles are without effect. Another grant of the
// same right, which is not ours to judge, shows by the binding that is named.
func (p *pass) withdrawn(ctx context.Context, w *work) error {
	w.progress.removed = slices.DeleteFunc(w.progress.removed, func(r removal) bool { return p.wants(w, r.binding) }) // given again
	specs := make([]authorizationv1.SubjectAccessReviewSpec, len(w.progress.removed))
	for i, r := range w.progress.removed {
		specs[i] = r.access
		specs[i].User, specs[i].Groups = access.User(p.cfg.Prefix, w.binding.Name), []string{access.Group(p.cfg.Prefix)}
	}
	for i, answer := range p.review(ctx, specs) {
		name := w.progress.removed[i].binding
		if answer.err != nil {
			return fmt.Errorf("whether %s is without effect could not be asked: %w", name, answer.err)
		}
		if answer.status.Allowed && strings.Contains(answer.status.Reason, fmt.Sprintf("%q", name)) {
			return fmt.Errorf("%s is deleted, but still in force: the API server allows %s", name, describe(specs[i]))
		}
	}
	w.progress.removed = nil
	return nil
}

type answer struct {
	status authorizationv1.SubjectAccessReviewStatus
	err    error
}

// review asks all questions, a few at a time, and returns the answers in order.
func (p *pass) review(ctx context.Context, specs []authorizationv1.SubjectAccessReviewSpec) []answer {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	answers := make([]answer, len(specs))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(parallelReviews, len(specs)) {
		workers.Go(func() {
			for i := range next {
				got, err := p.cfg.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx,
					&authorizationv1.SubjectAccessReview{Spec: specs[i]}, metav1.CreateOptions{})
				if answers[i].err = err; err == nil {
					answers[i].status = got.Status
				}
			}
		})
	}
	for i := range specs {
		next <- i
	}
	close(next)
	workers.Wait()
	return answers
}

// asUser is one tuple of a rule, asked as the binding's user and group only, so
// that what every authenticated user may do does not count.
func (p *pass) asUser(b access.DesiredBinding, rule access.Rule) authorizationv1.SubjectAccessReviewSpec {
	spec := tuples(policyRules([]access.Rule{rule}))[0]
	spec.User, spec.Groups = access.User(p.cfg.Prefix, b.Name), []string{access.Group(p.cfg.Prefix)}
	return spec
}

// proxyReviews are the four rights that the proxy needs to be a binding, and in
// constrained impersonation one tuple of each rule for what it may do as such.
func (p *pass) proxyReviews(b access.DesiredBinding) []authorizationv1.SubjectAccessReviewSpec {
	account := p.cfg.ProxyAccount
	var specs []authorizationv1.SubjectAccessReviewSpec
	asked := tuples(proxyRules(p.cfg.Impersonation, p.cfg.Prefix, []access.DesiredBinding{b}))
	for _, rule := range p.onRules([]access.DesiredBinding{b}) {
		asked = append(asked, tuples([]rbacv1.PolicyRule{rule})[0])
	}
	for _, spec := range asked {
		spec.User = "system:serviceaccount:" + account.Namespace + ":" + account.Name
		spec.Groups = []string{"system:serviceaccounts", "system:serviceaccounts:" + account.Namespace, "system:authenticated"}
		specs = append(specs, spec)
	}
	return specs
}

// tuples spells rules out, one request for each combination. A rule that
// matches nothing gives one request that will be denied.
func tuples(rules []rbacv1.PolicyRule) []authorizationv1.SubjectAccessReviewSpec {
	var out []authorizationv1.SubjectAccessReviewSpec
	for _, r := range rules {
		for _, verb := range orEmpty(r.Verbs) {
			for _, url := range r.NonResourceURLs {
				out = append(out, authorizationv1.SubjectAccessReviewSpec{
					NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: verb, Path: cmp.Or(strings.TrimSuffix(url, "*"), "/")},
				})
			}
			if len(r.NonResourceURLs) > 0 {
				continue
			}
			for _, group := range orEmpty(r.APIGroups) {
				for _, resource := range orEmpty(r.Resources) {
					for _, name := range orEmpty(r.ResourceNames) {
						resource, sub, _ := strings.Cut(resource, "/")
						out = append(out, authorizationv1.SubjectAccessReviewSpec{
							ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Group: group, Resource: resource, Subresource: sub, Name: name},
						})
					}
				}
			}
		}
	}
	return out
}

func orEmpty(list []string) []string {
	if len(list) == 0 {
		return []string{""}
	}
	return list
}

// onlyIn finds a request that the old rules allow and the roles that stay do
// not, if there is one.
func onlyIn(old []rbacv1.PolicyRule, stay []access.Role) (authorizationv1.SubjectAccessReviewSpec, bool) {
	for _, spec := range tuples(old) {
		covered := slices.ContainsFunc(stay, func(role access.Role) bool {
			return slices.ContainsFunc(role.Rules, func(r access.Rule) bool { return covers(r, spec) })
		})
		if !covered {
			return spec, true
		}
	}
	return authorizationv1.SubjectAccessReviewSpec{}, false
}

// covers may say yes too often, for wildcards, and so pass over a tuple; it
// must not say no to a request that the rule allows.
func covers(r access.Rule, spec authorizationv1.SubjectAccessReviewSpec) bool {
	has := func(list []string, want string) bool {
		return slices.Contains(list, want) || slices.Contains(list, "*")
	}
	if n := spec.NonResourceAttributes; n != nil {
		return len(r.NonResourceURLs) > 0 && has(r.Verbs, n.Verb)
	}
	a := spec.ResourceAttributes
	full := a.Resource
	if a.Subresource != "" {
		full += "/" + a.Subresource
	}
	return has(r.Verbs, a.Verb) && has(r.APIGroups, a.Group) &&
		(has(r.Resources, full) || slices.Contains(r.Resources, "*/"+a.Subresource))
}

func describe(spec authorizationv1.SubjectAccessReviewSpec) string {
	if n := spec.NonResourceAttributes; n != nil {
		return fmt.Sprintf("%q to %s %s", spec.User, n.Verb, n.Path)
	}
	a := spec.ResourceAttributes
	what := a.Resource
	if a.Subresource != "" {
		what += "/" + a.Subresource
	}
	if a.Name != "" {
		what += fmt.Sprintf(" %q", a.Name)
	}
	return fmt.Sprintf("%q to %s %s in API group %q", spec.User, a.Verb, what, a.Group)
}
