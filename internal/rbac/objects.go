package rbac

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/access"
)

// checkBinding refuses names and uids that must not become part of an object's
// name, a rule or a header, whoever sent them (checklist, item 6). The error
// wraps [access.ErrInvalid].
func checkBinding(b access.DesiredBinding) error {
	if err := access.CheckBindingName(b.Name); err != nil {
		return err
	}
	if !uidForm(b.UID) {
		return fmt.Errorf("uid %.80q of binding %q must be 1 to 64 letters, digits or '-': %w", b.UID, b.Name, access.ErrInvalid)
	}
	if b.Source.IsZero() {
		return fmt.Errorf("binding %q has no source: %w", b.Name, access.ErrInvalid)
	}
	if len(b.Roles) == 0 {
		return fmt.Errorf("binding %q has no role: %w", b.Name, access.ErrInvalid)
	}
	for _, role := range b.Roles {
		if err := access.CheckRoleName(role.Name); err != nil {
			return err
		}
	}
	return nil
}

func uidForm(uid string) bool {
	for i := range len(uid) {
		c := uid[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	return len(uid) > 0 && len(uid) <= 64
}

// pair is the ClusterRole and the ClusterRoleBinding of one role of a binding.
type pair struct {
	role    *rbacv1.ClusterRole
	binding *rbacv1.ClusterRoleBinding
}

// pairOf writes out what the cluster should hold.
func pairOf(prefix string, b access.DesiredBinding, role access.Role) pair {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Name:   name,
			Labels: map[string]string{labelManagedBy: managedBy},
			Annotations: map[string]string{
				annotationUID:        b.UID,
				annotationSource:     b.Source.String(),
				annotationGeneration: strconv.FormatInt(b.Generation, 10),
			},
		}
	}
	roleName := RoleObject(prefix, b.Name, role.Name)
	return pair{
		role: &rbacv1.ClusterRole{ObjectMeta: meta(roleName), Rules: policyRules(role.Rules)},
		binding: &rbacv1.ClusterRoleBinding{
			ObjectMeta: meta(RoleBindingObject(prefix, b.Name, role.Name)),
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: access.User(prefix, b.Name)}},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: roleName},
		},
	}
}

func policyRules(rules []access.Rule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, r := range rules {
		out = append(out, rbacv1.PolicyRule{
			Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources,
			ResourceNames: r.ResourceNames, NonResourceURLs: r.NonResourceURLs,
		})
	}
	return out
}

// sameMeta compares the marks. Labels must be ours and no others, since a label
// can aggregate a ClusterRole into another; foreign annotations do no harm.
func sameMeta(have, want metav1.ObjectMeta) bool {
	for k, v := range want.Annotations {
		if have.Annotations[k] != v {
			return false
		}
	}
	return maps.Equal(have.Labels, want.Labels)
}

func sameRole(have, want *rbacv1.ClusterRole) bool {
	return sameMeta(have.ObjectMeta, want.ObjectMeta) && have.AggregationRule == nil &&
		equality.Semantic.DeepEqual(have.Rules, want.Rules)
}

func sameBinding(have, want *rbacv1.ClusterRoleBinding) bool {
	return sameMeta(have.ObjectMeta, want.ObjectMeta) && have.RoleRef == want.RoleRef &&
		equality.Semantic.DeepEqual(have.Subjects, want.Subjects)
}

// overwrite returns want with the identity of have, keeping annotations that
// are not ours, so that an update fails if the object changed since it was read.
func overwrite(have, want metav1.ObjectMeta) metav1.ObjectMeta {
	out := *have.DeepCopy()
	out.Labels = want.Labels
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	maps.Copy(out.Annotations, want.Annotations)
	return out
}

// proxyRules is what sallyport:proxy must hold to be the admitted bindings' users.
// Never a rule with an empty resourceNames list: to RBAC that means every name
// (checklist, item 24).
func proxyRules(mode Impersonation, prefix string, admitted []access.DesiredBinding) []rbacv1.PolicyRule {
	if len(admitted) == 0 {
		return nil
	}
	var users, uids, sources []string
	for _, b := range admitted {
		users = append(users, access.User(prefix, b.Name))
		uids = append(uids, b.UID)
		for _, source := range b.Actors() {
			sources = append(sources, source.String())
		}
	}
	if len(sources) == 0 { // a binding for all of a type, of which there are none: nobody claims to be this
		sources = append(sources, admitted[0].Source.String())
	}
	rule := func(group, resource string, names []string) rbacv1.PolicyRule {
		slices.Sort(names)
		return rbacv1.PolicyRule{
			Verbs: []string{mode.verb()}, APIGroups: []string{group}, Resources: []string{resource},
			ResourceNames: slices.Compact(names),
		}
	}
	return []rbacv1.PolicyRule{
		rule(mode.identityGroup(), "users", users),
		rule(mode.identityGroup(), "groups", []string{access.Group(prefix)}),
		rule(extrasGroup, "userextras/"+access.ExtraBindingUID, uids),
		rule(extrasGroup, "userextras/"+access.ExtraSource, sources),
	}
}

// admits reports whether rules let the proxy be all of b: its user, its uid
// and a source of it. That new sources of a binding have none yet is no reason
// to take it away from the others.
func admits(rules []rbacv1.PolicyRule, mode Impersonation, prefix string, b access.DesiredBinding) bool {
	for _, want := range proxyRules(mode, prefix, []access.DesiredBinding{b}) {
		if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool {
			return slices.Equal(r.APIGroups, want.APIGroups) && slices.Equal(r.Resources, want.Resources) &&
				slices.Equal(r.Verbs, want.Verbs) && slices.ContainsFunc(want.ResourceNames, func(name string) bool { return slices.Contains(r.ResourceNames, name) })
		}) {
			return false
		}
	}
	return true
}
