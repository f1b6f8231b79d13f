package main

import (
	"context"
	"fmt"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/idp"
	"github.com/sallyport/sallyport/internal/store"
)

// identities is the identity provider's view of who exists: the directory, and
// the managed identities of resources.
type identities struct {
	*directory.Directory
	store *store.Store
}

// ManagedIdentity implements [idp.Directory].
func (d identities) ManagedIdentity(ctx context.Context, resourceUID string, want idp.WantedIdentity) (idp.Identity, error) {
	named, err := d.store.ResourceUIDs.Get(ctx, resourceUID)
	if err != nil {
		return idp.Identity{}, err
	}
	item, err := d.store.Resources.Get(ctx, named.Value.ID.Key())
	if err != nil {
		return idp.Identity{}, err
	}
	r := item.Value
	if r.UID != resourceUID || r.Identity == nil {
		return idp.Identity{}, fmt.Errorf("resource %s has no identity with that secret: %w", r.ID, access.ErrNotFound)
	}
	identity := idp.Identity{ResourceID: r.ID, Location: r.Location, TenantID: r.TenantID, ObjectID: r.Identity.ObjectID, AppID: r.Identity.AppID}
	if !want.Is(identity) {
		return idp.Identity{}, fmt.Errorf("resource %s has no such identity: %w", r.ID, access.ErrNotFound)
	}
	return identity, nil
}
