package addresses

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/strictjson"
)

// maxFile bounds a service-tag file, in bytes. The public cloud's has about
// 5 MB.
const maxFile = 32 << 20

// maxTagName bounds a tag's name, in bytes; the longest published has 60.
const maxTagName = 200

// Tags are the service tags of one file, and make sets that follow it. The
// zero value has no file, so it knows no tag. It is safe for concurrent use.
type Tags struct {
	table atomic.Pointer[tagTable]
	path  string      // "" if it was not read from a file
	seen  os.FileInfo // of the file in force; Follow's own
}

// tagTable holds tags by folded name.
type tagTable map[string]tag

type tag struct {
	name     string // as published
	prefixes prefixes
}

// ParseServiceTags reads a file in Microsoft's form. The error wraps
// [access.ErrInvalid] and says which entry is wrong.
func ParseServiceTags(r io.Reader) (*Tags, error) {
	table, err := parseTags(r)
	if err != nil {
		return nil, err
	}
	t := &Tags{}
	t.table.Store(&table)
	return t, nil
}

func parseTags(r io.Reader) (tagTable, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read service tags: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("a service-tag file of more than %d bytes: %w", maxFile, access.ErrInvalid)
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // some tools add one
	const depth = 5                                 // file, values, value, properties, addressPrefixes
	if err := strictjson.Check(data, strictjson.Rules{MaxDepth: depth, FoldCase: true}); err != nil {
		return nil, fmt.Errorf("service tags: %w", err)
	}
	// The members that are not here (region, platform, systemService, ...) say
	// what a tag's name says already.
	var file struct {
		Values []struct {
			Name       string `json:"name"`
			Properties struct {
				AddressPrefixes []string `json:"addressPrefixes"`
			} `json:"properties"`
		} `json:"values"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("service tags: %w: %w", err, access.ErrInvalid)
	}
	if len(file.Values) == 0 {
		return nil, fmt.Errorf("service tags: no member \"values\" with tags, as ServiceTags_Public_*.json has it: %w", access.ErrInvalid)
	}
	table := make(tagTable, len(file.Values))
	for _, v := range file.Values {
		if !isTagName(v.Name) {
			return nil, fmt.Errorf("service tags: %q is not a tag's name: %w", access.Clip(v.Name, maxQuoted), access.ErrInvalid)
		}
		if _, ok := table[fold(v.Name)]; ok {
			return nil, fmt.Errorf("service tags: tag %s occurs twice: %w", v.Name, access.ErrInvalid)
		}
		list := make([]netip.Prefix, len(v.Properties.AddressPrefixes))
		for i, text := range v.Properties.AddressPrefixes {
			if list[i], err = parsePrefix(text); err != nil {
				return nil, fmt.Errorf("service tags: tag %s: %w", v.Name, err)
			}
		}
		table[fold(v.Name)] = tag{name: v.Name, prefixes: newPrefixes(list)}
	}
	return table, nil
}

// Set makes a set of CIDR ranges, single addresses and names of tags, in any
// casing. An empty list makes a set that contains nothing. The error wraps
// [access.ErrInvalid]; of an unknown tag it names those that look like it.
func (t *Tags) Set(ranges []string) (Set, error) {
	for _, text := range ranges {
		if text = strings.TrimSpace(text); isTagName(text) {
			if err := t.known(text); err != nil {
				return Set{}, err
			}
		}
	}
	return t.StoredSet(ranges)
}

// StoredSet is Set for a list that was accepted earlier: a tag that is not in
// the file now contains nothing until it is.
func (t *Tags) StoredSet(ranges []string) (Set, error) {
	s := Set{tags: t}
	var own []netip.Prefix
	for _, text := range ranges {
		text = strings.TrimSpace(text)
		if isTagName(text) {
			s.names = append(s.names, fold(text))
			continue
		}
		prefix, err := parseRange(text)
		if err != nil {
			return Set{}, err
		}
		own = append(own, prefix)
	}
	s.own = newPrefixes(own)
	return s, nil
}

// known says why a tag cannot be used.
func (t *Tags) known(name string) error {
	table := t.table.Load()
	if table == nil {
		return fmt.Errorf("%q is not an address range, and as a service tag it needs the file with Azure's service tags (sallyport server --service-tags FILE): %w", name, access.ErrInvalid)
	}
	if _, ok := (*table)[fold(name)]; ok {
		return nil
	}
	hint := "see the names in the file"
	if near := table.near(name); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return fmt.Errorf("no service tag %q in the service-tag file; %s: %w", name, hint, access.ErrInvalid)
}

// isTagName tells a tag's name from an address: it begins with a letter and
// has no colon or slash.
func isTagName(text string) bool {
	if text == "" || len(text) > maxTagName {
		return false
	}
	for i, c := range []byte(text) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (i == 0 || c != '.' && c != '_' && c != '-' && (c < '0' || c > '9')) {
			return false
		}
	}
	return true
}

func fold(name string) string { return strings.ToLower(name) } // ASCII, see isTagName

// near returns at most three published names that are a few letters from name,
// nearest first, and the service of a regional name whose region is unknown.
func (table tagTable) near(name string) []string {
	const most = 3
	name = fold(name)
	type candidate struct {
		name string
		away int
	}
	var found []candidate
	service, _, _ := strings.Cut(name, ".")
	for key, tag := range table {
		away := distance(name, key)
		if away <= 2+len(name)/8 || key == service {
			found = append(found, candidate{tag.name, away})
		}
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.away, b.away), strings.Compare(a.name, b.name))
	})
	var names []string
	for _, c := range found[:min(most, len(found))] {
		names = append(names, c.name)
	}
	return names
}

// distance is the Levenshtein distance: how many letters to insert, delete or
// replace.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
