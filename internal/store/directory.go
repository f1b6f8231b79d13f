package store

import "time"

// Tenant is a directory of the embedded identity provider.
type Tenant struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	// Domains are its verified domains in lower case, the default one first.
	// A domain belongs to one tenant.
	Domains []string  `json:"domains,omitempty"`
	Created time.Time `json:"created"`
}

// Application is a client of the embedded identity provider, an API for which
// tokens are, or both: the application and its service principal in one.
// Secrets are kept only as hashes.
type Application struct {
	TenantID string `json:"tenantId"`
	ClientID string `json:"clientId"`
	ObjectID string `json:"objectId"` // of its service principal; empty for none, and then nobody signs in by it
	// RegistrationID is the object id of the application itself; empty for
	// service principals alone, such as the first operator.
	RegistrationID string    `json:"registrationId,omitempty"`
	Name           string    `json:"name"`
	Created        time.Time `json:"created"`
	Operator       bool      `json:"operator,omitempty"` // of this installation, not of a subscription
	Disabled       bool      `json:"disabled,omitempty"` // the service principal is

	SecretHash   []byte        `json:"secretHash,omitempty"` // the first operator's, without an end
	Secrets      []Secret      `json:"secrets,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"`

	// As an API: by what it is asked for, and what its tokens look like.
	IdentifierURIs []string `json:"identifierUris,omitempty"`
	TokenVersion   int      `json:"tokenVersion,omitempty"` // 2, else 1
	GroupClaims    bool     `json:"groupClaims,omitempty"`
	Scopes         []string `json:"scopes,omitempty"`

	// As a client of users.
	PublicClient bool     `json:"publicClient,omitempty"` // may sign users in without a secret
	RedirectURIs []string `json:"redirectUris,omitempty"`
	// WebRedirects are those of RedirectURIs at which it answers as a web
	// application, which has a secret, also where they are on the user's machine.
	WebRedirects []string `json:"webRedirects,omitempty"`

	// Document is the registration as Graph's clients wrote it, JSON without
	// secrets; the fields above follow from it.
	Document []byte `json:"document,omitempty"`
}

// Secret is one password of an application.
type Secret struct {
	KeyID string    `json:"keyId"`
	Name  string    `json:"name,omitempty"`
	Hint  string    `json:"hint,omitempty"` // its first characters, by which its owner knows it
	Hash  []byte    `json:"hash"`
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// Certificate is one that an application signs its assertions with.
type Certificate struct {
	KeyID string    `json:"keyId"`
	Name  string    `json:"name,omitempty"`
	DER   []byte    `json:"der"`
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// User is a person.
type User struct {
	TenantID     string    `json:"tenantId"`
	ObjectID     string    `json:"objectId"`
	UPN          string    `json:"upn"` // user principal name, name@domain
	DisplayName  string    `json:"displayName"`
	GivenName    string    `json:"givenName,omitempty"`
	Surname      string    `json:"surname,omitempty"`
	Mail         string    `json:"mail,omitempty"`
	MailNickname string    `json:"mailNickname,omitempty"`
	Disabled     bool      `json:"disabled,omitempty"`
	PasswordHash string    `json:"passwordHash,omitempty"` // by a slow hash; empty: cannot sign in
	Stamp        string    `json:"stamp"`                  // new whenever older sign-ins must end
	Created      time.Time `json:"created"`
}

// UserName finds a user by name. It is written and deleted in one commit with
// the user, so that a name has one user.
type UserName struct {
	UPN      string `json:"upn"`
	ObjectID string `json:"objectId"`
}

// Group is a security group.
type Group struct {
	TenantID     string    `json:"tenantId"`
	ObjectID     string    `json:"objectId"`
	DisplayName  string    `json:"displayName"`
	Description  string    `json:"description,omitempty"`
	MailNickname string    `json:"mailNickname,omitempty"`
	Members      []string  `json:"members,omitempty"` // object ids
	Owners       []string  `json:"owners,omitempty"`  // object ids
	Created      time.Time `json:"created"`
}

// Tenants are found by their id, applications by their client id, users and
// groups by their object id.

func tenantKey(v Tenant) (string, error) { return v.ID, nil }

func applicationKey(v Application) (string, error) { return v.ClientID, nil }

func userKey(v User) (string, error) { return v.ObjectID, nil }

func userNameKey(v UserName) (string, error) { return v.UPN, nil }

func directoryGroupKey(v Group) (string, error) { return v.ObjectID, nil }
