package rbac_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/rbac"
)

func service(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

func listServices(ctx context.Context, c kubernetes.Interface) error {
	_, err := c.CoreV1().Services("default").List(ctx, metav1.ListOptions{Limit: 1})
	return err
}

func listSecrets(ctx context.Context, c kubernetes.Interface) error {
	_, err := c.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{Limit: 1})
	return err
}

// objectsOf lists the names of a binding's objects.
func objectsOf(t *testing.T, name string) []string {
	t.Helper()
	var names []string
	roles, err := dev.admin.RbacV1().ClusterRoles().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range roles.Items {
		names = append(names, o.Name)
	}
	bindings, err := dev.admin.RbacV1().ClusterRoleBindings().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range bindings.Items {
		names = append(names, o.Name)
	}
	return slices.DeleteFunc(names, func(n string) bool {
		return !strings.HasPrefix(n, rbac.RoleObject(prefix, name, "")) && !strings.HasPrefix(n, rbac.RoleBindingObject(prefix, name, ""))
	})
}

func proxyRules(t *testing.T) []rbacv1.PolicyRule {
	t.Helper()
	role, err := dev.admin.RbacV1().ClusterRoles().Get(t.Context(), rbac.ProxyRole, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return role.Rules
}

func TestBindingLifecycle(t *testing.T) {
	ctx := t.Context()
	r := run(t)
	b := binding(t, "life-1", "uid-life-1", "mlworkload")
	start := time.Now()
	r.want(nil, b)
	r.inForce(b)
	t.Logf("in force after %s", time.Since(start))

	source := dev.source(t, b)
	if _, err := source.CoreV1().Services("default").Create(ctx, service("life"), metav1.CreateOptions{}); err != nil {
		t.Errorf("create a service as the source: %v", err)
	}
	mustForbid(t, "list secrets", listSecrets(ctx, source))

	start = time.Now()
	r.want([]access.Tombstone{{Name: b.Name, UID: b.UID}})
	r.until("removed", func(rep access.Report) bool { return slices.Contains(rep.Removed, b.UID) })
	t.Logf("removed after %s", time.Since(start))
	if left := objectsOf(t, b.Name); len(left) > 0 {
		t.Errorf("reported removed, but %v are left", left)
	}
	if err := until(ctx, func() error {
		if err := listServices(ctx, source); !apierrors.IsForbidden(err) {
			return fmt.Errorf("want forbidden, got %w", err)
		}
		return nil
	}); err != nil {
		t.Errorf("the proxy after the delete: %v", err)
	}
	if rules := proxyRules(t); len(rules) != 0 {
		t.Errorf("with no binding sallyport:proxy holds %v", rules)
	}
}

// An update keeps the old grant serving until the new one does, and a removed
// role is without effect by the time the report says so.
func TestUpdate(t *testing.T) {
	ctx := t.Context()
	r := run(t)
	b := binding(t, "upd-1", "uid-upd-1", "mlworkload")
	r.want(nil, b)
	r.inForce(b)
	source := dev.source(t, b)

	stop, served := make(chan struct{}), make(chan error, 1)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				t.Logf("%d requests served during the updates", n)
				served <- nil
				return
			default:
			}
			if err := listServices(ctx, source); err != nil {
				served <- err
				return
			}
			n++
		}
	}()
	for i, roles := range [][]string{{"mlworkload", "inference-v1"}, {"inference-v1"}, {"mlworkload"}} {
		b.Roles = binding(t, b.Name, b.UID, roles...).Roles
		b.Generation++
		start := time.Now()
		r.want(nil, b)
		r.inForce(b)
		t.Logf("%v in force after %s", roles, time.Since(start))
		if got, want := len(objectsOf(t, b.Name)), 2*len(roles); got != want {
			t.Errorf("step %d: %d objects, want %d", i, got, want)
		}
		err := listSecrets(ctx, source)
		if slices.Contains(roles, "inference-v1") {
			if err != nil {
				t.Errorf("step %d: list secrets: %v", i, err)
			}
		} else {
			mustForbid(t, "list secrets after the role was removed", err)
		}
	}
	close(stop)
	if err := <-served; err != nil {
		t.Errorf("a request failed during an update: %v", err)
	}
}

