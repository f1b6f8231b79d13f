package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/idp"
	"github.com/sallyport/sallyport/internal/store"
)

// directory shows the store to the identity provider.
type directory struct{ store *store.Store }

// Application implements [idp.Directory].
func (d directory) Application(ctx context.Context, clientID string) (idp.Application, error) {
	item, err := d.store.Applications.Get(ctx, clientID)
	if err != nil {
		return idp.Application{}, err
	}
	a := item.Value
	return idp.Application{TenantID: a.TenantID, ClientID: a.ClientID, ObjectID: a.ObjectID, SecretHash: string(a.SecretHash)}, nil
}

// ManagedIdentity implements [idp.Directory].
func (d directory) ManagedIdentity(ctx context.Context, resourceUID string) (idp.Identity, error) {
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
	return idp.Identity{ResourceID: r.ID, TenantID: r.TenantID, ObjectID: r.Identity.ObjectID, AppID: r.Identity.AppID}, nil
}

// HasTenant implements [idp.Directory].
func (d directory) HasTenant(ctx context.Context, id string) (bool, error) {
	_, err := d.store.Tenants.Get(ctx, id)
	if errors.Is(err, access.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
