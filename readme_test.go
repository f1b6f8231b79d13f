package sallyport_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// TestReadmeListsSystemTests holds the table "Shown with real clients" of the
// README to the tests there are: each is in it, and each in it is there. Those
// of an item of the security checklist are in that list's own table.
func TestReadmeListsSystemTests(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	security, err := os.ReadFile(filepath.Join("docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
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
	listed := regexp.MustCompile(`\bTestSystem\w+\b[^.\w]`).FindAllString(string(readme)+" ", -1)
	for i, name := range listed {
		listed[i] = name[:len(name)-1]
	}
	ofItems := regexp.MustCompile(`\bTestSystemItem\w+`).FindAllString(string(security), -1)
	for _, name := range tests {
		if !slices.Contains(listed, name) && !slices.Contains(ofItems, name) {
			t.Errorf("README.md, \"Shown with real clients\", does not list %s", name)
		}
	}
	for _, name := range listed {
		if !slices.Contains(tests, name) {
			t.Errorf("README.md lists %s, and there is no such test", name)
		}
	}
}
