package sallyport_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
