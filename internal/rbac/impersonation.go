package rbac

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/sallyport/sallyport/access"
)

// Impersonation is the way in which the proxy may be the bindings' users. Both
// send the same headers; what differs is the rules of [ProxyRole].
type Impersonation string

const (
	// Legacy is the verb "impersonate": the proxy may do all that the users may.
	// Every Kubernetes has it.
	Legacy Impersonation = "legacy"
	// Constrained is KEP-5284: the proxy may be the users only to do what the
	// bindings' roles allow, and what every user may. It needs Kubernetes 1.36.
	Constrained Impersonation = "constrained"
)

// check refuses what is neither; the error wraps [access.ErrInvalid].
func (m Impersonation) check() error {
	if m != Legacy && m != Constrained {
		return fmt.Errorf("impersonation %.80q must be %q or %q: %w", string(m), Legacy, Constrained, access.ErrInvalid)
	}
	return nil
}

// verb is that of the rules by which the proxy may be a user.
func (m Impersonation) verb() string {
	if m == Constrained {
		return "impersonate:user-info"
	}
	return "impersonate"
}

// identityGroup is the API group of users and groups; extras are always in
// [extrasGroup].
func (m Impersonation) identityGroup() string {
	if m == Constrained {
		return extrasGroup
	}
	return ""
}

const extrasGroup = "authentication.k8s.io"

// onVerb begins the verbs of what the proxy may do as a user.
const onVerb = "impersonate-on:user-info:"

// plainVerb is one that can follow onVerb. A wildcard cannot: there it would be
// a verb named "*".
var plainVerb = regexp.MustCompile(`^[a-z]+$`)

// checkVerbs refuses roles that constrained impersonation cannot be limited to.
func (m Impersonation) checkVerbs(roles []access.Role) error {
	for _, role := range roles {
		for _, rule := range role.Rules {
			for _, verb := range rule.Verbs {
				if m == Constrained && !plainVerb.MatchString(verb) {
					return fmt.Errorf("role %s holds the verb %q, which constrained impersonation cannot name; only verbs of the letters a to z: %w", role.QualifiedName(), verb, access.ErrInvalid)
				}
			}
		}
	}
	return nil
}

// everybodys is what Kubernetes gives every authenticated user by its roles
// system:discovery, system:public-info-viewer and system:basic-user. No kubectl
// starts without.
func everybodys() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{Verbs: []string{"get"}, NonResourceURLs: []string{"/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"}},
		{Verbs: []string{"create"}, APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"selfsubjectaccessreviews", "selfsubjectrulesreviews"}},
		{Verbs: []string{"create"}, APIGroups: []string{extrasGroup}, Resources: []string{"selfsubjectreviews"}},
	}
}

// onRules are the rules for what may be done as a user, each once and in a
// steady order. Verbs that cannot be named are left out: only a role that
// somebody edited has them.
func onRules(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, r := range rules {
		r = *r.DeepCopy()
		r.Verbs = slices.DeleteFunc(r.Verbs, func(v string) bool { return !plainVerb.MatchString(v) })
		for i, verb := range r.Verbs {
			r.Verbs[i] = onVerb + verb
		}
		if len(r.Verbs) > 0 {
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(a, b rbacv1.PolicyRule) int { return strings.Compare(a.String(), b.String()) })
	return slices.CompactFunc(out, func(a, b rbacv1.PolicyRule) bool { return a.String() == b.String() })
}

// onRules is what the proxy may do as the users that are admitted: what their
// roles say, and what those still say that an update is about to remove, since
// they serve until their replacement is seen to work.
func (p *pass) onRules(admitted []access.DesiredBinding) []rbacv1.PolicyRule {
	if p.cfg.Impersonation != Constrained || len(admitted) == 0 {
		return nil
	}
	rules := everybodys()
	for _, b := range admitted {
		for _, role := range b.Roles {
			rules = append(rules, policyRules(role.Rules)...)
		}
		for name, o := range p.roles {
			if strings.HasPrefix(name, RoleObject(p.cfg.Prefix, b.Name, "")) && p.ours(o) {
				rules = append(rules, o.Rules...)
			}
		}
	}
	return onRules(rules)
}

// trim takes from the proxy what only roles allowed that are gone by now.
func (p *pass) trim(ctx context.Context) {
	if p.cfg.Impersonation != Constrained {
		return
	}
	if err := p.writeProxy(ctx, func(w *work) bool { return w.kept || w.admitted }); err != nil {
		p.again = true
		p.cfg.Logger.Warn("trimming the proxy's role failed, will try again", "error", err)
	}
}

// checkServed fails every binding if the API server does not know constrained
// impersonation: rules would be written, and every request refused. An error
// means that it could not be asked.
func (p *pass) checkServed(ctx context.Context) error {
	if p.cfg.Impersonation != Constrained || p.Reconciler.served {
		return nil
	}
	version, err := p.cfg.Client.Discovery().ServerVersion()
	if err != nil {
		return fmt.Errorf("ask the API server's version: %w", err)
	}
	major, _ := strconv.Atoi(version.Major)
	minor, _ := strconv.Atoi(strings.TrimRight(version.Minor, "+"))
	if p.Reconciler.served = major > 1 || major == 1 && minor >= 36; p.Reconciler.served {
		return nil
	}
	for _, w := range p.work {
		w.fail("the cluster is Kubernetes %s, and constrained impersonation needs 1.36; its owner can apply the result of `sallyport agent manifest --impersonation legacy ...`", version.GitVersion)
		w.final = true
	}
	return nil
}
