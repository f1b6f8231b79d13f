package controlplane

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/store"
)

// Every write of an assignment writes the subscription's record too, unchanged.
// So two that both saw a rule kept, such as that a role is given once or that an
// owner is left, cannot both be done; and what is deleted goes in a transaction
// that holds to that record, with no assignment left at its id for a thing of
// the same name that is created later.

// listRoleAssignments shows those at the path's scope, and what is inherited
// from above and given below it.
func (c *ControlPlane) listRoleAssignments(ctx context.Context, q *request) (reply, error) {
	filter, err := arm.ParseAuthorizationFilter(q.http)
	if err != nil {
		return reply{}, err
	}
	scope := q.path.Extended()
	var found []access.RoleAssignment
	if filter.AtScope {
		found, err = c.store.RoleAssignmentsAt(ctx, scope)
	} else {
		found, err = c.store.RoleAssignmentsWithin(ctx, scope)
	}
	for above := scope.Parent(); err == nil && !above.IsZero(); above = above.Parent() {
		var more []access.RoleAssignment
		more, err = c.store.RoleAssignmentsAt(ctx, above)
		found = append(found, more...)
	}
	if err != nil {
		return reply{}, err
	}
	assigned := access.Principal{TenantID: q.subscription.Value.TenantID, ObjectID: filter.AssignedTo}
	if filter.AssignedTo != "" {
		if assigned.Groups, err = c.directory.Groups(ctx, assigned.TenantID, assigned.ObjectID); err != nil {
			return reply{}, err
		}
	}
	var shown []arm.RoleAssignment
	for _, a := range found {
		if filter.PrincipalID != "" && !strings.EqualFold(a.PrincipalID, filter.PrincipalID) {
			continue
		}
		assigned.TenantID = a.TenantID
		if filter.AssignedTo == "" || a.AppliesTo(assigned) {
			shown = append(shown, arm.NewRoleAssignment(a))
		}
	}
	page, err := arm.Paginate(q.http, shown, arm.PageSize, func(a arm.RoleAssignment) string { return strings.ToLower(a.ID) })
	return reply{status: http.StatusOK, body: page}, err
}

// assignment loads the path's assignment.
func (q *request) assignment(ctx context.Context) (store.Item[access.RoleAssignment], error) {
	item, err := q.c.store.RoleAssignments.Get(ctx, q.path.String())
	if errors.Is(err, access.ErrNotFound) {
		err = &arm.Error{Status: http.StatusNotFound, Code: "RoleAssignmentNotFound",
			Message: "The role assignment '" + q.vars["assignment"] + "' is not found."}
	}
	return item, err
}

func (c *ControlPlane) getRoleAssignment(ctx context.Context, q *request) (reply, error) {
	item, err := q.assignment(ctx)
	return reply{status: http.StatusOK, body: arm.NewRoleAssignment(item.Value)}, err
}

// roleAssignmentBody is what a PUT may say. Older api-versions have no
// principalType.
type roleAssignmentBody struct {
	Properties struct {
		RoleDefinitionID string  `json:"roleDefinitionId"`
		PrincipalID      string  `json:"principalId"`
		Description      string  `json:"description"`
		Condition        *string `json:"condition"`
		PrincipalType    string  `json:"principalType"`
	} `json:"properties"`
}

