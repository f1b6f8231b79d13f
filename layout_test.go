package sallyport_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sallyport/sallyport"

// TestLayout holds the tree to the table of rooms in ARCHITECTURE.md: every
// package is in it, has a package comment and imports only what its row allows.
func TestLayout(t *testing.T) {
	allowed := rooms(t)
	seen := map[string]bool{}
	for _, p := range packages(t) {
		name := "."
		if p.ImportPath != module {
			name = strings.TrimPrefix(p.ImportPath, module+"/")
		}
		seen[name] = true
		may, ok := allowed[name]
		if !ok {
			t.Errorf("package %s has no row in ARCHITECTURE.md", name)
			continue
		}
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("package %s has no package comment", name)
		}
		if slices.Contains(may, "*") {
			continue
		}
		for _, imported := range p.Imports {
			ours, ok := strings.CutPrefix(imported, module+"/")
			if ok && !slices.Contains(may, ours) {
				t.Errorf("package %s imports %s, which its row in ARCHITECTURE.md does not allow", name, ours)
			}
			if name == "access" && strings.Contains(imported, ".") {
				t.Errorf("package access imports %s; words need the standard library only", imported)
			}
		}
	}
	for name := range allowed {
		if !seen[name] {
			t.Errorf("ARCHITECTURE.md has a row for %s, which is no package", name)
		}
	}
}

// rooms reads the table: package name to the packages of ours it may import.
func rooms(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "\n## Rooms\n")
	if !ok {
		t.Fatal("ARCHITECTURE.md has no section Rooms")
	}
	rows := map[string][]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(line, "| \n"), "|")
		if len(cells) != 4 || strings.HasPrefix(cells[0], "Package") || strings.HasPrefix(cells[0], "---") {
			continue
		}
		var may []string
		for ours := range strings.SplitSeq(cells[3], ",") {
			may = append(may, strings.TrimSpace(ours))
		}
		rows[strings.TrimSpace(cells[0])] = may
	}
	if len(rows) < 10 {
		t.Fatalf("read only %d rows; is the table still a table?", len(rows))
	}
	return rows
}

type goPackage struct {
	ImportPath string
	Doc        string
	GoFiles    []string
	Imports    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Doc,GoFiles,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
