package controlplane

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
)

// azureResourceRoleBindings is the preview API of 2022 (spec/trusted-access.md 8),
// off unless Config.PreviewRoleBindings. It is another form of the same
// bindings, with one role, and can say what the current API cannot: consent to
// every resource of the role's type in the subscription, by leaving the
// resource out. Its writes answer without an operation, as the shipped previews
// did.

// previewing refuses where the preview API is off, as ARM refuses what it has
// never heard of.
func (q *request) previewing() error {
	if !q.c.cfg.PreviewRoleBindings {
		return arm.NoRouteIn(q.path, q.version)
	}
	return nil
}

func (c *ControlPlane) listAzureBindings(ctx context.Context, q *request) (reply, error) {
	if err := q.previewing(); err != nil {
		return reply{}, err
	}
	cluster, err := q.cluster(ctx)
	if err != nil {
		return reply{}, err
	}
	items, _, err := c.store.Bindings.List(ctx, cluster.Value.ID.Key()+"/")
	if err != nil {
		return reply{}, err
	}
	var shown []arm.AzureRoleBinding
	for _, item := range items {
		if len(item.Value.Roles) == 1 { // one with more has no form here
			shown = append(shown, arm.NewAzureRoleBinding(item.Value))
		}
	}
	page, err := arm.Paginate(q.http, shown, arm.PageSize, func(b arm.AzureRoleBinding) string { return strings.ToLower(b.ID) })
	return reply{status: http.StatusOK, body: page}, err
}

// azureBinding loads the path's binding, if it has a form here.
func (q *request) azureBinding(ctx context.Context) (access.RoleBinding, error) {
	_, item, err := q.binding(ctx)
	if err == nil && len(item.Value.Roles) != 1 {
		err = &arm.Error{Status: http.StatusConflict, Code: "Conflict", Bare: true,
			Message: fmt.Sprintf("Binding '%s' has %d roles, and azureResourceRoleBindings have one; use trustedAccessRoleBindings.", item.Value.Name(), len(item.Value.Roles))}
	}
	return item.Value, err
}

func (c *ControlPlane) getAzureBinding(ctx context.Context, q *request) (reply, error) {
	if err := q.previewing(); err != nil {
		return reply{}, err
	}
	b, err := q.azureBinding(ctx)
	return reply{status: http.StatusOK, body: arm.NewAzureRoleBinding(b)}, err
}

func (c *ControlPlane) putAzureBinding(ctx context.Context, q *request) (reply, error) {
	if err := q.previewing(); err != nil {
		return reply{}, err
	}
	if err := access.CheckBindingName(q.vars["binding"]); err != nil {
		return reply{}, err
	}
	want, err := q.readAzureConsent()
	if err != nil {
		return reply{}, err
	}
	if _, err := q.azureBinding(ctx); err != nil && !isBindingNotFound(err) {
		return reply{}, err
	}
	written, _, err := c.consent(ctx, q, want)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: arm.NewAzureRoleBinding(written)}, nil
}

// readAzureConsent parses and checks what the body alone can tell.
func (q *request) readAzureConsent() (consent, error) {
	var body struct {
		Properties *struct {
			Role             string `json:"role"`
			TargetResourceID string `json:"targetResourceID"`
			IsClusterAdmin   bool   `json:"isClusterAdmin"`
		} `json:"properties"`
	}
	if err := q.read(&body); err != nil {
		return consent{}, err
	}
	p := body.Properties
	switch {
	case p == nil:
		return consent{}, arm.InvalidContent("'properties' is required, with 'role'")
	case p.IsClusterAdmin:
		return consent{}, arm.InvalidParameter("properties.isClusterAdmin", "'true' is refused: no binding gives cluster-admin. Leave it out, and name a role.")
	}
	var want consent
	var err error
	if p.TargetResourceID == "" {
		want.source, err = access.ParseResourceID("/subscriptions/" + q.vars["subscription"])
	} else if want.source, err = q.checkSource("properties.targetResourceID", p.TargetResourceID); err == nil && want.source.Type() == "" {
		err = arm.InvalidParameter("properties.targetResourceID", "'%s' is not a resource; leave it out for every resource of the role's type in the subscription.", want.source)
	}
	if err != nil {
		return consent{}, err
	}
	role, err := q.oneRole(p.Role, want.source)
	if err != nil {
		return consent{}, err
	}
	want.roles = []string{role.QualifiedName()}
	if want.source.IsSubscription() {
		want.wide = true
		return want, nil
	}
	return want, access.CheckRoles(q.c.cfg.Catalogue, want.source, want.roles)
}

// oneRole finds the role that a qualified or a short name means. A short name
// must mean one role alone, of those that fit the source if it is a resource.
func (q *request) oneRole(name string, source access.ResourceID) (access.Role, error) {
	if name == "" {
		return access.Role{}, arm.InvalidParameter("properties.role", "it is required: a role's name, such as 'backup-operator'.")
	}
	if role, ok := access.FindRole(q.c.cfg.Catalogue, name); ok {
		return role, nil
	}
	var found []access.Role
	for _, role := range q.c.cfg.Catalogue {
		if strings.EqualFold(role.Name, name) && (source.IsSubscription() || role.Fits(source)) {
			found = append(found, role)
		}
	}
	switch len(found) {
	case 0:
		return access.Role{}, access.UnknownRoleError{Role: name}
	case 1:
		return found[0], nil
	}
	return access.Role{}, arm.InvalidParameter("properties.role", "'%s' is the name of several roles; write '%s' or '%s'.", name, found[0].QualifiedName(), found[1].QualifiedName())
}

// deleteAzureBinding answers 200 and no body, as the shipped previews did.
func (c *ControlPlane) deleteAzureBinding(ctx context.Context, q *request) (reply, error) {
	if err := q.previewing(); err != nil {
		return reply{}, err
	}
	answer, err := c.deleteBinding(ctx, q)
	if err == nil && answer.status == http.StatusAccepted {
		answer = reply{status: http.StatusOK}
	}
	return answer, err
}
