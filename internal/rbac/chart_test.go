package rbac_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/rbac"
)

var chart = filepath.Join("..", "..", "deploy", "helm", "sallyport-agent")

// The chart is the manifest's own text behind a line that makes its data, and
// the roles are the shipped ones. Set UPDATE=1 to write both again.
func TestChartIsTheManifest(t *testing.T) {
	for _, c := range []struct{ from, to, head string }{
		{"manifest.yaml.tmpl", filepath.Join(chart, "templates", "agent.yaml"), "{{- include \"sallyport.data\" . -}}\n"},
		{filepath.Join("..", "..", "access", "roles.json"), filepath.Join(chart, "files", "roles.json"), ""},
	} {
		text, err := os.ReadFile(c.from)
		if err != nil {
			t.Fatal(err)
		}
		want := append([]byte(c.head), text...)
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(c.to, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(c.to); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not %s (%v); run again with UPDATE=1", c.to, c.from, err)
		}
	}
}

// helm runs the real one, which make build makes, with values on standard input.
func helm(t *testing.T, values []byte, args ...string) (string, error) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", "helm"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("run make build first: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	cmd.Stdin = bytes.NewReader(values)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("helm %s: %w: %s%s", args[0], err, &out, &stderr)
	}
	return out.String(), nil
}

// objects reads YAML documents by kind and name.
func objects(t *testing.T, text string) map[string]any {
	t.Helper()
	all := map[string]any{}
	for doc := range strings.SplitSeq("\n"+text, "\n---\n") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		if len(o) == 0 {
			continue
		}
		key := fmt.Sprint(o["kind"], " ", o["metadata"].(map[string]any)["name"])
		if all[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		all[key] = o
	}
	return all
}

func TestChartRendersTheManifest(t *testing.T) {
	catalogue, err := access.Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		edit func(*rbac.ManifestOptions)
	}{
		{"as is", func(*rbac.ManifestOptions) {}},
		{"enrolled, so without a token", func(o *rbac.ManifestOptions) { o.JoinToken = "" }},
		{"every role", func(o *rbac.ManifestOptions) { o.Roles = catalogue }},
		{"own prefix", func(o *rbac.ManifestOptions) { o.Prefix = "sp:ta" }},
		{"constrained", func(o *rbac.ManifestOptions) { o.Impersonation = rbac.Constrained }},
		{"IPv6 gateway, odd token", func(o *rbac.ManifestOptions) { o.Gateway, o.JoinToken = "[2001:db8::1]:443", `a"b\c:#{}<&>` }},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(t)
			c.edit(&o)
			text, err := rbac.Manifest(o)
			if err != nil {
				t.Fatal(err)
			}
			values, err := rbac.HelmValues(o)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := helm(t, values, "lint", "--strict", chart, "-f", "-"); err != nil {
				t.Error(err, out)
			}
			rendered, err := helm(t, values, "template", "agent", chart, "-f", "-", "--set", "createNamespace=true")
			if err != nil {
				t.Fatal(err)
			}
			got, want := objects(t, rendered), objects(t, string(text))
			for key := range want {
				if !reflect.DeepEqual(got[key], want[key]) {
					g, _ := json.Marshal(got[key])
					w, _ := json.Marshal(want[key])
					t.Errorf("%s of the chart\n%s\nis not the manifest's\n%s", key, g, w)
				}
			}
			if len(got) != len(want) {
				t.Errorf("the chart renders %d objects, the manifest %d", len(got), len(want))
			}
		})
	}
}

func TestChartValues(t *testing.T) {
	base, err := rbac.HelmValues(options(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, set, says string }{
		{"settings of the pods", `replicas=3,nodeSelector.disk=ssd,tolerations[0].operator=Exists,priorityClass=high,resources.limits.memory=1Gi`, ""},
		{"one proxy", `replicas=1`, ""},
		{"a Secret of one's own", `joinToken=,existingSecret=mine`, ""},
		{"short name of a role", `roles={mlworkload}`, ""},
		{"two secrets", `existingSecret=mine`, "give one of them"},
		{"unknown role", `roles={cluster-admin}`, "0 roles are called"},
		{"no role", `roles=null`, "roles"},
		{"CEL in prefix", `prefix=a' || true`, "prefix"},
		{"Kubernetes' prefix", `prefix=system:masters`, "prefix"},
		{"no way to impersonate", `impersonation=both`, "impersonation"},
		{"no port", `gateway=gateway`, "gateway"},
		{"short hash", `caHash=sha256:ab`, "caHash"},
		{"another resource", `clusterId=/subscriptions/x`, "clusterId"},
		{"misspelt", `replica=3`, "replica"},
		{"too many proxies", `replicas=4`, "replicas"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := helm(t, base, "template", "agent", chart, "-n", "sallyport-system", "-f", "-", "--set", c.set)
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Fatalf("error %v, want one with %q", err, c.says)
			}
			if err != nil {
				return
			}
			all := objects(t, out)
			if budget := all["PodDisruptionBudget sallyport-proxy"] != nil; budget == strings.Contains(c.set, "replicas=1") {
				t.Errorf("a budget for the proxies: %v", budget)
			}
			if all["Namespace sallyport-system"] != nil {
				t.Error("the chart makes the namespace unasked")
			}
		})
	}
	if _, err := helm(t, base, "template", "agent", chart, "-n", "elsewhere", "-f", "-"); err == nil || !strings.Contains(err.Error(), "hint: --namespace sallyport-system") {
		t.Errorf("in another namespace: %v", err)
	}
}
