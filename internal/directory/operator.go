package directory

import (
	"context"
	"errors"

	"github.com/sallyport/sallyport/access"
)

// IsOperator reports whether a caller is an operator of this installation: the
// application's tenant, client id and object id must all be the caller's. A
// managed identity never is.
func (d *Directory) IsOperator(ctx context.Context, p access.Principal) (bool, error) {
	if !access.IsGUID(p.AppID) || !p.Resource.IsZero() {
		return false, nil
	}
	item, err := d.store.Applications.Get(ctx, p.AppID)
	if errors.Is(err, access.ErrNotFound) {
		return false, nil
	}
	app := item.Value
	return err == nil && app.Operator && app.TenantID == p.TenantID && app.ClientID == p.AppID && app.ObjectID == p.ObjectID, err
}
