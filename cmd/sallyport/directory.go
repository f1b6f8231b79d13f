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
	if r.UID != resourceUID || r.Identity == nil && len(r.Uses) == 0 {
		return idp.Identity{}, fmt.Errorf("resource %s has no identity with that secret: %w", r.ID, access.ErrNotFound)
	}
	if r.Identity != nil {
		identity := idp.Identity{ResourceID: r.ID, Location: r.Location, TenantID: r.TenantID, ObjectID: r.Identity.ObjectID, AppID: r.Identity.AppID}
		if want.Is(identity) {
			return identity, nil
		}
	}
	return d.used(ctx, r, want)
}

// used is the one user-assigned identity of a resource that is wanted. Without a
// name it must be the only one, and no system-assigned one there, as IMDS has it.
func (d identities) used(ctx context.Context, r access.Resource, want idp.WantedIdentity) (idp.Identity, error) {
	missing := fmt.Errorf("resource %s has no such identity: %w", r.ID, access.ErrNotFound)
	if want == (idp.WantedIdentity{}) && len(r.Uses) != 1 {
		return idp.Identity{}, missing
	}
	for _, u := range r.Uses {
		identity := idp.Identity{ResourceID: u.ID, Location: r.Location, TenantID: r.TenantID, ObjectID: u.ObjectID, AppID: u.AppID, UsedBy: r.ID}
		if !want.Is(identity) {
			continue
		}
		item, err := d.store.Resources.Get(ctx, u.ID.Key())
		if err != nil {
			return idp.Identity{}, err
		}
		if item.Value.Identity == nil || item.Value.Identity.ObjectID != u.ObjectID { // another, of the same name
			return idp.Identity{}, missing
		}
		return identity, nil
	}
	return idp.Identity{}, missing
}
