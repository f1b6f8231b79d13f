package rbac

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/access"
)

// apply creates and repairs the pairs of one binding. Roles are independent:
// one that cannot be written does not hold up the next.
func (p *pass) apply(ctx context.Context, w *work) {
	if w.final {
		return
	}
	refused, transient := false, false
	for _, role := range w.binding.Roles {
		want := pairOf(p.cfg.Prefix, w.binding, role)
		wrote, err := p.applyRole(ctx, want.role)
		if err == nil {
			var also bool
			also, err = p.applyBinding(ctx, want.binding)
			wrote = wrote || also
		} else if have := p.bindings[want.binding.Name]; isForeign(err) && have != nil && p.ours(have) {
			// A binding of ours never points at a role that is not ours.
			if _, derr := p.delete(ctx, func(o metav1.Object) bool { return o.GetUID() == have.UID }); derr != nil {
				w.fail("%v", derr)
			}
		}
		if wrote {
			p.cfg.Logger.Info("wrote RBAC", "binding", w.binding.Name, "role", role.Name, "repair", w.progress.inForce)
			w.progress.inForce, w.progress.since = false, p.cfg.Now()
		}
		switch {
		case err == nil:
		case isEscalation(err):
			refused = true
			w.fail("role %s is above the ceiling that the cluster's owner set at install: the agent does not hold all of its rules and may not grant it; the owner can allow it by running `sallyport agent manifest --roles ...` with this role named and applying the result", role.QualifiedName())
		default:
			transient = true
			w.fail("role %s: %v", role.Name, err)
		}
	}
	if p.strangers(w) {
		transient = true
	}
	w.final = refused && p.refusedLongEnough(w.progress)
	if !refused {
		w.progress.refused = time.Time{}
	}
	if transient || refused && !w.final {
		p.again = true
	}
}

// refusedLongEnough starts the clock of a refusal and reports whether it ran out.
func (p *pass) refusedLongEnough(state *progress) bool {
	if state.refused.IsZero() {
		state.refused = p.cfg.Now()
	}
	return p.cfg.Now().Sub(state.refused) >= refusedFor
}

// strangers fails a binding for whose user somebody else wrote a
// ClusterRoleBinding of our names: what the source would get is then not what
// was consented to. It reports whether there is one.
func (p *pass) strangers(w *work) (found bool) {
	for name, o := range p.bindings {
		if strings.HasPrefix(name, RoleBindingObject(p.cfg.Prefix, w.binding.Name, "")) && !p.ours(o) && !p.wants(w, name) {
			w.fail("%v", foreignError{kind: "ClusterRoleBinding", name: name})
			found = true
		}
	}
	return found
}

// wants reports whether an object's name is one of a binding's own.
func (p *pass) wants(w *work, name string) bool {
	for _, role := range w.binding.Roles {
		if name == RoleObject(p.cfg.Prefix, w.binding.Name, role.Name) || name == RoleBindingObject(p.cfg.Prefix, w.binding.Name, role.Name) {
			return true
		}
	}
	return false
}

// applyRole reports whether it wrote.
func (p *pass) applyRole(ctx context.Context, want *rbacv1.ClusterRole) (wrote bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	api := p.cfg.Client.RbacV1().ClusterRoles()
	have := p.roles[want.Name]
	var got *rbacv1.ClusterRole
	switch {
	case have == nil:
		got, err = api.Create(ctx, want, metav1.CreateOptions{})
	case !p.ours(have):
		return false, foreignError{kind: "ClusterRole", name: want.Name}
	case sameRole(have, want):
		return false, nil
	default:
		next := want.DeepCopy()
		next.ObjectMeta = overwrite(have.ObjectMeta, want.ObjectMeta)
		got, err = api.Update(ctx, next, metav1.UpdateOptions{})
	}
	if err != nil {
		return false, fmt.Errorf("write ClusterRole %s: %w", want.Name, err)
	}
	p.roles[want.Name] = got
	p.owners[got.UID] = want.Annotations[annotationUID]
	return true, nil
}