// putRoleAssignment gives a role: 201. The same again, under the same name, is
// 200 and changes at most the description.
func (c *ControlPlane) putRoleAssignment(ctx context.Context, q *request) (reply, error) {
	var body roleAssignmentBody
	if err := q.read(&body); err != nil {
		return reply{}, err
	}
	want, err := c.wantRoleAssignment(ctx, q, body)
	if err != nil {
		return reply{}, err
	}
	var status int
	var put access.RoleAssignment
	err = retry(ctx, func() error {
		status, put = http.StatusCreated, want // again, when another write came first
		sub, err := c.store.Subscriptions.Get(ctx, q.subscription.Key)
		if err != nil {
			return err
		}
		held, err := q.openScope(ctx, want.Scope)
		if err != nil {
			return err
		}
		items, _, err := c.store.RoleAssignments.List(ctx, store.AssignmentsAt(want.Scope))
		if err != nil {
			return err
		}
		write := c.store.RoleAssignments.Creating(want)
		for _, item := range items {
			old := item.Value
			switch {
			case strings.EqualFold(old.Name, want.Name) && !old.SameGrant(want):
				return &arm.Error{Status: http.StatusBadRequest, Code: "RoleAssignmentUpdateNotPermitted",
					Message: "Tenant ID, application ID, principal ID, and scope are not allowed to be updated."}
			case strings.EqualFold(old.Name, want.Name):
				old.Description, old.Updated, old.UpdatedBy = want.Description, want.Updated, want.UpdatedBy
				status, put, write = http.StatusOK, old, c.store.RoleAssignments.Updating(item, old)
			case old.SameGrant(want):
				return &arm.Error{Status: http.StatusConflict, Code: "RoleAssignmentExists", Message: "The role assignment already exists. The ID of the existing role assignment is " + strings.ReplaceAll(old.Name, "-", "") + "."}
			}
		}
		if err := q.allow(assignmentDetail(put)); err != nil {
			return err
		}
		_, err = q.commit(ctx, append(held, c.store.Subscriptions.Updating(sub, sub.Value), write)...)
		return err
	})
	return reply{status: status, body: arm.NewRoleAssignment(put)}, err
}

// assignmentDetail is what the audit log keeps.
func assignmentDetail(a access.RoleAssignment) map[string]any {
	return map[string]any{"scope": a.Scope, "role": a.Role, "principalTenantId": a.TenantID, "principalId": a.PrincipalID, "principalType": a.PrincipalType}
}

// wantRoleAssignment checks all that needs no look at other assignments.
func (c *ControlPlane) wantRoleAssignment(ctx context.Context, q *request, body roleAssignmentBody) (access.RoleAssignment, error) {
	p, now := body.Properties, c.cfg.Now()
	want := access.RoleAssignment{
		Name: q.vars["assignment"], Scope: q.path.Extended(), PrincipalID: strings.ToLower(p.PrincipalID), Description: access.Clip(p.Description, 1024),
		CreatedBy: q.caller.ObjectID, UpdatedBy: q.caller.ObjectID, Created: now, Updated: now,
	}
	if strings.HasPrefix(strings.ToLower(want.Scope.Type()), "microsoft.authorization/") {
		return want, arm.NoRoute(q.path)
	}
	if !access.IsGUID(want.Name) {
		return want, &arm.Error{Status: http.StatusBadRequest, Code: "InvalidRoleAssignmentId", Message: "The role assignment ID '" + want.Name + "' is not valid. The role assignment ID must be a GUID."}
	}
	if p.Condition != nil && *p.Condition != "" {
		return want, &arm.Error{Status: http.StatusBadRequest, Code: "InvalidRoleAssignmentCondition", // not ignored: it would give more than was meant
			Message: "Conditions of role assignments are not supported; assign the role at a narrower scope."}
	}
	if !access.IsGUID(p.PrincipalID) {
		return want, &arm.Error{Status: http.StatusBadRequest, Code: "InvalidPrincipalId", Message: "A valid principal ID must be provided for role assignment, a GUID; it is '" + access.Clip(p.PrincipalID, 100) + "'."}
	}
	role := p.RoleDefinitionID[strings.LastIndexByte(p.RoleDefinitionID, '/')+1:]
	for _, d := range c.builtIn {
		if strings.EqualFold(d.Name, role) {
			want.Role = d.Name
		}
	}
	if want.Role == "" {
		return want, &arm.Error{Status: http.StatusBadRequest, Code: "RoleDefinitionDoesNotExist",
			Message: "The specified role definition with ID '" + access.Clip(role, 100) + "' does not exist; GET " + arm.RoleDefinitionID(want.Scope, "") + " lists those that do."}
	}
	var err error
	want.TenantID, want.PrincipalType, err = c.principal(ctx, want.PrincipalID)
	if !errors.Is(err, access.ErrNotFound) {
		return want, err
	}
	// Nobody here knows him. In a tenant that we keep there is nobody else; of
	// one of the real cloud any object id may be somebody.
	want.TenantID, want.PrincipalType = q.subscription.Value.TenantID, p.PrincipalType
	_, err = c.store.Tenants.Get(ctx, want.TenantID)
	switch {
	case err == nil:
		return want, &arm.Error{Status: http.StatusBadRequest, Code: "PrincipalNotFound",
			Message: "Principal " + strings.ReplaceAll(want.PrincipalID, "-", "") + " does not exist in the directory " + want.TenantID + ". Check that you have the correct principal ID."}
	case !errors.Is(err, access.ErrNotFound):
		return want, err
	}
	return want, nil
}

