package store

import "time"

// Tenant is a directory of the embedded identity provider.
type Tenant struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
}

// Application is a client of the embedded identity provider. Its secret is
// kept only as a hash.
type Application struct {
	TenantID   string    `json:"tenantId"`
	ClientID   string    `json:"clientId"`
	ObjectID   string    `json:"objectId"`
	Name       string    `json:"name"`
	SecretHash []byte    `json:"secretHash,omitempty"`
	Operator   bool      `json:"operator,omitempty"` // of this installation, not of a subscription
	Created    time.Time `json:"created"`
}

// Tenants are found by their id, applications by their client id.

func tenantKey(v Tenant) (string, error) { return v.ID, nil }

func applicationKey(v Application) (string, error) { return v.ClientID, nil }
