package access_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/sallyport/sallyport/access"
)

// TestRuleAllows holds Allows to what Kubernetes says of the same rule, in
// cases that are easy to get wrong.
func TestRuleAllows(t *testing.T) {
	rule := func(verbs, groups, resources string, names ...string) access.Rule {
		return access.Rule{Verbs: strings.Split(verbs, ","), APIGroups: strings.Split(groups, ","), Resources: strings.Split(resources, ","), ResourceNames: names}
	}
	urls := func(verbs, urls string) access.Rule {
		return access.Rule{Verbs: strings.Split(verbs, ","), NonResourceURLs: strings.Split(urls, ",")}
	}
	pods := access.Deed{Verb: "get", Resource: "pods", Namespace: "ns", Name: "web"}
	exec := access.Deed{Verb: "create", Resource: "pods", Subresource: "exec", Name: "web"}
	apps := access.Deed{Verb: "list", APIGroup: "apps", Resource: "deployments"}
	metrics := access.Deed{Verb: "get", Path: "/metrics/cadvisor"}
	for name, c := range map[string]struct {
		rule access.Rule
		deed access.Deed
		want bool
	}{
		"exactly":                           {rule("get", "", "pods"), pods, true},
		"another verb":                      {rule("list", "", "pods"), pods, false},
		"any verb":                          {rule("*", "", "pods"), pods, true},
		"another group":                     {rule("get", "apps", "pods"), pods, false},
		"any group":                         {rule("list", "*", "deployments"), apps, true},
		"the core group is not any":         {rule("list", "", "deployments"), apps, false},
		"any resource":                      {rule("get", "", "*"), pods, true},
		"another resource":                  {rule("get", "", "services,nodes"), pods, false},
		"one of several":                    {rule("list,get", ",apps", "services,pods"), pods, true},
		"its subresource":                   {rule("create", "", "pods/exec"), exec, true},
		"a resource is not its subresource": {rule("create", "", "pods"), exec, false},
		"nor the other way round":           {rule("get", "", "pods/exec"), pods, false},
		"pods/* is no wildcard":             {rule("create", "", "pods/*"), exec, false},
		"any resource's subresource":        {rule("create", "", "*/exec"), exec, true},
		"another subresource of any":        {rule("create", "", "*/log"), exec, false},
		"any resource and subresource":      {rule("create", "", "*"), exec, true},
		"its name":                          {rule("get", "", "pods", "web"), pods, true},
		"another name":                      {rule("get", "", "pods", "db"), pods, false},
		"a list has no name":                {rule("list", "apps", "deployments", "web"), apps, false},
		"a path":                            {urls("get", "/metrics/cadvisor"), metrics, true},
		"a path with a prefix":              {urls("get", "/metrics/*"), metrics, true},
		"any path":                          {urls("get", "*"), metrics, true},
		"a shorter path":                    {urls("get", "/metrics"), metrics, false},
		"a path by another verb":            {urls("post", "/metrics/*"), metrics, false},
		"resources are no paths":            {rule("*", "*", "*"), metrics, false},
		"paths are no resources":            {urls("*", "*"), pods, false},
		"no rule":                           {access.Rule{}, pods, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.rule.Allows(c.deed); got != c.want {
				t.Errorf("%+v allows %s: %v", c.rule, c.deed, got)
			}
			if got := kubernetesAllows(c.rule, c.deed); got != c.want {
				t.Errorf("Kubernetes says %v", got)
			}
		})
	}
}

// kubernetesAllows asks whether a rule covers the rule of that deed alone.
func kubernetesAllows(r access.Rule, d access.Deed) bool {
	asked := rbacv1.PolicyRule{Verbs: []string{d.Verb}}
	switch {
	case d.Resource == "":
		asked.NonResourceURLs = []string{d.Path}
	case d.Subresource != "":
		asked.Resources = []string{d.Resource + "/" + d.Subresource}
	default:
		asked.Resources = []string{d.Resource}
	}
	if d.Resource != "" {
		asked.APIGroups = []string{d.APIGroup}
	}
	if d.Name != "" {
		asked.ResourceNames = []string{d.Name}
	}
	covers, _ := validation.Covers([]rbacv1.PolicyRule{{
		Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames, NonResourceURLs: r.NonResourceURLs,
	}}, []rbacv1.PolicyRule{asked})
	return covers
}