// A binding made again under an old name starts with nothing of the old one.
func TestNameUsedAgain(t *testing.T) {
	r := run(t)
	old := binding(t, "again-1", "uid-again-old", "inference-v1")
	r.want(nil, old)
	r.inForce(old)
	b := binding(t, "again-1", "uid-again-new", "mlworkload")
	r.want([]access.Tombstone{{Name: old.Name, UID: old.UID}}, b)
	r.inForce(b)
	r.until("old one removed", func(rep access.Report) bool { return slices.Contains(rep.Removed, old.UID) })
	if got := objectsOf(t, b.Name); len(got) != 2 {
		t.Errorf("objects: %v, want the pair of mlworkload", got)
	}
	mustForbid(t, "impersonate with the old uid", listServices(t.Context(), dev.source(t, old)))
	mustForbid(t, "what the old binding could", listSecrets(t.Context(), dev.source(t, b)))
}

func TestHandEditIsRepaired(t *testing.T) {
	ctx := t.Context()
	r := run(t)
	b := binding(t, "edit-1", "uid-edit-1", "mlworkload")
	r.want(nil, b)
	r.inForce(b)
	roles, bindings := dev.admin.RbacV1().ClusterRoles(), dev.admin.RbacV1().ClusterRoleBindings()
	roleName, bindingName := rbac.RoleObject(prefix, b.Name, "mlworkload"), rbac.RoleBindingObject(prefix, b.Name, "mlworkload")
	onRole := func(name string, change func(*rbacv1.ClusterRole)) func() error {
		return func() error {
			o, err := roles.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			change(o)
			_, err = roles.Update(ctx, o, metav1.UpdateOptions{})
			return err
		}
	}
	onBinding := func(change func(*rbacv1.ClusterRoleBinding)) func() error {
		return func() error {
			o, err := bindings.Get(ctx, bindingName, metav1.GetOptions{})
			if err != nil {
				return err
			}
			change(o)
			_, err = bindings.Update(ctx, o, metav1.UpdateOptions{})
			return err
		}
	}
	everything := []rbacv1.PolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}}
	for _, edit := range []struct {
		name string
		do   func() error
	}{
		{"role rules", onRole(roleName, func(o *rbacv1.ClusterRole) { o.Rules = everything })},
		{"role label removed", onRole(roleName, func(o *rbacv1.ClusterRole) { o.Labels = nil })},
		{"role label added", onRole(roleName, func(o *rbacv1.ClusterRole) { o.Labels["rbac.authorization.k8s.io/aggregate-to-view"] = "true" })},
		{"role annotations removed", onRole(roleName, func(o *rbacv1.ClusterRole) { o.Annotations = nil })},
		{"role stripped of all marks", onRole(roleName, func(o *rbacv1.ClusterRole) { o.Annotations, o.Labels, o.Rules = nil, nil, everything })},
		{"role deleted", func() error { return roles.Delete(ctx, roleName, metav1.DeleteOptions{}) }},
		{"binding subjects", onBinding(func(o *rbacv1.ClusterRoleBinding) { o.Subjects[0].Name = "mallory" })},
		{"binding deleted", func() error { return bindings.Delete(ctx, bindingName, metav1.DeleteOptions{}) }},
		{"binding roleRef", func() error {
			o, err := bindings.Get(ctx, bindingName, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if err := bindings.Delete(ctx, bindingName, metav1.DeleteOptions{}); err != nil {
				return err
			}
			o.ResourceVersion, o.UID, o.RoleRef.Name = "", "", "cluster-admin"
			_, err = bindings.Create(ctx, o, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				return nil // repaired in between
			}
			return err
		}},
		{"proxy rules widened", onRole(rbac.ProxyRole, func(o *rbacv1.ClusterRole) { o.Rules = everything })},
		{"proxy rules emptied", onRole(rbac.ProxyRole, func(o *rbacv1.ClusterRole) { o.Rules = nil })},
		{"proxy role deleted", func() error { return roles.Delete(ctx, rbac.ProxyRole, metav1.DeleteOptions{}) }},
	} {
		t.Run(edit.name, func(t *testing.T) {
			before := state(t, b)
			start := time.Now()
			if err := edit.do(); err != nil {
				t.Fatal(err)
			}
			if err := until(ctx, func() error {
				if now := state(t, b); now != before {
					return fmt.Errorf("state is\n%s\nwant\n%s", now, before)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			took := time.Since(start)
			t.Logf("repaired after %s", took)
			if took > 2*time.Second { // a second is promised; a busy machine gets two
				t.Errorf("repaired only after %s", took)
			}
		})
	}
	r.inForce(b)
}

// state spells out what should not change by a hand edit.
func state(t *testing.T, b access.DesiredBinding) string {
	t.Helper()
	var out []any
	for _, role := range b.Roles {
		o, err := dev.admin.RbacV1().ClusterRoles().Get(t.Context(), rbac.RoleObject(prefix, b.Name, role.Name), metav1.GetOptions{})
		out = append(out, apierrors.ReasonForError(err), o.Labels, o.Annotations, o.Rules)
		c, err := dev.admin.RbacV1().ClusterRoleBindings().Get(t.Context(), rbac.RoleBindingObject(prefix, b.Name, role.Name), metav1.GetOptions{})
		out = append(out, apierrors.ReasonForError(err), c.Labels, c.Annotations, c.Subjects, c.RoleRef)
	}
	p, err := dev.admin.RbacV1().ClusterRoles().Get(t.Context(), rbac.ProxyRole, metav1.GetOptions{})
	out = append(out, apierrors.ReasonForError(err), p.Rules)
	return fmt.Sprint(out...)
}

// What bears our name and is not ours is never touched; its binding is not in
// force, and the others are.
func TestForeignObjects(t *testing.T) {
	ctx := t.Context()
	roleOf := func(name string) string { return rbac.RoleObject(prefix, name, "mlworkload") }
	for _, c := range []struct{ name, create string }{
		{"for-role", "ClusterRole"},
		{"for-bind", "ClusterRoleBinding"},
		{"for-more", "ClusterRoleBinding of another role"},
	} {
		t.Run(c.create, func(t *testing.T) {
			b, good := binding(t, c.name, "uid-"+c.name, "mlworkload"), binding(t, c.name+"-good", "uid-good-"+c.name, "mlworkload")
			var object string
			read := func() (string, error) {
				if c.create == "ClusterRole" {
					o, err := dev.admin.RbacV1().ClusterRoles().Get(ctx, object, metav1.GetOptions{})
					return o.ResourceVersion, err
				}
				o, err := dev.admin.RbacV1().ClusterRoleBindings().Get(ctx, object, metav1.GetOptions{})
				return o.ResourceVersion, err
			}
			var err error
			switch c.create {
			case "ClusterRole":
				object = roleOf(c.name)
				_, err = dev.admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: object}}, metav1.CreateOptions{})
			default:
				object = rbac.RoleBindingObject(prefix, c.name, "mlworkload")
				if c.name == "for-more" {
					object = rbac.RoleBindingObject(prefix, c.name, "more")
				}
				_, err = dev.admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
					// Our label does not make it ours.
					ObjectMeta: metav1.ObjectMeta{Name: object, Labels: map[string]string{"app.kubernetes.io/managed-by": "sallyport"}, Annotations: map[string]string{"sallyport.dev/binding-uid": "somebody-elses"}},
					RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
				}, metav1.CreateOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				ctx := context.Background()
				err := dev.admin.RbacV1().ClusterRoleBindings().Delete(ctx, object, metav1.DeleteOptions{})
				err2 := dev.admin.RbacV1().ClusterRoles().Delete(ctx, object, metav1.DeleteOptions{})
				if err != nil && err2 != nil {
					t.Error(errors.Join(err, err2))
				}
			})
			before, err := read()
			if err != nil {
				t.Fatal(err)
			}
			r := run(t)
			r.want(nil, b, good)
			r.inForce(good)
			rep := r.until("foreign object reported", func(rep access.Report) bool { return len(rep.Foreign) > 0 })
			got := reportOf(rep, b)
			if got.InForce || got.Final || !strings.Contains(got.Message, object) {
				t.Errorf("binding report %+v, want not in force, not final, and a message that names %s", got, object)
			}
			if !slices.ContainsFunc(rep.Foreign, func(s string) bool { return strings.HasSuffix(s, " "+object) }) {
				t.Errorf("Foreign is %v, want %s in it", rep.Foreign, object)
			}
			mustForbid(t, "the proxy as a binding that is not in force", listServices(ctx, dev.source(t, b)))
			r.want([]access.Tombstone{{Name: b.Name, UID: b.UID}, {Name: good.Name, UID: good.UID}})
			r.until("removed", func(rep access.Report) bool { return len(rep.Removed) == 2 })
			if after, err := read(); err != nil || after != before {
				t.Errorf("the foreign object was touched: version %s, was %s (%v)", after, before, err)
			}
		})
	}
}

