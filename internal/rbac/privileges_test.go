package rbac_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/rbac"
)

var update = flag.Bool("update", false, "write what the API server lists to testdata/accounts")

// What the API server itself says the two accounts may do, for each ceiling and
// in each kind of namespace, is what testdata/accounts has (checklist, items 4,
// 24 and 25): the same list as of `kubectl auth can-i --list`. -update
// writes it anew; then read the difference.
func TestItem04AccountsHoldOnlyThis(t *testing.T) {
	ctx := t.Context()
	catalogue, err := access.Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.apply(context.Background(), catalogue); err != nil {
			t.Error(err)
		}
	})
	proxy, err := dev.client(dev.as(dev.proxyToken))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, ceiling string
		mode          rbac.Impersonation
	}{
		{"mlworkload", "mlworkload", rbac.Legacy},
		{"microsoft-defender-operator", "microsoft-defender-operator", rbac.Legacy},
		{"all", "all", rbac.Legacy},
		{"mlworkload-constrained", "mlworkload", rbac.Constrained},
	} {
		t.Run(c.name, func(t *testing.T) {
			allowed := slices.DeleteFunc(slices.Clone(catalogue), func(r access.Role) bool { return c.ceiling != "all" && r.Name != c.ceiling })
			if err := dev.applyAs(ctx, c.mode, allowed); err != nil {
				t.Fatal(err)
			}
			r, b := runConfig(t, rbac.Config{Client: dev.reconciler, Impersonation: c.mode}), binding(t, "listed", "uid-listed", allowed[0].Name)
			r.want(nil, b)
			r.inForce(b)
			var got string
			err := until(ctx, func() (err error) {
				if got, err = listAccounts(ctx, proxy, dev.reconciler); err != nil {
					return err
				}
				for _, role := range catalogue { // what the ceiling had before is gone
					for _, rule := range role.Rules {
						line := ruleLine(rule.Verbs, rule.APIGroups, rule.Resources, rule.ResourceNames)
						if strings.Contains(got, line) != holds(allowed, line) {
							return fmt.Errorf("of the ceiling %s: %s", role.Name, line)
						}
					}
				}
				return nil
			})
			if err != nil {
				t.Fatalf("the API server's list is not of this ceiling: %v\n%s", err, got)
			}
			file := filepath.Join("testdata", "accounts", c.name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("the accounts may do something else than %s says (-update writes it):\n%s", file, got)
			}
		})
	}
}

func holds(roles []access.Role, line string) bool {
	return slices.ContainsFunc(roles, func(role access.Role) bool {
		return slices.ContainsFunc(role.Rules, func(r access.Rule) bool {
			return ruleLine(r.Verbs, r.APIGroups, r.Resources, r.ResourceNames) == line
		})
	})
}

// listAccounts asks as each account, in a namespace of anybody's, of Kubernetes'
// and of the agent's own. Where the answers are the same they are written once.
func listAccounts(ctx context.Context, proxy, reconciler kubernetes.Interface) (string, error) {
	var out strings.Builder
	for _, account := range []struct {
		name   string
		client kubernetes.Interface
	}{{access.ProxyAccount, proxy}, {access.ReconcilerAccount, reconciler}} {
		last := ""
		for _, namespace := range []string{"default", "kube-system", access.AgentNamespace} {
			answer, err := account.client.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx,
				&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}, metav1.CreateOptions{})
			if err != nil {
				return "", err
			}
			list := ruleLines(answer.Status)
			if list == last {
				fmt.Fprintf(&out, "%s in namespace %s: the same\n\n", account.name, namespace)
				continue
			}
			fmt.Fprintf(&out, "%s in namespace %s:\n%s\n", account.name, namespace, list)
			last = list
		}
	}
	return out.String(), nil
}

func ruleLines(status authorizationv1.SubjectRulesReviewStatus) string {
	var lines []string
	for _, r := range status.ResourceRules {
		lines = append(lines, ruleLine(r.Verbs, r.APIGroups, r.Resources, r.ResourceNames))
	}
	for _, r := range status.NonResourceRules {
		lines = append(lines, fmt.Sprintf("  %s of the paths %s\n", strings.Join(r.Verbs, " "), strings.Join(r.NonResourceURLs, " ")))
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "")
}

func ruleLine(verbs, groups, resources, names []string) string {
	in := make([]string, len(groups))
	for i, g := range groups {
		in[i] = fmt.Sprintf("%q", g)
	}
	line := fmt.Sprintf("  %s of %s in API group %s", strings.Join(verbs, " "), strings.Join(resources, " "), strings.Join(in, " "))
	if len(names) > 0 {
		line += ", only " + strings.Join(names, " ")
	}
	return line + "\n"
}
