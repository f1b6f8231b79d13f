package rbac

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sallyport/sallyport/access"
)

// maxForeign bounds the list in a report; a real AKS cluster has objects of
// these names that are not ours.
const maxForeign = 100

// pass is one comparison of the desired state with a fresh list, and the writes
// that follow from it.
type pass struct {
	*Reconciler
	want  access.Desired
	known map[string]bool // uids of bindings and tombstones

	// What the cluster holds of our names, kept in step with our own writes.
	proxy    *rbacv1.ClusterRole // nil if it is missing
	roles    map[string]*rbacv1.ClusterRole
	bindings map[string]*rbacv1.ClusterRoleBinding

	foreign []string
	work    []*work
	again   bool // something is not as desired yet
}

// work is one binding's part of a pass.
type work struct {
	binding  access.DesiredBinding
	progress *progress
	kept     bool // the proxy could be this binding before the pass
	admitted bool // it can now
	applied  bool // all pairs are as desired
	problems []string
	final    bool
}

func (w *work) fail(format string, args ...any) {
	w.applied = false
	w.progress.inForce = false
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// pass returns the report, and whether nothing is left to be tried soon.
func (r *Reconciler) pass(ctx context.Context, want access.Desired, everything bool) (access.Report, bool) {
	p := &pass{Reconciler: r, want: want, known: map[string]bool{}}
	p.plan()
	err := p.read(ctx)
	if err == nil {
		err = p.checkServed(ctx)
	}
	if err != nil {
		r.cfg.Logger.Warn("reading the cluster's RBAC failed, will try again", "error", err)
		return p.unread(err), false
	}
	p.keep()
	narrowed := p.writeProxy(ctx, func(w *work) bool { return w.kept })
	if narrowed != nil {
		p.again = true
		r.cfg.Logger.Warn("narrowing the proxy's role failed, will try again", "error", narrowed)
	}
	removed := p.bury(ctx, narrowed == nil)
	for _, w := range p.work {
		p.apply(ctx, w)
	}
	p.admit(ctx)
	for _, w := range p.work {
		p.conclude(ctx, w, everything)
	}
	p.trim(ctx)
	return p.report(removed), !p.again
}

// plan pairs each binding with what is remembered of it, and forgets the rest.
func (p *pass) plan() {
	old := p.Reconciler.progress
	p.Reconciler.progress = map[string]*progress{}
	for _, b := range p.want.Bindings {
		state := old[b.UID]
		if state == nil || !sameContent(access.Desired{Bindings: []access.DesiredBinding{state.binding}}, access.Desired{Bindings: []access.DesiredBinding{b}}) {
			fresh := &progress{binding: b, since: p.cfg.Now()}
			if state != nil {
				fresh.removed = state.removed
			}
			state = fresh
		}
		w := &work{binding: b, progress: state, applied: true}
		p.work = append(p.work, w)
		if err := cmp.Or(checkBinding(b), p.cfg.Impersonation.checkVerbs(b.Roles)); err != nil {
			w.fail("refused: %v", err)
			w.final = true
			continue
		}
		p.Reconciler.progress[b.UID] = state
		p.known[b.UID] = true
	}
	for _, t := range p.want.Tombstones {
		if uidForm(t.UID) {
			p.known[t.UID] = true
		}
	}
}

// read lists what is there. The lists are consistent reads, not a cache.
func (p *pass) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	api := p.cfg.Client.RbacV1()
	roles, err := api.ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list ClusterRoles: %w", err)
	}
	bindings, err := api.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list ClusterRoleBindings: %w", err)
	}
	p.roles, p.bindings = map[string]*rbacv1.ClusterRole{}, map[string]*rbacv1.ClusterRoleBinding{}
	seen := map[types.UID]string{}
	for i := range roles.Items {
		o := &roles.Items[i]
		if o.Name == ProxyRole {
			p.proxy = o
		}
		if p.claim(o, "ClusterRole", seen) {
			p.roles[o.Name] = o
		}
	}
	for i := range bindings.Items {
		o := &bindings.Items[i]
		if p.claim(o, "ClusterRoleBinding", seen) {
			p.bindings[o.Name] = o
		}
	}
	p.owners = seen
	return nil
}

// claim decides whose an object is, remembers it if ours, and reports whether
// it bears one of our names.
func (p *pass) claim(o metav1.Object, kind string, seen map[types.UID]string) bool {
	named := p.named(o.GetName())
	marked := o.GetLabels()[labelManagedBy] == managedBy
	owner, remembered := p.owners[o.GetUID()]
	if !remembered && named && marked && p.known[o.GetAnnotations()[annotationUID]] {
		owner = o.GetAnnotations()[annotationUID]
	}
	if owner != "" {
		seen[o.GetUID()] = owner
	}
	if (named || marked) && !p.known[owner] && o.GetName() != ProxyRole {
		p.foreign = append(p.foreign, kind+" "+o.GetName())
	}
	return named
}

