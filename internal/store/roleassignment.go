package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// Role assignments are found by their ids. Those at one scope are the list
// under [AssignmentsAt]; those at a scope and below it, the list under the scope's
// Key() + "/".

func roleAssignmentKey(v access.RoleAssignment) (string, error) {
	// Of two assignments one could otherwise lie under the other's folder.
	if strings.HasPrefix(strings.ToLower(v.Scope.Type()), "microsoft.authorization/") {
		return "", fmt.Errorf("scope %s is itself of Microsoft.Authorization: %w", v.Scope, access.ErrInvalid)
	}
	return strings.ToLower(v.ID()), nil
}

// AssignmentsAt is the prefix of the keys of the assignments made at exactly this
// scope.
func AssignmentsAt(scope access.ResourceID) string {
	return scope.Key() + "/providers/" + strings.ToLower(access.RoleAssignmentType) + "/"
}

// RoleAssignmentsAt reads the assignments made at exactly this scope.
func (s *Store) RoleAssignmentsAt(ctx context.Context, scope access.ResourceID) ([]access.RoleAssignment, error) {
	return values(s.RoleAssignments.List(ctx, AssignmentsAt(scope)))
}

// RoleAssignmentsWithin reads the assignments made at a scope and below it; for
// the zero scope, all.
func (s *Store) RoleAssignmentsWithin(ctx context.Context, scope access.ResourceID) ([]access.RoleAssignment, error) {
	if scope.IsZero() {
		return values(s.RoleAssignments.List(ctx, ""))
	}
	return values(s.RoleAssignments.List(ctx, scope.Key()+"/"))
}

func values[T any](items []Item[T], _ int64, err error) ([]T, error) {
	out := make([]T, len(items))
	for i, item := range items {
		out[i] = item.Value
	}
	return out, err
}