// principal finds a user, a group, a service principal or a managed identity of
// the directory.
func (c *ControlPlane) principal(ctx context.Context, objectID string) (tenantID, kind string, err error) {
	user, err := c.store.Users.Get(ctx, objectID)
	if err == nil || !errors.Is(err, access.ErrNotFound) {
		return user.Value.TenantID, "User", err
	}
	group, err := c.store.UserGroups.Get(ctx, objectID)
	if err == nil || !errors.Is(err, access.ErrNotFound) {
		return group.Value.TenantID, "Group", err
	}
	apps, _, err := c.store.Applications.List(ctx, "")
	for _, app := range apps {
		if strings.EqualFold(app.Value.ObjectID, objectID) {
			return app.Value.TenantID, "ServicePrincipal", nil
		}
	}
	if err != nil {
		return "", "", err
	}
	resources, _, err := c.store.Resources.List(ctx, "")
	for _, r := range resources {
		if r.Value.Identity != nil && strings.EqualFold(r.Value.Identity.ObjectID, objectID) {
			return r.Value.TenantID, "ServicePrincipal", nil
		}
	}
	if err == nil {
		err = access.ErrNotFound
	}
	return "", "", err
}

// openScope holds an assignment to its scope, which must exist and not be on
// its way out. A resource of a type that others serve may be one of the real
// cloud, which nobody here can look for.
func (q *request) openScope(ctx context.Context, scope access.ResourceID) ([]store.Change, error) {
	var held []store.Change
	if scope.ResourceGroup() != "" {
		group, err := q.c.store.Groups.Get(ctx, groupOf(scope).Key())
		switch {
		case errors.Is(err, access.ErrNotFound) && (scope.Type() == "" || isReserved(scope.Type())):
			return nil, arm.ResourceGroupNotFound(scope.ResourceGroup())
		case errors.Is(err, access.ErrNotFound):
			held = append(held, q.c.store.Groups.Absent(groupOf(scope).Key()))
		case err != nil:
			return nil, err
		case group.Value.Deletion != "":
			return nil, arm.GroupBeingDeleted(scope.ResourceGroup())
		default:
			held = append(held, q.c.store.Groups.Unchanged(group))
		}
	}
	var change store.Change
	var err error
	switch at := scope; {
	case scope.Type() == "":
		return held, nil
	case scope.IsType(access.BindingType):
		var item store.Item[access.RoleBinding]
		item, err = q.c.store.Bindings.Get(ctx, at.Key())
		change = q.c.store.Bindings.Unchanged(item)
	case strings.HasPrefix(strings.ToLower(scope.Type())+"/", strings.ToLower(access.ClusterType)+"/"):
		for !at.IsType(access.ClusterType) { // a namespace, say, of a cluster
			at = at.Parent()
		}
		var item store.Item[access.Cluster]
		item, err = q.c.store.Clusters.Get(ctx, at.Key())
		change = q.c.store.Clusters.Unchanged(item)
	default:
		var item store.Item[access.Resource]
		item, err = q.c.store.Resources.Get(ctx, at.Key())
		change = q.c.store.Resources.Unchanged(item)
		if errors.Is(err, access.ErrNotFound) && !isReserved(scope.Type()) && !scope.IsType(access.UserAssignedType) {
			change, err = q.c.store.Resources.Absent(at.Key()), nil
		}
	}
	if errors.Is(err, access.ErrNotFound) {
		err = arm.ResourceNotFound(scope)
	}
	return append(held, change), err
}

// groupOf is the id of the resource group that id is in.
func groupOf(id access.ResourceID) access.ResourceID {
	for id.Type() != "" {
		id = id.Parent()
	}
	return id
}

