package controlplane

import (
	"context"
	"net/http"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
)

// listRoles shows the catalogue, the same in every location, in its own order
// and on one page, as the real service does.
func (c *ControlPlane) listRoles(context.Context, *request) (reply, error) {
	roles := c.cfg.Catalogue
	if roles == nil {
		roles = []access.Role{}
	}
	return reply{status: http.StatusOK, body: arm.RoleList{Value: roles}}, nil
}
