package access

import (
	"fmt"
	"strings"
)

// Rule is a Kubernetes policy rule, in the spelling of ARM's
// TrustedAccessRoleRule and of a ClusterRole.
type Rule struct {
	Verbs           []string `json:"verbs"`
	APIGroups       []string `json:"apiGroups,omitempty"`
	Resources       []string `json:"resources,omitempty"`
	ResourceNames   []string `json:"resourceNames,omitempty"`
	NonResourceURLs []string `json:"nonResourceURLs,omitempty"`
}

// Role is a named list of rules that a type of Azure resource offers to act
// with.
type Role struct {
	SourceResourceType string `json:"sourceResourceType"`
	Name               string `json:"name"` // unique within its source type
	Rules              []Rule `json:"rules"`
}

// QualifiedName is the form bindings use, such as
// "Microsoft.MachineLearningServices/workspaces/mlworkload".
func (r Role) QualifiedName() string { return r.SourceResourceType + "/" + r.Name }

// Fits reports whether a resource may act with this role: the role's source
// type equals the resource's type or is a prefix of it by whole segments,
// without regard to case (spec/trusted-access.md 6, the matching rule).
func (r Role) Fits(source ResourceID) bool {
	want := strings.Split(r.SourceResourceType, "/")
	have := strings.Split(source.Type(), "/")
	if len(want) > len(have) {
		return false
	}
	for i := range want {
		if !strings.EqualFold(want[i], have[i]) {
			return false
		}
	}
	return true
}

// FindRole looks a qualified name up in a catalogue, without regard to case.
func FindRole(catalogue []Role, qualified string) (Role, bool) {
	for _, r := range catalogue {
		if strings.EqualFold(r.QualifiedName(), qualified) {
			return r, true
		}
	}
	return Role{}, false
}

// CheckRoleName refuses short names that could not be part of an object's
// name or a header. The error wraps [ErrInvalid].
func CheckRoleName(short string) error {
	if short == "" || len(short) > 63 {
		return fmt.Errorf("role name %q must have 1 to 63 characters: %w", Clip(short, maxQuoted), ErrInvalid)
	}
	for i := range len(short) {
		c := short[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-') {
			return fmt.Errorf("role name %q: character %q is not a letter, digit or '-': %w", Clip(short, maxQuoted), c, ErrInvalid)
		}
	}
	return nil
}
