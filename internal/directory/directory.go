package directory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/store"
)

// DefaultDomain is the verified domain of a tenant that was given none. The
// top-level domain is reserved for private use (ICANN, 2024).
const DefaultDomain = "sallyport.internal"

// Directory reads the store's directory records. Safe for concurrent use.
type Directory struct {
	store *store.Store
}

// New returns the directory in a store.
func New(s *store.Store) *Directory { return &Directory{store: s} }

// Domains returns a tenant's verified domains, the default one first.
func Domains(t store.Tenant) []string {
	if len(t.Domains) == 0 {
		return []string{DefaultDomain}
	}
	return t.Domains
}

// Tenant returns the tenant with this id or verified domain, in any casing.
// The error wraps [access.ErrNotFound].
func (d *Directory) Tenant(ctx context.Context, name string) (store.Tenant, error) {
	if access.IsGUID(name) {
		item, err := d.store.Tenants.Get(ctx, name)
		return item.Value, err
	}
	items, _, err := d.store.Tenants.List(ctx, "")
	if err != nil {
		return store.Tenant{}, err
	}
	for _, item := range items {
		if slices.ContainsFunc(Domains(item.Value), func(domain string) bool { return strings.EqualFold(domain, name) }) {
			return item.Value, nil
		}
	}
	return store.Tenant{}, fmt.Errorf("tenant %q: %w", access.Clip(name, 200), access.ErrNotFound)
}

// Application returns the application with this client id in a tenant. The
// error wraps [access.ErrNotFound].
func (d *Directory) Application(ctx context.Context, tenantID, clientID string) (store.Application, error) {
	missing := fmt.Errorf("application %q of tenant %s: %w", access.Clip(clientID, 200), tenantID, access.ErrNotFound)
	if !access.IsGUID(clientID) {
		return store.Application{}, missing
	}
	for _, app := range FirstParty(tenantID) {
		if strings.EqualFold(app.ClientID, clientID) {
			return app, nil
		}
	}
	item, err := d.store.Applications.Get(ctx, clientID)
	if err == nil && !strings.EqualFold(item.Value.TenantID, tenantID) {
		return store.Application{}, missing
	}
	return item.Value, err
}

// Home returns the tenant of an application that is asked for without one, as
// at /common: its own, or "" for those that exist in every tenant. The error
// wraps [access.ErrNotFound].
func (d *Directory) Home(ctx context.Context, clientID string) (tenantID string, err error) {
	if !access.IsGUID(clientID) {
		return "", fmt.Errorf("application %q: %w", access.Clip(clientID, 200), access.ErrNotFound)
	}
	for _, app := range FirstParty("") {
		if strings.EqualFold(app.ClientID, clientID) {
			return "", nil
		}
	}
	item, err := d.store.Applications.Get(ctx, clientID)
	return item.Value.TenantID, err
}

// API returns the application of a tenant that is meant by an audience: its
// client id, "spn:" and that, or one of its identifier URIs, with or without a
// slash at the end. The error wraps [access.ErrNotFound].
func (d *Directory) API(ctx context.Context, tenantID, audience string) (store.Application, error) {
	name := strings.TrimSuffix(strings.TrimPrefix(audience, "spn:"), "/")
	if access.IsGUID(name) {
		return d.Application(ctx, tenantID, name)
	}
	means := func(app store.Application) bool {
		return slices.ContainsFunc(app.IdentifierURIs, func(uri string) bool { return name != "" && strings.EqualFold(strings.TrimSuffix(uri, "/"), name) })
	}
	for _, app := range FirstParty(tenantID) {
		if means(app) {
			return app, nil
		}
	}
	items, _, err := d.store.Applications.List(ctx, "")
	if err != nil {
		return store.Application{}, err
	}
	for _, item := range items {
		if strings.EqualFold(item.Value.TenantID, tenantID) && means(item.Value) {
			return item.Value, nil
		}
	}
	return store.Application{}, fmt.Errorf("API %q of tenant %s: %w", access.Clip(audience, 200), tenantID, access.ErrNotFound)
}

// User returns the user of a tenant with this object id or user principal
// name. The error wraps [access.ErrNotFound].
func (d *Directory) User(ctx context.Context, tenantID, name string) (store.User, error) {
	missing := fmt.Errorf("user %q of tenant %s: %w", access.Clip(name, 200), tenantID, access.ErrNotFound)
	id := name
	if !access.IsGUID(name) {
		named, err := d.store.UserNames.Get(ctx, name)
		if errors.Is(err, access.ErrInvalid) { // no name that a user could have
			return store.User{}, missing
		}
		if err != nil {
			return store.User{}, err
		}
		id = named.Value.ObjectID
	}
	item, err := d.store.Users.Get(ctx, id)
	if err == nil && !strings.EqualFold(item.Value.TenantID, tenantID) {
		return store.User{}, missing
	}
	return item.Value, err
}

// GroupsOf returns the object ids of the groups that a caller is in. Of a tenant
// that is kept here the directory knows, and a token is not asked: who was taken
// out of a group has it in his token for as long as a day. Of others, such as a
// real Entra tenant, the token alone says.
func (d *Directory) GroupsOf(ctx context.Context, p access.Principal) ([]string, error) {
	_, err := d.store.Tenants.Get(ctx, p.TenantID)
	switch {
	case errors.Is(err, access.ErrNotFound):
		return p.Groups, nil
	case err != nil:
		return nil, err
	}
	return d.Groups(ctx, p.TenantID, p.ObjectID)
}

// Groups returns the object ids of the groups of a tenant that an object is
// in, also by way of other groups, in order.
func (d *Directory) Groups(ctx context.Context, tenantID, objectID string) ([]string, error) {
	items, _, err := d.store.UserGroups.List(ctx, "")
	if err != nil {
		return nil, err
	}
	in := map[string][]string{} // object id: the groups that name it
	for _, item := range items {
		if !strings.EqualFold(item.Value.TenantID, tenantID) {
			continue
		}
		for _, member := range item.Value.Members {
			in[strings.ToLower(member)] = append(in[strings.ToLower(member)], item.Value.ObjectID)
		}
	}
	seen := map[string]bool{}
	var found []string
	for next := []string{objectID}; len(next) > 0; next = next[1:] {
		for _, group := range in[strings.ToLower(next[0])] {
			if !seen[group] {
				seen[group] = true
				found = append(found, group)
				next = append(next, group)
			}
		}
	}
	slices.SortFunc(found, cmp.Compare)
	return found, nil
}

// objectIn derives the object id of a first-party application in a tenant, so
// that it is the same after each start without being stored (RFC 9562 5.5).
func objectIn(tenantID, clientID string) string {
	if tenantID == "" {
		return ""
	}
	space, err := uuid.Parse(tenantID)
	if err != nil {
		return ""
	}
	return uuid.NewSHA1(space, []byte(strings.ToLower(clientID))).String()
}
