package sallyport_test

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	mutate = flag.Bool("mutate", false, "take each defence out in turn, and see its test fail (minutes)")
	slow   = flag.Bool("slow", false, "with -mutate: also those whose test runs a whole system (an hour)")
)

// mutation takes one defence out: in each file, old text becomes new, and then
// the test must fail. Whatever else the package has stays as it is.
type mutation struct {
	item  string // of the security checklist, or the decision that says what is defended
	edits []edit
	pkg   string
	test  string
}

type edit struct{ file, old, new string }

// one is a mutation of one place.
func one(item, file, old, new, pkg, test string) mutation {
	return mutation{item, []edit{{file, old, new}}, pkg, test}
}

// What the mutations name most: packages, and files.
const (
	gateway, impersonate, tunnel, authenticate = "./internal/gateway", "./internal/impersonate", "./internal/tunnel", "./internal/authenticate"
	forward, identity, proxy, claims           = "internal/gateway/forward.go", "internal/impersonate/identity.go", "internal/impersonate/proxy.go", "internal/authenticate/claims.go"
)

// mutations are one or more of each item that is held by our own code. They are
// applied by the go command's -overlay, so the tree is never touched.
func mutations() (quick, whole []mutation) {
	return slices.Concat(requestMutations(), consentMutations(), agentMutations(), limitMutations(), recordMutations(), hostMutations()), systemMutations()
}

// TestMutations holds each mutation to the code it is of; with -mutate it also
// applies it, and the test that is named must then fail.
func TestMutations(t *testing.T) {
	quick, whole := mutations()
	for i, m := range slices.Concat(quick, whole) {
		t.Run(m.item+" "+m.test, func(t *testing.T) {
			mutated := map[string]string{}
			for _, e := range m.edits {
				text, ok := mutated[e.file]
				if !ok {
					b, err := os.ReadFile(e.file)
					if err != nil {
						t.Fatal(err)
					}
					text = string(b)
				}
				if n := strings.Count(text, e.old); n != 1 {
					t.Fatalf("%s has %q %d times; a mutation must name its place", e.file, e.old, n)
				}
				mutated[e.file] = strings.Replace(text, e.old, e.new, 1)
			}
			if *mutate && i >= len(quick) && !*slow {
				t.Skip("its test runs a whole system: add -slow")
			}
			if *mutate {
				t.Parallel()
				mustFail(t, m, mutated)
			}
		})
	}
}

// mustFail runs the mutation's test on a tree in which those files have other
// texts.
func mustFail(t *testing.T, m mutation, mutated map[string]string) {
	dir, replace := t.TempDir(), map[string]string{}
	for file, text := range mutated {
		at := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		whole, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		replace[whole] = at
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "test", "-timeout", "5m", "-overlay", file, "-run", "^"+strings.ReplaceAll(m.test, "/", "$/^")+"$", m.pkg).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--- FAIL: "+m.test) {
		t.Errorf("without its defence, %s of %s did not fail: %v\n%s", m.test, m.pkg, err, out[:min(len(out), 2000)])
		return
	}
	t.Logf("%s", said(string(out), 4))
}

// said is what a test that failed said of it: the first n lines that begin with
// a place in a test file, or that a wait in vain has panicked with.
func said(output string, n int) string {
	lines := regexp.MustCompile(`(?m)^(?: +\S+_test\.go:\d+|panic): .*`).FindAllString(output, n)
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line[:min(len(line), 400)])
	}
	return strings.Join(lines, "\n")
}
