package arm

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// maxPath bounds a path in bytes before it is looked at.
const maxPath = 2048

// Path is a request's path in segments, as they were written.
type Path []string

// ParsePath splits the path of a request from its undecoded bytes. The error
// is an [*Error] with status 400 (checklist item 10).
func ParsePath(u *url.URL) (Path, error) {
	raw := u.EscapedPath()
	fail := func(format string, args ...any) (Path, error) {
		return nil, &Error{Status: http.StatusBadRequest, Code: "InvalidRequestUri",
			Message: fmt.Sprintf("The request path is not valid: "+format+".", args...)}
	}
	if len(raw) > maxPath {
		return fail("it has %d bytes, the most is %d", len(raw), maxPath)
	}
	rest, ok := strings.CutPrefix(raw, "/")
	if !ok {
		return fail("it must begin with '/'")
	}
	rest = strings.TrimSuffix(rest, "/") // one; a second is an empty segment
	if rest == "" {
		return Path{}, nil
	}
	path := withoutEmptyParent(strings.Split(rest, "/"))
	for _, s := range path {
		switch s {
		case "":
			return fail("it has an empty segment ('//')")
		case ".", "..":
			return fail("it has the segment '%s'", s)
		}
		for i := range len(s) {
			if !isSegmentByte(s[i]) {
				return fail("character %q; segments hold unescaped letters, digits and '-', '_', '.', '(' or ')'", s[i])
			}
		}
	}
	return path, nil
}

// withoutEmptyParent takes out the empty segment of
// /providers/{namespace}//{type}/{name}, which az and the SDKs send for every
// generic resource without a parent, and ARM understands. It is one way of
// writing the same path, which is only ever read here; any other empty segment
// stays, and is refused.
func withoutEmptyParent(segments []string) Path {
	for i, s := range segments {
		if strings.EqualFold(s, "providers") && i+3 < len(segments) && segments[i+1] != "" && segments[i+2] == "" {
			return slices.Delete(segments, i+2, i+3)
		}
	}
	return segments
}

// isSegmentByte admits what access.ParseResourceID admits in a segment.
func isSegmentByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '-' || c == '_' || c == '.' || c == '(' || c == ')'
}

// Pattern is a path with holes. A segment {name} stands for any one segment;
// {name:resource} stands for namespace/type/name[/type/name...], and
// {name:collection} for the same without the last name. At most one of the
// long kinds may occur.
type Pattern struct {
	text       string
	head, tail []string
	long, kind string // name and kind of the long hole, "" for none
}

// ParsePattern reads a pattern; it is for literals in a table of routes and
// panics when one is malformed.
func ParsePattern(text string) Pattern {
	p := Pattern{text: text}
	for _, s := range strings.Split(strings.Trim(text, "/"), "/") {
		name, kind, isLong := strings.Cut(strings.Trim(s, "{}"), ":")
		switch {
		case isLong && p.long != "":
			panic("arm: two long holes in " + text)
		case isLong:
			p.long, p.kind = name, kind
		case p.long != "":
			p.tail = append(p.tail, s)
		default:
			p.head = append(p.head, s)
		}
	}
	return p
}

// String returns the pattern's text.
func (p Pattern) String() string { return p.text }

// Vars are what a path had in a pattern's holes; segments of a long hole are
// joined by '/'.
type Vars map[string]string

// Match reports whether path has the form of p, and what it had in the holes.
func (p Pattern) Match(path Path) (Vars, bool) {
	vars := Vars{}
	if p.long == "" {
		return vars, len(path) == len(p.head) && matchEach(p.head, path, vars)
	}
	middle := len(path) - len(p.head) - len(p.tail)
	if middle < 2 {
		return nil, false
	}
	if !matchEach(p.head, path[:len(p.head)], vars) || !matchEach(p.tail, path[len(p.head)+middle:], vars) {
		return nil, false
	}
	segments := path[len(p.head) : len(p.head)+middle]
	if (middle%2 == 1) != (p.kind == "resource") {
		return nil, false
	}
	for i := 1; i < middle; i += 2 {
		// "providers" in the place of a type begins an extension resource,
		// and those are routes of their own.
		if strings.EqualFold(segments[i], "providers") {
			return nil, false
		}
	}
	vars[p.long] = strings.Join(segments, "/")
	return vars, true
}

