package access

import (
	"fmt"
	"slices"
	"strings"
)

// Deed is what a request does, in the words of Kubernetes RBAC: a verb on a
// resource, or on a path that is none.
type Deed struct {
	Verb        string `json:"verb"`
	APIGroup    string `json:"apiGroup,omitempty"`
	Resource    string `json:"resource,omitempty"`
	Subresource string `json:"subresource,omitempty"`
	Namespace   string `json:"namespace,omitempty"` // "" for all, or for none
	Name        string `json:"name,omitempty"`      // "" for all
	Path        string `json:"path,omitempty"`      // where there is no resource
}

// CheckDeed holds a deed to its form. The error wraps [ErrInvalid].
func CheckDeed(d Deed) error {
	switch {
	case d.Verb == "":
		return fmt.Errorf("a verb is missing, such as get, list, watch or create: %w", ErrInvalid)
	case (d.Resource == "") == (d.Path == ""):
		return fmt.Errorf("resource %q and path %q: one of them must be given: %w", Clip(d.Resource, maxQuoted), Clip(d.Path, maxQuoted), ErrInvalid)
	case d.Path != "" && !strings.HasPrefix(d.Path, "/"):
		return fmt.Errorf("path %q must begin with /: %w", Clip(d.Path, maxQuoted), ErrInvalid)
	case d.Path != "" && d.APIGroup+d.Subresource+d.Namespace+d.Name != "":
		return fmt.Errorf("path %q goes with a verb only: %w", Clip(d.Path, maxQuoted), ErrInvalid)
	}
	for _, word := range []string{d.Verb, d.APIGroup, d.Resource, d.Subresource, d.Namespace, d.Name} {
		if len(word) > 253 || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
			return fmt.Errorf("%q must have at most 253 visible ASCII characters and no slash: %w", Clip(word, maxQuoted), ErrInvalid)
		}
	}
	if len(d.Path) > 1024 {
		return fmt.Errorf("the path has %d bytes, the most is 1024: %w", len(d.Path), ErrInvalid)
	}
	return nil
}

// String says it in words: "list pods.apps/log of namespace ns".
func (d Deed) String() string {
	if d.Resource == "" {
		return d.Verb + " " + d.Path
	}
	text := d.Verb + " " + d.Resource
	if d.APIGroup != "" {
		text += "." + d.APIGroup
	}
	if d.Subresource != "" {
		text += "/" + d.Subresource
	}
	if d.Name != "" {
		text += " " + d.Name
	}
	if d.Namespace != "" {
		text += " in namespace " + d.Namespace
	}
	return text
}

// Allows reports whether a rule allows a deed, as the API server's RBAC
// authorizer reads it (k8s.io/kubernetes, pkg/apis/rbac/v1,
// evaluation_helpers.go). It is good for advice; what is allowed is the
// cluster's to say.
func (r Rule) Allows(d Deed) bool {
	if !slices.Contains(r.Verbs, "*") && !slices.Contains(r.Verbs, d.Verb) {
		return false
	}
	if d.Resource == "" {
		return slices.ContainsFunc(r.NonResourceURLs, func(url string) bool {
			prefix, wild := strings.CutSuffix(url, "*")
			return url == d.Path || wild && strings.HasPrefix(d.Path, strings.TrimRight(prefix, "*"))
		})
	}
	return (slices.Contains(r.APIGroups, "*") || slices.Contains(r.APIGroups, d.APIGroup)) &&
		slices.ContainsFunc(r.Resources, d.isOf) &&
		(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, d.Name))
}

// isOf tells of "*", "pods", "pods/exec" and "*/exec". "pods" is not of its
// subresources, and nothing is of "pods/*".
func (d Deed) isOf(resource string) bool {
	if d.Subresource == "" {
		return resource == "*" || resource == d.Resource
	}
	return resource == "*" || resource == d.Resource+"/"+d.Subresource || resource == "*/"+d.Subresource
}

// Allows reports whether one of the role's rules allows a deed.
func (r Role) Allows(d Deed) bool {
	return slices.ContainsFunc(r.Rules, func(rule Rule) bool { return rule.Allows(d) })
}

// RolesThatAllow names the roles of a catalogue that a source may have and
// that would allow a deed.
func RolesThatAllow(catalogue []Role, source ResourceID, d Deed) []string {
	var names []string
	for _, r := range catalogue {
		if r.Fits(source) && r.Allows(d) {
			names = append(names, r.QualifiedName())
		}
	}
	return names
}
