package authenticate

import (
	"fmt"

	"github.com/sallyport/sallyport/access"
)

// Code is ARM's name for why a token was refused (spec/identity.md 6.3).
type Code string

// The codes of a refusal.
const (
	Missing       Code = "AuthenticationFailed"
	Invalid       Code = "InvalidAuthenticationToken"
	Expired       Code = "ExpiredAuthenticationToken"
	WrongAudience Code = "InvalidAuthenticationTokenAudience"
	WrongTenant   Code = "InvalidAuthenticationTokenTenant"
)

// Refusal says why a caller is not authenticated. It wraps
// [access.ErrUnauthenticated], and its text is safe to send to the caller.
type Refusal struct {
	Code    Code
	Message string
}

// Error returns the message.
func (r *Refusal) Error() string { return r.Message }

// Unwrap makes it an [access.ErrUnauthenticated].
func (*Refusal) Unwrap() error { return access.ErrUnauthenticated }

func refuse(code Code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Message: fmt.Sprintf(format, args...)}
}

// maxQuoted is how many bytes of a value from outside an error quotes.
const maxQuoted = 200