// deleteRoleAssignment takes a role away, which is so for the next request.
func (c *ControlPlane) deleteRoleAssignment(ctx context.Context, q *request) (reply, error) {
	var gone access.RoleAssignment
	err := retry(ctx, func() error {
		sub, err := c.store.Subscriptions.Get(ctx, q.subscription.Key)
		if err != nil {
			return err
		}
		item, err := q.assignment(ctx)
		if err != nil {
			return err
		}
		gone = item.Value
		if err := c.checkOwnerLeft(ctx, gone); err != nil {
			return err
		}
		if err := q.allow(assignmentDetail(gone)); err != nil {
			return err
		}
		_, err = q.commit(ctx, c.store.Subscriptions.Updating(sub, sub.Value), c.store.RoleAssignments.Deleting(item))
		return err
	})
	var missing *arm.Error
	if errors.As(err, &missing) && missing.Code == "RoleAssignmentNotFound" {
		return reply{status: http.StatusNoContent}, q.allow(nil)
	}
	return reply{status: http.StatusOK, body: arm.NewRoleAssignment(gone)}, err
}

// checkOwnerLeft keeps the last owner of a subscription, as the real service
// does: without one nobody could give rights in it any more.
func (c *ControlPlane) checkOwnerLeft(ctx context.Context, gone access.RoleAssignment) error {
	if gone.Role != access.OwnerRole || gone.Scope.ResourceGroup() != "" || gone.Scope.Type() != "" {
		return nil
	}
	others, err := c.store.RoleAssignmentsAt(ctx, gone.Scope)
	if err != nil {
		return err
	}
	for _, a := range others {
		if a.Role == access.OwnerRole && a.Name != gone.Name {
			return nil
		}
	}
	return &arm.Error{Status: http.StatusPreconditionFailed, Code: "CannotDeleteLastRbacAdminAssignment",
		Message: "Cannot delete the last RBAC admin assignment: give another principal the role Owner at '" + gone.Scope.String() + "' first."}
}

// removingAssignments takes away the role assignments at what is being deleted
// and below it, and returns the condition that no more came. They go first, in
// transactions of their own: a whole cluster's could be more than one can hold,
// and a role that is gone too early gives nothing away.
func (c *ControlPlane) removingAssignments(ctx context.Context, scope access.ResourceID) (store.Change, error) {
	for {
		sub, err := c.store.Subscriptions.Get(ctx, "/subscriptions/"+scope.Subscription())
		if err != nil {
			return store.Change{}, err
		}
		items, _, err := c.store.RoleAssignments.List(ctx, scope.Key()+"/")
		if err != nil || len(items) == 0 {
			return c.store.Subscriptions.Unchanged(sub), err
		}
		var changes []store.Change
		for _, item := range items[:min(len(items), 100)] {
			changes = append(changes, c.store.RoleAssignments.Deleting(item))
		}
		if _, err := c.store.Commit(ctx, changes...); err != nil {
			return store.Change{}, raced(err)
		}
		c.log.Info("role assignments went with their scope", "scope", scope.String(), "count", len(changes))
	}
}

// listRoleDefinitions lists the built-in roles, which are the same everywhere.
func (c *ControlPlane) listRoleDefinitions(_ context.Context, q *request) (reply, error) {
	filter, err := arm.ParseAuthorizationFilter(q.http)
	if err != nil {
		return reply{}, err
	}
	shown := []arm.RoleDefinition{}
	for _, d := range c.builtIn {
		if (filter.RoleName == "" || strings.EqualFold(filter.RoleName, d.RoleName)) && (filter.RoleType == "" || strings.EqualFold(filter.RoleType, "BuiltInRole")) {
			shown = append(shown, arm.NewRoleDefinition(d, q.path.Extended()))
		}
	}
	return reply{status: http.StatusOK, body: arm.List[arm.RoleDefinition]{Value: shown}}, nil
}

func (c *ControlPlane) getRoleDefinition(_ context.Context, q *request) (reply, error) {
	for _, d := range c.builtIn {
		if strings.EqualFold(d.Name, q.vars["definition"]) {
			return reply{status: http.StatusOK, body: arm.NewRoleDefinition(d, q.path.Extended())}, nil
		}
	}
	return reply{}, &arm.Error{Status: http.StatusNotFound, Code: "RoleDefinitionDoesNotExist",
		Message: "The specified role definition with ID '" + access.Clip(q.vars["definition"], 100) + "' does not exist."}
}

// writeRoleDefinition refuses: there are the built-in roles and no others.
func (c *ControlPlane) writeRoleDefinition(context.Context, *request) (reply, error) {
	return reply{}, &arm.Error{Status: http.StatusBadRequest, Code: "CustomRolesNotSupported",
		Message: "Custom role definitions are not supported; the built-in roles are, and can be assigned at any subscription, resource group or resource."}
}
