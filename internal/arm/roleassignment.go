package arm

import (
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
)

// RoleAssignment is a role assignment's body (spec/identity.md 5.6).
type RoleAssignment struct {
	Properties RoleAssignmentProperties `json:"properties"`
	ID         string                   `json:"id"`
	Type       string                   `json:"type"`
	Name       string                   `json:"name"`
}

// RoleAssignmentProperties says who has which role where.
type RoleAssignmentProperties struct {
	RoleDefinitionID string  `json:"roleDefinitionId"`
	PrincipalID      string  `json:"principalId"`
	PrincipalType    string  `json:"principalType,omitempty"`
	Scope            string  `json:"scope"`
	Condition        *string `json:"condition"`
	ConditionVersion *string `json:"conditionVersion"`
	CreatedOn        string  `json:"createdOn"`
	UpdatedOn        string  `json:"updatedOn"`
	CreatedBy        string  `json:"createdBy"`
	UpdatedBy        string  `json:"updatedBy"`
	Delegated        *string `json:"delegatedManagedIdentityResourceId"`
	Description      *string `json:"description"`
}

// NewRoleAssignment shows a.
func NewRoleAssignment(a access.RoleAssignment) RoleAssignment {
	p := RoleAssignmentProperties{
		RoleDefinitionID: RoleDefinitionID(a.Scope, a.Role),
		PrincipalID:      a.PrincipalID, PrincipalType: a.PrincipalType, Scope: a.Scope.String(),
		CreatedOn: a.Created.UTC().Format(time.RFC3339Nano), UpdatedOn: a.Updated.UTC().Format(time.RFC3339Nano),
		CreatedBy: a.CreatedBy, UpdatedBy: a.UpdatedBy,
	}
	if a.Description != "" {
		p.Description = &a.Description
	}
	return RoleAssignment{Properties: p, ID: a.ID(), Type: access.RoleAssignmentType, Name: a.Name}
}

// RoleDefinitionType is the full ARM type of role definitions.
const RoleDefinitionType = "Microsoft.Authorization/roleDefinitions"

// RoleDefinitionID is a role's id as seen from a scope: of its subscription, or
// of the tenant for the zero scope.
func RoleDefinitionID(scope access.ResourceID, name string) string {
	id := "/providers/" + RoleDefinitionType + "/" + name
	if !scope.IsZero() {
		id = "/subscriptions/" + scope.Subscription() + id
	}
	return id
}

// RoleDefinition is a role's body.
type RoleDefinition struct {
	ID         string                   `json:"id"`
	Type       string                   `json:"type"`
	Name       string                   `json:"name"`
	Properties RoleDefinitionProperties `json:"properties"`
}

// RoleDefinitionProperties says what a role allows.
type RoleDefinitionProperties struct {
	RoleName         string              `json:"roleName"`
	Type             string              `json:"type"`
	Description      string              `json:"description"`
	AssignableScopes []string            `json:"assignableScopes"`
	Permissions      []access.Permission `json:"permissions"`
}

// NewRoleDefinition shows a built-in role as seen from a scope.
func NewRoleDefinition(d access.RoleDefinition, scope access.ResourceID) RoleDefinition {
	return RoleDefinition{
		ID: RoleDefinitionID(scope, d.Name), Type: RoleDefinitionType, Name: d.Name,
		Properties: RoleDefinitionProperties{
			RoleName: d.RoleName, Type: "BuiltInRole", Description: d.Description, AssignableScopes: []string{"/"}, Permissions: d.Permissions,
		},
	}
}

// AuthorizationFilter is the $filter of a list of role assignments or role
// definitions: the functions and comparisons of spec/identity.md 5.6, joined by
// "and". Empty fields filter nothing.
type AuthorizationFilter struct {
	AtScope     bool   // at the scope or above, not below
	PrincipalID string // principalId eq
	AssignedTo  string // assignedTo(): the principal, or a group it is in
	RoleName    string // roleName eq
	RoleType    string // type eq
}

// ParseAuthorizationFilter reads the $filter of r. What it cannot read it
// refuses, rather than answer with more than was asked for; the error is an
// [*Error].
func ParseAuthorizationFilter(r *http.Request) (AuthorizationFilter, error) {
	var f AuthorizationFilter
	text := strings.TrimSpace(r.URL.Query().Get("$filter"))
	rest := text
	for rest != "" {
		term, after, more := cutAnd(rest)
		if !f.term(term) || more && after == "" {
			return f, &Error{Status: http.StatusBadRequest, Code: "InvalidFilter",
				Message: "The filter '" + access.Clip(text, maxQuoted) + "' is not supported; atScope(), principalId eq '{id}', assignedTo('{id}'), roleName eq '{name}' and type eq 'BuiltInRole' are, joined by 'and'."}
		}
		rest = after
	}
	return f, nil
}

// cutAnd splits at the first "and" that is outside of quotes.
func cutAnd(text string) (term, rest string, more bool) {
	quoted := false
	for i := range len(text) {
		if text[i] == '\'' {
			quoted = !quoted
		}
		if !quoted && len(text) >= i+5 && strings.EqualFold(text[i:i+5], " and ") {
			return strings.TrimSpace(text[:i]), strings.TrimSpace(text[i+5:]), true
		}
	}
	return strings.TrimSpace(text), "", false
}

func (f *AuthorizationFilter) term(text string) bool {
	if strings.EqualFold(text, "atScope()") {
		f.AtScope = true
		return true
	}
	value, ok := cutFold(text, "assignedTo(")
	if ok {
		value, ok = strings.CutSuffix(value, ")")
		f.AssignedTo, ok = unquote(value, ok)
		return ok
	}
	for field, into := range map[string]*string{"principalId eq ": &f.PrincipalID, "roleName eq ": &f.RoleName, "type eq ": &f.RoleType} {
		if value, ok := cutFold(text, field); ok {
			*into, ok = unquote(value, true)
			return ok
		}
	}
	return false
}

func cutFold(text, prefix string) (string, bool) {
	if len(text) < len(prefix) || !strings.EqualFold(text[:len(prefix)], prefix) {
		return "", false
	}
	return strings.TrimSpace(text[len(prefix):]), true
}

// unquote reads an OData string that is not empty; a quote in it is doubled.
func unquote(text string, ok bool) (string, bool) {
	if !ok || len(text) < 3 || text[0] != '\'' || text[len(text)-1] != '\'' {
		return "", false
	}
	inner := text[1 : len(text)-1]
	if strings.Contains(strings.ReplaceAll(inner, "''", ""), "'") {
		return "", false
	}
	return strings.ReplaceAll(inner, "''", "'"), true
}
