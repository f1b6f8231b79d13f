package sallyport_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func goFiles(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "ls-files", "--cached", "--others", "--exclude-standard", "*.go").Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	return strings.Fields(string(out))
}

// TestItem03NoDirector: what net/http/httputil's Director sets, a client can
// have deleted by Connection (checklist, item 3). Rewrite cannot.
func TestItem03NoDirector(t *testing.T) {
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue // deleted and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"NewSingleHostReverseProxy", "Director:", ".Director ="} {
			if bytes.Contains(text, []byte(bad)) {
				t.Errorf("%s uses %s", file, bad)
			}
		}
	}
}

// TestItem42VersionsArePinned: each module says exactly what it is built of, and
// what is downloaded is held to its checksum (checklist, item 42).
func TestItem42VersionsArePinned(t *testing.T) {
	mods, err := filepath.Glob("*/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	nested, err := filepath.Glob("*/*/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, mod := range append(append(mods, nested...), "go.mod") {
		text, err := os.ReadFile(mod)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`(?m)^go 1\.\d+\.\d+$`).Match(text) {
			t.Errorf("%s does not pin the Go release", mod)
		}
		for line := range strings.Lines(string(text)) {
			if _, to, ok := strings.Cut(line, "=>"); ok && strings.HasPrefix(strings.TrimSpace(to), ".") {
				t.Errorf("%s is built of a folder: %s", mod, strings.TrimSpace(line))
			}
		}
		if sum, err := os.ReadFile(strings.TrimSuffix(mod, "mod") + "sum"); err != nil || len(sum) == 0 {
			t.Errorf("%s has no go.sum: %v", mod, err)
		}
	}
}
