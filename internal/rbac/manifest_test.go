package rbac_test

import (
	"bytes"
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/rbac"
)

func options(t testing.TB) rbac.ManifestOptions {
	t.Helper()
	id, err := access.ParseResourceID(clusterID)
	if err != nil {
		t.Fatal(err)
	}
	catalogue, err := access.Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	return rbac.ManifestOptions{
		Gateway: "gateway.test:443", ClusterID: id, CAHash: "sha256:" + strings.Repeat("ab", 32),
		JoinToken: "join-once", Image: "example/sallyport:v1", Roles: catalogue[1:2],
	}
}

// The file is what an owner reviews, so a change to it is reviewed as well.
// Set UPDATE=1 to write it again.
func TestManifestText(t *testing.T) {
	got, err := rbac.Manifest(options(t))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "manifest.yaml")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the manifest differs from %s; look at the difference, then run again with UPDATE=1", file)
	}
	if bytes.Contains(got, []byte(`"bind"`)) && !bytes.Contains(got, []byte(`no "bind"`)) {
		t.Error("the manifest grants bind")
	}
}

func TestItem25ManifestOptions(t *testing.T) {
	role := func(rule access.Rule) access.Role {
		return access.Role{SourceResourceType: "A.B/c", Name: "r", Rules: []access.Rule{rule}}
	}
	get := func(resource string) access.Rule {
		return access.Rule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{resource}}
	}
	for _, c := range []struct {
		name string
		edit func(*rbac.ManifestOptions)
		ok   bool
	}{
		{"as is", func(*rbac.ManifestOptions) {}, true},
		{"defaults", func(o *rbac.ManifestOptions) { o.Image, o.JoinToken = "", "" }, true},
		{"own prefix and namespace", func(o *rbac.ManifestOptions) { o.Prefix, o.Namespace = "sp:ta", "sp" }, true},
		{"IPv6 gateway", func(o *rbac.ManifestOptions) { o.Gateway = "[2001:db8::1]:443" }, true},
		{"no port", func(o *rbac.ManifestOptions) { o.Gateway = "gateway" }, false},
		{"port 0", func(o *rbac.ManifestOptions) { o.Gateway = "gateway:0" }, false},
		{"line break in gateway", func(o *rbac.ManifestOptions) { o.Gateway = "a\nb:1" }, false},
		{"flag as gateway", func(o *rbac.ManifestOptions) { o.Gateway = "--x:1" }, false},
		{"no cluster", func(o *rbac.ManifestOptions) { o.ClusterID = access.ResourceID{} }, false},
		{"no hash", func(o *rbac.ManifestOptions) { o.CAHash = "" }, false},
		{"short hash", func(o *rbac.ManifestOptions) { o.CAHash = "sha256:ab" }, false},
		{"quote in token", func(o *rbac.ManifestOptions) { o.JoinToken = "a\"b\\c:#{}" }, true},
		{"line break in token", func(o *rbac.ManifestOptions) { o.JoinToken = "a\nkind: x" }, false},
		{"line break in image", func(o *rbac.ManifestOptions) { o.Image = "a\n  command: [x]" }, false},
		{"CEL in prefix", func(o *rbac.ManifestOptions) { o.Prefix = "a') || true || ('" }, false},
		{"Kubernetes' prefix", func(o *rbac.ManifestOptions) { o.Prefix = "system:masters" }, false},
		{"CEL in namespace", func(o *rbac.ManifestOptions) { o.Namespace = "a' || '" }, false},
		{"no roles", func(o *rbac.ManifestOptions) { o.Roles = nil }, false},
		{"line break in role name", func(o *rbac.ManifestOptions) { o.Roles[0].Name = "a\n- verbs: ['*']" }, false},
		{"line break in source type", func(o *rbac.ManifestOptions) { o.Roles[0].SourceResourceType = "a\n- verbs: ['*']" }, false},
		{"space in verb", func(o *rbac.ManifestOptions) { o.Roles[0].Rules[0].Verbs = []string{"a b"} }, false},
		{"quote in verb", func(o *rbac.ManifestOptions) { o.Roles[0].Rules[0].Verbs = []string{`a"]`} }, true},
		{"harmless role of one's own", func(o *rbac.ManifestOptions) { o.Roles = []access.Role{role(get("pods"))} }, true},
		{"secrets", func(o *rbac.ManifestOptions) { o.Roles = []access.Role{role(get("secrets"))} }, false},
		{"secrets, with consent", func(o *rbac.ManifestOptions) { o.Roles, o.AllowRisky = []access.Role{role(get("secrets"))}, true }, true},
		{"nodes/proxy", func(o *rbac.ManifestOptions) { o.Roles = []access.Role{role(get("nodes/proxy"))} }, false},
		{"wildcard", func(o *rbac.ManifestOptions) { o.Roles = []access.Role{role(get("*"))} }, false},
		{"constrained", func(o *rbac.ManifestOptions) { o.Impersonation = rbac.Constrained }, true},
		{"no way to impersonate", func(o *rbac.ManifestOptions) { o.Impersonation = "both" }, false},
		{"constrained, a verb that cannot be named", func(o *rbac.ManifestOptions) {
			o.Impersonation, o.AllowRisky = rbac.Constrained, true
			o.Roles = []access.Role{role(access.Rule{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"pods"}})}
		}, false},
		{"impersonate", func(o *rbac.ManifestOptions) {
			o.Roles = []access.Role{role(access.Rule{Verbs: []string{"impersonate"}, APIGroups: []string{""}, Resources: []string{"users"}})}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(t)
			c.edit(&o)
			text, err := rbac.Manifest(o)
			if c.ok != (err == nil) || err != nil && !errors.Is(err, access.ErrInvalid) {
				t.Fatalf("error %v, want ok=%v", err, c.ok)
			}
			if err == nil {
				checkPods(t, text, o)
			}
		})
	}
}