// ours reports whether an object is ours; only such are ever changed.
func (p *pass) ours(o metav1.Object) bool { return p.owners[o.GetUID()] != "" }

// keep notes which bindings the proxy's role holds as they are wanted.
func (p *pass) keep() {
	for _, w := range p.work {
		w.kept = !w.final && p.proxy != nil && admits(p.proxy.Rules, p.cfg.Impersonation, p.cfg.Prefix, w.binding)
	}
}

// writeProxy makes the proxy's role hold exactly the bindings that may be in.
func (p *pass) writeProxy(ctx context.Context, in func(*work) bool) error {
	var admitted []access.DesiredBinding
	for _, w := range p.work {
		if in(w) {
			admitted = append(admitted, w.binding)
		}
	}
	rules := append(proxyRules(p.cfg.Impersonation, p.cfg.Prefix, admitted), p.onRules(admitted)...)
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	api := p.cfg.Client.RbacV1().ClusterRoles()
	if p.proxy == nil {
		// Empty first: a create carries no name, so escalate, which is limited
		// to this one name, cannot allow it any rule.
		made, err := api.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: ProxyRole}}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create ClusterRole %s: %w", ProxyRole, err)
		}
		p.proxy = made
	}
	if equality.Semantic.DeepEqual(p.proxy.Rules, rules) && p.proxy.AggregationRule == nil {
		return nil
	}
	next := p.proxy.DeepCopy()
	next.Rules, next.AggregationRule = rules, nil
	updated, err := api.Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update ClusterRole %s: %w", ProxyRole, err)
	}
	p.proxy = updated
	return nil
}

// bury deletes what deleted bindings left, and returns the uids of which this
// pass's list shows nothing. A tombstone whose objects went in this pass is
// confirmed by the next one.
func (p *pass) bury(ctx context.Context, narrowed bool) (removed []string) {
	for _, t := range p.want.Tombstones {
		gone, err := p.delete(ctx, func(o metav1.Object) bool { return p.owners[o.GetUID()] == t.UID })
		if err != nil {
			p.cfg.Logger.Warn("removing a deleted binding failed, will try again", "binding", t.Name, "error", err)
		}
		if err == nil && gone == 0 && narrowed {
			removed = append(removed, t.UID)
			continue
		}
		p.again = true
	}
	return removed
}

// delete removes the matching objects of ours, bindings before roles, and
// returns how many there were. An object replaced since it was listed stays.
func (p *pass) delete(ctx context.Context, match func(metav1.Object) bool) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	var failed error
	n := 0
	remove := func(o metav1.Object, do func(context.Context, string, metav1.DeleteOptions) error) bool {
		if !p.ours(o) || !match(o) {
			return false
		}
		n++
		uid := o.GetUID()
		err := do(ctx, o.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) {
			failed = fmt.Errorf("delete %s: %w", o.GetName(), err)
			return false
		}
		return true
	}
	for name, o := range p.bindings {
		if remove(o, p.cfg.Client.RbacV1().ClusterRoleBindings().Delete) {
			delete(p.bindings, name)
		}
	}
	if failed != nil {
		return n, failed
	}
	for name, o := range p.roles {
		if remove(o, p.cfg.Client.RbacV1().ClusterRoles().Delete) {
			delete(p.roles, name)
		}
	}
	return n, failed
}

// report puts the pass into words.
func (p *pass) report(removed []string) access.Report {
	rep := access.Report{Removed: removed}
	for _, w := range p.work {
		var retired int64
		if w.progress.retired {
			retired = w.binding.Generation
		}
		rep.Bindings = append(rep.Bindings, access.BindingReport{
			UID:        w.binding.UID,
			Generation: w.binding.Generation,
			InForce:    w.progress.inForce,
			Retired:    retired,
			Final:      w.final,
			Message:    strings.Join(w.problems, "; "),
		})
	}
	slices.Sort(p.foreign)
	rep.Foreign = p.foreign[:min(len(p.foreign), maxForeign)]
	return rep
}

// unread is the report of a pass that could not see the cluster: what was in
// force is not known to have changed.
func (p *pass) unread(err error) access.Report {
	for _, w := range p.work {
		w.problems = append(w.problems, fmt.Sprintf("the cluster's RBAC cannot be read: %v", err))
	}
	return p.report(nil)
}