// TestRuleAllowsAsKubernetes compares many rules and deeds of few words with
// what Kubernetes says.
func TestRuleAllowsAsKubernetes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	some := func(words ...string) []string {
		return slices.DeleteFunc(slices.Clone(words), func(string) bool { return random.IntN(3) > 0 })
	}
	one := func(words ...string) string { return words[random.IntN(len(words))] }
	allowed := 0
	const rounds = 20000
	for range rounds {
		r := access.Rule{
			Verbs: some("get", "list", "*"), APIGroups: some("", "apps", "*"), ResourceNames: some("a", "b"),
			Resources: some("pods", "pods/log", "*/log", "pods/*", "nodes", "*"),
		}
		if random.IntN(3) == 0 { // Kubernetes accepts no rule of both kinds
			r = access.Rule{Verbs: r.Verbs, NonResourceURLs: some("/a", "/a/*", "/*", "*")}
		}
		d := access.Deed{Verb: one("get", "list", "watch"), APIGroup: one("", "apps", "batch"), Resource: one("pods", "nodes"), Subresource: one("", "", "log"), Name: one("", "a", "c")}
		if random.IntN(3) == 0 {
			d = access.Deed{Verb: d.Verb, Path: one("/a", "/a/b", "/ab", "/b")}
		}
		got, want := r.Allows(d), kubernetesAllows(r, d)
		if got != want {
			t.Fatalf("%+v allows %+v: %v, Kubernetes says %v", r, d, got, want)
		}
		if got {
			allowed++
		}
	}
	if allowed < rounds/20 || allowed > rounds*19/20 {
		t.Errorf("%d of %d are allowed, which compares little", allowed, rounds)
	}
}

func TestRolesThatAllow(t *testing.T) {
	catalogue, err := access.Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	const workspace = "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"
	source, err := access.ParseResourceID(workspace)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		deed access.Deed
		want []string
	}{
		"two roles":                {access.Deed{Verb: "list", Resource: "services"}, []string{"mlworkload", "inference-v1"}},
		"one role":                 {access.Deed{Verb: "create", Resource: "pods", Subresource: "exec"}, []string{"inference-v1"}},
		"none":                     {access.Deed{Verb: "create", Resource: "pods", Subresource: "attach"}, nil},
		"another source's is none": {access.Deed{Verb: "get", Resource: "nodes", Subresource: "proxy"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var want []string
			for _, short := range c.want {
				want = append(want, "Microsoft.MachineLearningServices/workspaces/"+short)
			}
			if got := access.RolesThatAllow(catalogue, source, c.deed); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestCheckDeed(t *testing.T) {
	for name, c := range map[string]struct {
		deed access.Deed
		ok   bool
	}{
		"a resource":      {access.Deed{Verb: "get", Resource: "pods", Subresource: "log", Namespace: "ns", Name: "a:b"}, true},
		"a path":          {access.Deed{Verb: "get", Path: "/metrics"}, true},
		"no verb":         {access.Deed{Resource: "pods"}, false},
		"neither":         {access.Deed{Verb: "get"}, false},
		"both":            {access.Deed{Verb: "get", Resource: "pods", Path: "/a"}, false},
		"a relative path": {access.Deed{Verb: "get", Path: "metrics"}, false},
		"a path's name":   {access.Deed{Verb: "get", Path: "/metrics", Name: "a"}, false},
		"a slash":         {access.Deed{Verb: "get", Resource: "pods/log"}, false},
		"a line break":    {access.Deed{Verb: "get\n", Resource: "pods"}, false},
		"too long":        {access.Deed{Verb: "get", Resource: strings.Repeat("x", 254)}, false},
		"a long path":     {access.Deed{Verb: "get", Path: "/" + strings.Repeat("x", 1024)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := access.CheckDeed(c.deed); (err == nil) != c.ok || err != nil && !errors.Is(err, access.ErrInvalid) {
				t.Errorf("%v", err)
			}
		})
	}
}
