package sallyport_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSecurityTable holds docs/security.md to the code: each of the checklist's
// 42 items has one row, in order; each test that a row names is there; and an
// item that is said to hold names a test that carries its number, and has a
// mutation unless CI alone holds it.
func TestSecurityTable(t *testing.T) {
	text, err := os.ReadFile("docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testNames(t)
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	quick, whole := mutations()
	mutated := map[string]bool{}
	for _, m := range slices.Concat(quick, whole) {
		mutated[m.item] = true
	}
	next := 1
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| "+fmt.Sprint(next)+" |") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		if len(cells) != 4 {
			t.Fatalf("row %d has %d cells, want number, what, test, state", next, len(cells))
		}
		state, own := cells[3], strings.Contains(cells[2], ".ci/")
		for _, m := range named.FindAllStringSubmatch(cells[2], -1) {
			if !tests[m[1]] {
				t.Errorf("item %d names %s, which is no test", next, m[1])
			}
			own = own || strings.Contains(m[1], fmt.Sprintf("Item%02d", next))
		}
		switch {
		case state == "holds" && !own:
			t.Errorf("item %d holds, but no test that it names carries its number", next)
		case state == "holds" && !mutated[fmt.Sprintf("%02d", next)] && !strings.Contains(cells[2], ".ci/"):
			t.Errorf("item %d holds, but no mutation takes its defence out", next)
		case state == "holds", strings.HasPrefix(state, "does not apply yet: "), strings.HasPrefix(state, "open: "):
		default:
			t.Errorf("item %d: state %q is none of holds, does not apply yet: why, open: why", next, state)
		}
		next++
	}
	if next != 43 {
		t.Fatalf("the table ends before item %d", next)
	}
}

// testNames are the tests and fuzz targets of this module and its nested ones.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, file := range goFiles(t) {
		if !strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}

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
