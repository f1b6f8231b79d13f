package access

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// FederatedCredential says that whoever shows a token of this issuer, subject
// and audience may be a user-assigned identity (spec/identity.md 3.3).
type FederatedCredential struct {
	Identity  ResourceID `json:"identity"`
	Name      string     `json:"name"`
	Issuer    string     `json:"issuer"`  // compared as text, with its case
	Subject   string     `json:"subject"` // likewise
	Audiences []string   `json:"audiences"`
	Created   time.Time  `json:"created"`
}

// MaxFederatedCredentials is the most that an identity may have.
const MaxFederatedCredentials = 20

// FederatedCredentialType is their full ARM type.
const FederatedCredentialType = UserAssignedType + "/federatedIdentityCredentials"

// ID is the credential's ARM id.
func (f FederatedCredential) ID() string {
	return f.Identity.String() + "/federatedIdentityCredentials/" + f.Name
}

var federatedName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{2,119}$`)

// CheckFederatedCredential applies what the service asks of one by itself. The
// error wraps [ErrInvalid].
func CheckFederatedCredential(f FederatedCredential) error {
	switch {
	case !federatedName.MatchString(f.Name):
		return fmt.Errorf("the name %q of a federated identity credential must have 3 to 120 letters, digits, '-' or '_', and begin with a letter or digit: %w", Clip(f.Name, maxQuoted), ErrInvalid)
	case len(f.Audiences) != 1:
		return fmt.Errorf("a federated identity credential has exactly one audience, such as api://AzureADTokenExchange; properties.audiences has %d: %w", len(f.Audiences), ErrInvalid)
	}
	for field, value := range map[string]string{"issuer": f.Issuer, "subject": f.Subject, "audience": f.Audiences[0]} {
		switch {
		case value == "":
			return fmt.Errorf("the %s of a federated identity credential must not be empty: %w", field, ErrInvalid)
		case len(value) > 600:
			return fmt.Errorf("the %s of a federated identity credential has %d characters, the most is 600: %w", field, len(value), ErrInvalid)
		case strings.TrimSpace(value) != value || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' }):
			return fmt.Errorf("the %s %q of a federated identity credential must not begin or end with a blank or hold a control character, since it would match nothing: %w", field, Clip(value, maxQuoted), ErrInvalid)
		}
	}
	if !strings.HasPrefix(f.Issuer, "https://") {
		return fmt.Errorf("the issuer %q of a federated identity credential must be an https URL: %w", Clip(f.Issuer, maxQuoted), ErrInvalid)
	}
	return nil
}
