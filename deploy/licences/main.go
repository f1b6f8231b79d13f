// Command licences holds a software bill of materials to the licences that a
// binary of Sallyport may be made of. It reads CycloneDX in JSON, as
// deploy/release.sh writes it, and fails naming each module whose licence is not
// listed here, or was not found.
//
//	licences dist/sallyport_linux_amd64.cdx.json
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
)

// allowed are licences that ask for no more than to be named: our own is
// Apache-2.0. MPL-2.0 asks for the source of its own files alone, which are
// public and unchanged.
func allowed() []string {
	return []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0", "Unlicense", "0BSD", "CC0-1.0", "Zlib"}
}

// reviewed are modules whose licence was read by hand, since the detector takes
// its words for those of another.
func reviewed() map[string]string {
	return map[string]string{
		"std":            "BSD-3-Clause", // Go itself, which is no module with a licence file
		"golang.org/x/*": "BSD-3-Clause", // taken for BSD-Source-Code
	}
}

// component is what is read of one.
type component struct {
	Name, Version string
	Licenses      []choice
	Evidence      struct{ Licenses []choice }
}

type choice struct {
	License    struct{ ID, Name string }
	Expression string
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: licences FILE.cdx.json")
		os.Exit(2)
	}
	problems, checked, err := check(os.Args[1])
	for _, p := range problems {
		fmt.Fprintln(os.Stderr, "licences:", p)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
	}
	if err != nil || len(problems) > 0 {
		os.Exit(1)
	}
	fmt.Printf("licences: %d modules, each with one of the licences allowed\n", checked)
}

// check reads a bill of materials and says what is wrong with it.
func check(file string) (problems []string, checked int, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, 0, err
	}
	var bom struct{ Components []component }
	if err := json.Unmarshal(text, &bom); err != nil {
		return nil, 0, fmt.Errorf("%s is not CycloneDX: %w", file, err)
	}
	if len(bom.Components) == 0 {
		return nil, 0, fmt.Errorf("%s lists no components", file)
	}
	for _, c := range bom.Components {
		if p := c.problem(); p != "" {
			problems = append(problems, fmt.Sprintf("%s %s %s", c.Name, c.Version, p))
		}
	}
	return problems, len(bom.Components), nil
}

// problem says why a component may not be in a binary, "" if it may.
func (c component) problem() string {
	for pattern, licence := range reviewed() {
		if ok, err := path.Match(pattern, c.Name); err == nil && ok && slices.Contains(allowed(), licence) {
			return ""
		}
	}
	found := slices.Concat(c.Licenses, c.Evidence.Licenses)
	if len(found) == 0 {
		return "has no licence that was recognised"
	}
	for _, l := range found {
		if !slices.Contains(allowed(), l.License.ID) {
			return fmt.Sprintf("has the licence %q%q%q, which is not in the list", l.License.ID, l.License.Name, l.Expression)
		}
	}
	return ""
}
