package access

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// roleDefinitionData holds Azure's built-in roles that matter here.
//
//go:embed roledefinitions.json
var roleDefinitionData []byte

// The names of the built-in roles that code speaks of.
const (
	OwnerRole  = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
	ReaderRole = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
)

// RoleDefinition is a role of ARM: what whoever is assigned it may do to
// resources. A [Role] is something else, what a source may do in a cluster.
type RoleDefinition struct {
	Name        string       `json:"name"`     // a GUID
	RoleName    string       `json:"roleName"` // as people know it: "Contributor"
	Description string       `json:"description"`
	Permissions []Permission `json:"permissions"`
}

// Permission allows actions but for some. Data actions are what Azure RBAC for
// Kubernetes asks for; nothing of ARM's does.
type Permission struct {
	Actions        []string `json:"actions"`
	NotActions     []string `json:"notActions"`
	DataActions    []string `json:"dataActions"`
	NotDataActions []string `json:"notDataActions"`
}

// BuiltInRoles returns the roles that everybody has. GUIDs and permissions are
// those of Azure (spec/identity.md 5.5 for the roles of AKS; the others as
// Azure's public list of built-in roles has them).
func BuiltInRoles() ([]RoleDefinition, error) {
	var roles []RoleDefinition
	if err := json.Unmarshal(roleDefinitionData, &roles); err != nil {
		return nil, fmt.Errorf("built-in roles: %w", err)
	}
	return roles, nil
}

// Allows reports whether the role allows an action, such as
// "Microsoft.ContainerService/managedClusters/write": one of its permissions
// has it among the actions and not among the notActions. What a notAction takes
// away another permission, or another role, may give (spec/identity.md 5.6).
func (d RoleDefinition) Allows(action string) bool {
	return slices.ContainsFunc(d.Permissions, func(p Permission) bool {
		return matchesAny(p.Actions, action) && !matchesAny(p.NotActions, action)
	})
}

func matchesAny(patterns []string, action string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return MatchesAction(pattern, action) })
}

// MatchesAction reports whether a pattern of a role covers an action, without
// regard to case. "*" stands for any run of characters, "/" too. In "/*/" it may
// stand for no segment at all: Managed Identity Operator has
// "userAssignedIdentities/*/assign/action", and that is how it may do
// "userAssignedIdentities/assign/action".
func MatchesAction(pattern, action string) bool {
	return matches(strings.ToLower(pattern), strings.ToLower(action))
}

// matches tries the pattern as it is, and without each "/*/" and those after it.
// The built-in roles have at most one in a pattern.
func matches(pattern, action string) bool {
	if matchesRun(pattern, action) {
		return true
	}
	for at := 0; at < len(pattern); at++ {
		if strings.HasPrefix(pattern[at:], "/*/") && matches(pattern[:at]+pattern[at+2:], action) {
			return true
		}
	}
	return false
}

// matchesRun is MatchesAction in one case, with "*" for any run. It goes back to
// the last star only, so its time is bounded by the product of the lengths.
func matchesRun(pattern, action string) bool {
	p, a, star, mark := 0, 0, -1, 0
	for a < len(action) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, a
			p++
		case p < len(pattern) && pattern[p] == action[a]:
			p++
			a++
		case star >= 0:
			mark++
			p, a = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