// A role that somebody put in the place of ours while nobody looked must not
// be what our binding gives.
func TestForeignRoleUnderOurBinding(t *testing.T) {
	ctx := t.Context()
	b := binding(t, "swap-1", "uid-swap-1", "mlworkload", "inference-v1")
	t.Run("before", func(t *testing.T) {
		r := run(t)
		r.want(nil, b)
		r.inForce(b)
	})
	roles, name := dev.admin.RbacV1().ClusterRoles(), rbac.RoleObject(prefix, b.Name, "mlworkload")
	if err := roles.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := roles.Create(ctx, clusterRole(name, killNodes), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Run("after", func(t *testing.T) {
		r := run(t)
		r.want(nil, b)
		rep := r.until("a report", func(access.Report) bool { return true })
		if got := reportOf(rep, b); got.InForce || !strings.Contains(got.Message, name) {
			t.Errorf("report %+v, want not in force and a message with %s", got, name)
		}
		_, err := dev.admin.RbacV1().ClusterRoleBindings().Get(ctx, rbac.RoleBindingObject(prefix, b.Name, "mlworkload"), metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			t.Errorf("our binding to the foreign role is still there (%v)", err)
		}
		// Once the owner has cleared it away, it comes right by itself.
		if err := roles.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.inForce(b)
	})
}

func TestRoleAboveCeiling(t *testing.T) {
	r := run(t)
	good := binding(t, "ceil-good", "uid-ceil-good", "mlworkload")
	bad := binding(t, "ceil-bad", "uid-ceil-bad", "mlworkload")
	bad.Roles = append(bad.Roles, access.Role{
		SourceResourceType: bad.Roles[0].SourceResourceType, Name: "node-killer",
		Rules: []access.Rule{{Verbs: []string{"delete"}, APIGroups: []string{""}, Resources: []string{"nodes"}}},
	})
	invalid := binding(t, "ceil-bad2", "uid *", "mlworkload")
	r.want(nil, bad, invalid, good)
	r.inForce(good)
	rep := r.until("final refusal", func(rep access.Report) bool { return reportOf(rep, bad).Final })
	got := reportOf(rep, bad)
	for _, word := range []string{"node-killer", "ceiling", "sallyport agent manifest --roles"} {
		if got.InForce || !strings.Contains(got.Message, word) {
			t.Errorf("report %+v, want not in force and a message with %q", got, word)
		}
	}
	if got := reportOf(rep, invalid); !got.Final || got.InForce {
		t.Errorf("binding with uid %q: report %+v, want final", invalid.UID, got)
	}

	// Once the owner allows it, it comes into force without being asked again.
	catalogue, err := access.Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.apply(t.Context(), append(catalogue, bad.Roles[1])); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.apply(context.Background(), catalogue); err != nil {
			t.Error(err)
		}
	})
	r.inForce(bad)
}

// Each shipped role comes into force under a ceiling of the seven.
func TestSevenRoles(t *testing.T) {
	r := run(t)
	catalogue, err := access.Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	var all []access.DesiredBinding
	for i, role := range catalogue {
		all = append(all, binding(t, fmt.Sprintf("seven-%d", i), fmt.Sprintf("uid-seven-%d", i), role.Name))
	}
	if len(all) != 7 {
		t.Fatalf("%d shipped roles, want 7", len(all))
	}
	start := time.Now()
	r.want(nil, all...)
	r.inForce(all...)
	t.Logf("seven bindings in force after %s", time.Since(start))

	// A reconciler that starts anew knows its objects again.
	fresh := run(t)
	var tombs []access.Tombstone
	for _, b := range all {
		tombs = append(tombs, access.Tombstone{Name: b.Name, UID: b.UID})
	}
	r.want(tombs)
	fresh.want(tombs)
	fresh.until("all removed", func(rep access.Report) bool { return len(rep.Removed) == 7 })
	if rules := proxyRules(t); len(rules) != 0 {
		t.Errorf("with no binding sallyport:proxy holds %v", rules)
	}
}
