package arm

import "github.com/sallyport/sallyport/access"

// SystemIdentity is the body of a look-up of a resource's system-assigned
// identity.
type SystemIdentity struct {
	ID         string                   `json:"id"`
	Name       string                   `json:"name"`
	Type       string                   `json:"type"`
	Location   string                   `json:"location,omitempty"`
	Properties SystemIdentityProperties `json:"properties"`
}

// SystemIdentityProperties are an identity's ids.
type SystemIdentityProperties struct {
	TenantID    string `json:"tenantId"`
	PrincipalID string `json:"principalId"`
	ClientID    string `json:"clientId"`
}

// NewSystemIdentity shows r's, at the path it was looked up by; r must have one.
func NewSystemIdentity(path Path, r access.Resource) SystemIdentity {
	return SystemIdentity{
		ID: path.String(), Name: "default", Type: "Microsoft.ManagedIdentity/identities", Location: r.Location,
		Properties: SystemIdentityProperties{TenantID: r.TenantID, PrincipalID: r.Identity.ObjectID, ClientID: r.Identity.AppID},
	}
}

// FederatedCredential is a federated identity credential's body.
type FederatedCredential struct {
	ID         string                        `json:"id"`
	Name       string                        `json:"name"`
	Type       string                        `json:"type"`
	Properties FederatedCredentialProperties `json:"properties"`
}

// FederatedCredentialProperties say whose tokens are trusted.
type FederatedCredentialProperties struct {
	Issuer    string   `json:"issuer"`
	Subject   string   `json:"subject"`
	Audiences []string `json:"audiences"`
}

// NewFederatedCredential shows f.
func NewFederatedCredential(f access.FederatedCredential) FederatedCredential {
	return FederatedCredential{
		ID: f.ID(), Name: f.Name, Type: access.FederatedCredentialType,
		Properties: FederatedCredentialProperties{Issuer: f.Issuer, Subject: f.Subject, Audiences: f.Audiences},
	}
}
