package authorize

import (
	"context"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// Assignments is where role assignments are kept, such as a store. A read must
// show every write acknowledged before it began: what was deleted must not serve
// once more.
type Assignments interface {
	// RoleAssignmentsAt reads those made at exactly this scope.
	RoleAssignmentsAt(ctx context.Context, scope access.ResourceID) ([]access.RoleAssignment, error)
	// RoleAssignmentsWithin reads those made at a scope and below it; for the
	// zero scope, all.
	RoleAssignmentsWithin(ctx context.Context, scope access.ResourceID) ([]access.RoleAssignment, error)
}

// Roles says who may do what on ARM. It is safe for concurrent use.
type Roles struct {
	assignments Assignments
	definitions map[string]access.RoleDefinition // by name in lower case
	catalogue   []access.Role
	groups      func(ctx context.Context, p access.Principal) ([]string, error)
}

// NewRoles decides by these assignments of these definitions. Whatever the
// catalogue offers a role to may be a source, see [Rights.May]. groups says in
// which groups a principal is, whatever its token names; it is asked only where
// a group has been assigned a role.
func NewRoles(assignments Assignments, definitions []access.RoleDefinition, catalogue []access.Role, groups func(ctx context.Context, p access.Principal) ([]string, error)) *Roles {
	r := &Roles{assignments: assignments, definitions: map[string]access.RoleDefinition{}, catalogue: catalogue, groups: groups}
	for _, d := range definitions {
		r.definitions[strings.ToLower(d.Name)] = d
	}
	return r
}

// Rights are what one caller may do at the scopes they were read for. Elsewhere
// they allow nothing.
type Rights struct {
	held   []held
	source bool // the caller may be the source of a binding
	asked  bool // for the caller's groups
}

// held is a role that the caller has at a scope.
type held struct {
	key  string // of the scope
	role access.RoleDefinition
}

// At reads the caller's rights at a scope: a few small reads, one for the scope
// and each above it.
func (r *Roles) At(ctx context.Context, p access.Principal, scope access.ResourceID) (Rights, error) {
	rights := r.none(p)
	for ; !scope.IsZero(); scope = scope.Parent() {
		found, err := r.assignments.RoleAssignmentsAt(ctx, scope)
		if err == nil {
			err = r.hold(ctx, &rights, &p, found)
		}
		if err != nil {
			return Rights{}, err
		}
	}
	return rights, nil
}

// Within reads the caller's rights at a scope and everywhere below it, to judge
// a whole listing with; for the zero scope, everywhere.
func (r *Roles) Within(ctx context.Context, p access.Principal, scope access.ResourceID) (Rights, error) {
	rights, err := r.At(ctx, p, scope.Parent())
	if err != nil {
		return Rights{}, err
	}
	rights.asked = false // At asked for its own copy of p
	found, err := r.assignments.RoleAssignmentsWithin(ctx, scope)
	if err == nil {
		err = r.hold(ctx, &rights, &p, found)
	}
	return rights, err
}

func (r *Roles) none(p access.Principal) Rights {
	mayBeSource := func(id access.ResourceID) bool {
		return slices.ContainsFunc(r.catalogue, func(role access.Role) bool { return role.Fits(id) })
	}
	return Rights{source: mayBeSource(p.Resource) || mayBeSource(p.UsedBy)}
}

// hold adds the roles that p has among the assignments found. The groups that
// count are those it asks for, which it leaves in p.
func (r *Roles) hold(ctx context.Context, rights *Rights, p *access.Principal, found []access.RoleAssignment) error {
	toGroup := func(a access.RoleAssignment) bool { return strings.EqualFold(a.PrincipalType, "Group") }
	if !rights.asked && slices.ContainsFunc(found, toGroup) {
		groups, err := r.groups(ctx, *p)
		if err != nil {
			return err
		}
		rights.asked, p.Groups = true, groups
	}
	caller := *p
	if !rights.asked {
		caller.Groups = nil
	}
	for _, a := range found {
		// A role that is not known, such as one of a later version, gives nothing.
		if role, ok := r.definitions[strings.ToLower(a.Role)]; ok && a.AppliesTo(caller) {
			rights.held = append(rights.held, held{a.Scope.Key(), role})
		}
	}
	return nil
}

// None reports whether the caller has no role at all there.
func (r Rights) None() bool { return len(r.held) == 0 }

// Touch reports whether the caller has any role at a scope, above it or below.
func (r Rights) Touch(scope access.ResourceID) bool {
	key := scope.Key() + "/"
	return slices.ContainsFunc(r.held, func(h held) bool {
		return strings.HasPrefix(key, h.key+"/") || strings.HasPrefix(h.key+"/", key)
	})
}

// May reports whether the caller may do an action at a scope: one of the roles
// it has there or above allows it. Whatever roles it has, a resource that can be
// the source of a binding may not give rights to others or take the place of
// others, since they could consent for it.
func (r Rights) May(action string, scope access.ResourceID) bool {
	if r.source && slices.ContainsFunc(deniedToSources[:], func(pattern string) bool { return access.MatchesAction(pattern, action) }) {
		return false
	}
	key := scope.Key() + "/"
	return slices.ContainsFunc(r.held, func(h held) bool {
		return strings.HasPrefix(key, h.key+"/") && h.role.Allows(action)
	})
}

// deniedToSources is what would let a source consent for itself by way of
// another principal.
var deniedToSources = [...]string{
	"Microsoft.Authorization/*/write",
	"Microsoft.Authorization/*/delete",
	"Microsoft.Authorization/elevateAccess/action",
	"Microsoft.ManagedIdentity/userAssignedIdentities/assign/action",
	"Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials/write",
	"Sallyport.Gateway/managedIdentities/listCredentials/action",
}
