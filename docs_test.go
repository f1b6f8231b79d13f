package sallyport_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocsListSystemTests holds the table of README.md to the tests there
// are: each is in it, and each that a page for users names is there. Those of an
// item of the security checklist are in that list's own table.
func TestDocsListSystemTests(t *testing.T) {
	read := func(name ...string) string {
		text, err := os.ReadFile(filepath.Join(name...))
		if err != nil {
			t.Fatal(err)
		}
		return string(text) + " "
	}
	table, security, others := read("README.md"), read("docs", "security.md"), read("docs", "operations.md")
	files, err := filepath.Glob("cmd/sallyport/system_*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no system tests: %v", err)
	}
	var tests []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range regexp.MustCompile(`(?m)^func (TestSystem\w+)\(`).FindAllSubmatch(text, -1) {
			tests = append(tests, string(f[1]))
		}
	}
	names := func(text string) []string {
		found := regexp.MustCompile(`\bTestSystem\w+\b[^.\w]`).FindAllString(text, -1)
		for i, name := range found {
			found[i] = name[:len(name)-1]
		}
		return found
	}
	listed := names(table)
	ofItems := regexp.MustCompile(`\bTestSystemItem\w+`).FindAllString(security, -1)
	for _, name := range tests {
		if !slices.Contains(listed, name) && !slices.Contains(ofItems, name) {
			t.Errorf("README.md does not list %s", name)
		}
	}
	for _, name := range append(listed, names(others)...) {
		if !slices.Contains(tests, name) {
			t.Errorf("README.md or docs/operations.md names %s, and there is no such test", name)
		}
	}
}

// TestDocsLinks follows each link of the documents to a file of this tree, and
// to the heading in it.
func TestDocsLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s#:]*)(?:#([^)\s]*))?\)`) // with a colon it leads elsewhere
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	dropped := regexp.MustCompile("[^a-z0-9 _-]")
	documents := []string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md", "devcluster/*.md", "internal/*/*.md", "deploy/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, found...)
	}
	for _, document := range documents {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range link.FindAllStringSubmatch(string(text), -1) {
			target := document
			if l[1] != "" {
				target = filepath.Join(filepath.Dir(document), l[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %q: %v", document, l[1], err)
				continue
			}
			if l[2] == "" {
				continue
			}
			there, err := os.ReadFile(target)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(heading.FindAllStringSubmatch(string(there), -1), func(h []string) bool {
				return strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-") == l[2]
			}) {
				t.Errorf("%s links to %q: there is no such heading", document, l[0])
			}
		}
	}
}