// applyBinding reports whether it wrote.
func (p *pass) applyBinding(ctx context.Context, want *rbacv1.ClusterRoleBinding) (wrote bool, err error) {
	have := p.bindings[want.Name]
	if have != nil && !p.ours(have) {
		return false, foreignError{kind: "ClusterRoleBinding", name: want.Name}
	}
	if have != nil && have.RoleRef != want.RoleRef { // immutable
		if _, err := p.delete(ctx, func(o metav1.Object) bool { return o.GetUID() == have.UID }); err != nil {
			return false, err
		}
		have = nil
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	api := p.cfg.Client.RbacV1().ClusterRoleBindings()
	var got *rbacv1.ClusterRoleBinding
	switch {
	case have == nil:
		got, err = api.Create(ctx, want, metav1.CreateOptions{})
	case sameBinding(have, want):
		return false, nil
	default:
		next := want.DeepCopy()
		next.ObjectMeta = overwrite(have.ObjectMeta, want.ObjectMeta)
		got, err = api.Update(ctx, next, metav1.UpdateOptions{})
	}
	if err != nil {
		return false, fmt.Errorf("write ClusterRoleBinding %s: %w", want.Name, err)
	}
	p.bindings[want.Name] = got
	p.owners[got.UID] = want.Annotations[annotationUID]
	return true, nil
}

// admit lets the proxy be the bindings whose roles are complete, beside those
// it could be already. A binding that is new to it starts with no role of an
// earlier life.
func (p *pass) admit(ctx context.Context) {
	for _, w := range p.work {
		if w.kept || !w.applied {
			continue
		}
		if err := p.retire(ctx, w); err != nil {
			w.fail("%v", err)
			p.again = true
		}
	}
	err := p.writeProxy(ctx, func(w *work) bool { return w.kept || w.applied })
	for _, w := range p.work {
		switch {
		case err == nil:
			w.admitted = w.kept || w.applied
		case !w.final:
			w.fail("%v", err)
			p.again = true
		}
		if w.admitted && !w.kept && w.progress.inForce {
			w.progress.inForce, w.progress.since = false, p.cfg.Now()
		}
	}
}

// retire deletes the pairs of roles that a binding no longer has, and notes
// what only they gave.
func (p *pass) retire(ctx context.Context, w *work) error {
	stale := func(o metav1.Object) bool {
		return !p.wants(w, o.GetName()) &&
			(strings.HasPrefix(o.GetName(), RoleObject(p.cfg.Prefix, w.binding.Name, "")) ||
				strings.HasPrefix(o.GetName(), RoleBindingObject(p.cfg.Prefix, w.binding.Name, "")))
	}
	// A role that was refused stands in for nothing.
	stay := slices.DeleteFunc(slices.Clone(w.binding.Roles), func(role access.Role) bool {
		return p.roles[RoleObject(p.cfg.Prefix, w.binding.Name, role.Name)] == nil
	})
	var removed []removal
	for name, o := range p.bindings {
		if role := p.roles[o.RoleRef.Name]; role != nil && stale(o) && p.ours(o) {
			if only, ok := onlyIn(role.Rules, stay); ok {
				removed = append(removed, removal{binding: name, access: only})
			}
		}
	}
	n, err := p.delete(ctx, stale)
	if n > 0 {
		w.progress.removed = append(w.progress.removed, removed...)
		p.cfg.Logger.Info("removed RBAC of roles that the binding no longer has", "binding", w.binding.Name, "objects", n)
	}
	return err
}

// foreignError says that an object of our name is not ours.
type foreignError struct{ kind, name string }

func (e foreignError) Error() string {
	return fmt.Sprintf("%s %q exists and is not Sallyport's, so it is left alone; rename or delete it", e.kind, e.name)
}

func (foreignError) Unwrap() error { return access.ErrConflict }

func isForeign(err error) bool {
	_, ok := err.(foreignError)
	return ok
}

// isEscalation recognises the API server's refusal to let an account grant what
// it does not hold. The status has no field for it, only this text
// (k8s.io/kubernetes pkg/registry/rbac/validation).
func isEscalation(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "attempting to grant RBAC permissions not currently held")
}
