package idp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/access"
)

// Lease makes a token for an API that names a caller whom somebody else has
// authenticated, and returns it with its end. It is good for at most life. The
// error wraps [access.ErrNotFound] for a caller whose tenant is not one of this
// provider's, or an audience that the tenant does not have.
func (p *Provider) Lease(ctx context.Context, caller access.Principal, audience string, life time.Duration) (string, time.Time, error) {
	tenant, err := p.cfg.Directory.Tenant(ctx, strings.ToLower(caller.TenantID))
	if err != nil {
		return "", time.Time{}, fmt.Errorf("lease for a caller of tenant %s: %w", caller.TenantID, err)
	}
	if _, err := p.api(ctx, tenant.ID, audience); err != nil {
		return "", time.Time{}, fmt.Errorf("lease for audience %q: %w", access.Clip(audience, 200), err)
	}
	who, to := subject{tenantID: tenant.ID, objectID: caller.ObjectID, appID: caller.AppID, acr: "1", resource: caller.Resource.String()}, target{audience: audience}
	user, err := p.cfg.Directory.User(ctx, tenant.ID, caller.ObjectID)
	var t issued
	switch {
	case errors.Is(err, access.ErrNotFound): // an application, or a managed identity
		t, err = p.mint(p.cfg.Keys.current(), who, to, life)
	case err == nil:
		claims := userClaims(user, false)
		for name, value := range (jwt.MapClaims{"sub": user.ObjectID, "scp": "user_impersonation", "idtyp": "user"}) {
			claims[name] = value
		}
		t, err = p.signed(p.cfg.Keys.current(), who, to, life, claims)
	}
	return t.token, t.expires, err
}