// Fill writes the path that has vars in p's holes: literal segments in p's own
// casing, names in the client's. For a path that matched it is the one
// spelling in which ids are answered and compared.
func (p Pattern) Fill(vars Vars) Path {
	var out Path
	fill := func(segments []string) {
		for _, s := range segments {
			if hole, ok := strings.CutPrefix(s, "{"); ok {
				s = vars[strings.TrimSuffix(hole, "}")]
			}
			out = append(out, s)
		}
	}
	fill(p.head)
	if p.long != "" {
		out = append(out, strings.Split(vars[p.long], "/")...)
	}
	fill(p.tail)
	return out
}

// String joins the segments.
func (path Path) String() string { return "/" + strings.Join(path, "/") }

// provider returns the place after the last "providers" that is a keyword, or
// -1. A path is keyword and value, type and name, in turn from its beginning,
// so only at an even place is it a keyword; at an odd one it is a resource that
// somebody named so, and says nothing about who answers for the path.
func (path Path) provider() int {
	for i := (len(path) - 2) &^ 1; i >= 0; i -= 2 {
		if !strings.EqualFold(path[i], "providers") {
			continue
		}
		// Microsoft.Features names the provider whose features it has as a
		// type and name of its own.
		if i >= 2 && strings.EqualFold(path[i-2], "providers") && strings.EqualFold(path[i-1], "Microsoft.Features") {
			return i - 1
		}
		return i + 1
	}
	return -1
}

// Namespace is the resource provider that answers for the path: of an
// extension resource its own, and "Microsoft.Resources" without one.
func (path Path) Namespace() string {
	if at := path.provider(); at >= 0 {
		return path[at]
	}
	return "Microsoft.Resources"
}

// Type is the full resource type that the path names, of an item or of a list.
func (path Path) Type() string {
	rest := path
	if at := path.provider(); at >= 0 {
		rest = path[at+1:]
	}
	out := path.Namespace()
	for i := 0; i < len(rest); i += 2 {
		out += "/" + rest[i]
	}
	return out
}

// Resource is the id of the innermost resource, group or subscription that the
// path names or lies below: of a collection or an action whose it is, of an
// extension resource what it extends; zero without one.
func (path Path) Resource() access.ResourceID {
	for n := len(path); n >= 2; n-- {
		if id, err := access.ParseResourceID(path[:n].String()); err == nil {
			return id
		}
	}
	return access.ResourceID{}
}

// Extended is the id of what the extension resource that the path names, or the
// collection of such, extends.
func (path Path) Extended() access.ResourceID {
	if at := path.provider(); at > 0 {
		return path[:at-1].Resource()
	}
	return access.ResourceID{}
}

// Scope is what ARM's refusals name: the path less the name of a collection or
// an action at its end, and less the provider when nothing of it is left.
func (path Path) Scope() string {
	path = path[:len(path)&^1]
	if n := len(path); n >= 2 && strings.EqualFold(path[n-2], "providers") {
		path = path[:n-2]
	}
	return path.String()
}

// Action is what ARM calls the request, in refusals and in the audit log:
// "Microsoft.ContainerService/managedClusters/write".
func (path Path) Action(method string) string {
	verb := map[string]string{http.MethodPut: "write", http.MethodPatch: "write", http.MethodDelete: "delete", http.MethodPost: "action"}[method]
	if verb == "" {
		verb = "read"
	}
	return path.Type() + "/" + verb
}

func matchEach(pattern, path []string, vars Vars) bool {
	for i, want := range pattern {
		if hole, ok := strings.CutPrefix(want, "{"); ok {
			vars[strings.TrimSuffix(hole, "}")] = path[i]
			continue
		}
		if !strings.EqualFold(want, path[i]) {
			return false
		}
	}
	return true
}