// checkPods compares what a YAML parser reads with the options.
func checkPods(t *testing.T, text []byte, o rbac.ManifestOptions) {
	t.Helper()
	pods := 0
	for doc := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var d appsv1.Deployment
		var s corev1.Secret
		if yaml.Unmarshal(doc, &s) == nil && s.Kind == "Secret" && s.StringData["token"] != o.JoinToken {
			t.Errorf("join token reads as %q", s.StringData["token"])
		}
		if yaml.Unmarshal(doc, &d) != nil || d.Kind != "Deployment" {
			continue
		}
		pods++
		pod := d.Spec.Template.Spec
		args := strings.Join(pod.Containers[0].Args, "\n")
		want := "agent\n--gateway\n" + o.Gateway + "\n--cluster\n" + clusterID + "\n--ca-hash\n" + o.CAHash + "\n--prefix\n" + cmp.Or(o.Prefix, access.DefaultPrefix) + "\n--"
		if !strings.HasPrefix(args, want) || len(pod.Containers) != 1 {
			t.Errorf("%s: args %q, want them to begin with %q", d.Name, args, want)
		}
		if token := pod.AutomountServiceAccountToken; token == nil || *token {
			t.Errorf("%s mounts the default token", d.Name)
		}
		if joins := strings.Contains(args, "--join-token-file"); joins != (d.Name == "sallyport-reconciler" && o.JoinToken != "") {
			t.Errorf("%s: --join-token-file given: %v", d.Name, joins)
		}
	}
	if pods != 2 {
		t.Errorf("%d deployments, want 2", pods)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add("gateway:443", "join", "image", "aks:trustedaccess", "ns", "get")
	f.Add("a\nb:1", "a\"b", "i: j", "p'q", "n\n---\n", "* # x")
	f.Add("[::1]:1", "\u2028", "\x00", "ok:ok", "x", "{{.}}")
	f.Fuzz(func(t *testing.T, gateway, token, image, pre, namespace, verb string) {
		o := options(t)
		o.Gateway, o.JoinToken, o.Image, o.Prefix, o.Namespace = gateway, token, image, pre, namespace
		o.Roles[0].Rules[0].Verbs = []string{verb}
		o.AllowRisky = true
		text, err := rbac.Manifest(o)
		if err != nil {
			if !errors.Is(err, access.ErrInvalid) {
				t.Fatalf("error of no kind: %v", err) // it did not read back
			}
			return
		}
		checkPods(t, text, o)
	})
}
