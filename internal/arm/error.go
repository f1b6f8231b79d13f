package arm

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// Error is a failure in ARM's words. It is a value of its own where the spec
// gives a text or code; everything else reaches the wire through [FromError].
type Error struct {
	Status  int // HTTP status
	Code    string
	Message string
	// Subcode is a bare body's third member, "" to leave it out.
	Subcode string
	// Bare chooses the resource provider's envelope, without "error" around.
	Bare bool
	// Challenge is the WWW-Authenticate header of a 401.
	Challenge string
	// RetryAfter is the header's value in whole seconds, 0 for none.
	RetryAfter int
}

// Error gives the code and message.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Unwrap gives the kind of failure that the status stands for.
func (e *Error) Unwrap() error {
	switch e.Status {
	case http.StatusUnauthorized:
		return access.ErrUnauthenticated
	case http.StatusForbidden:
		return access.ErrForbidden
	case http.StatusNotFound:
		return access.ErrNotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return access.ErrConflict
	case http.StatusServiceUnavailable:
		return access.ErrUnavailable
	case http.StatusInternalServerError:
		return nil
	}
	return access.ErrInvalid
}

// FromError maps any error to ARM's words: an [*Error] to itself, the six
// kinds of access to a status and code, and all else to a 500 with a fixed
// text. Texts of unavailability are fixed too: their causes name our insides.
func FromError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var unknown access.UnknownRoleError
	if errors.As(err, &unknown) {
		return UnknownRole(unknown.Role)
	}
	switch {
	case errors.Is(err, access.ErrInvalid):
		return &Error{Status: http.StatusBadRequest, Code: "InvalidParameter", Message: access.Message(err), Bare: true}
	case errors.Is(err, access.ErrUnauthenticated):
		return &Error{Status: http.StatusUnauthorized, Code: "InvalidAuthenticationToken", Message: "The access token is invalid."}
	case errors.Is(err, access.ErrForbidden):
		return &Error{Status: http.StatusForbidden, Code: "AuthorizationFailed", Message: access.Message(err)}
	case errors.Is(err, access.ErrNotFound):
		return &Error{Status: http.StatusNotFound, Code: "ResourceNotFound", Message: access.Message(err)}
	case errors.Is(err, access.ErrConflict):
		return &Error{Status: http.StatusConflict, Code: "Conflict", Message: access.Message(err)}
	case errors.Is(err, access.ErrUnavailable):
		return &Error{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable", RetryAfter: 1,
			Message: "The service cannot answer at the moment. Please try again; of a write, read first whether it was made. The server's /readyz?verbose names what fails, and its log says why."}
	}
	return &Error{Status: http.StatusInternalServerError, Code: "InternalServerError",
		Message: "The service met an unexpected condition. Its log holds the cause under the request id in x-ms-request-id."}
}

// MarshalJSON writes the envelope.
func (e *Error) MarshalJSON() ([]byte, error) {
	type words struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Subcode string `json:"subcode,omitempty"`
	}
	w := words{e.Code, e.Message, e.Subcode}
	if e.Bare {
		return marshal(w)
	}
	return marshal(map[string]words{"error": w})
}

// BindingNotFound answers the GET of an unknown binding, word for word.
func BindingNotFound(binding access.ResourceID) *Error {
	return &Error{Status: http.StatusNotFound, Code: "NotFound", Subcode: "GetTrustedAccessRoleBinding_NotFound", Bare: true,
		Message: fmt.Sprintf("Could not find the trusted access role binding %s in subscription: %s, resourceGroup: %s, clusterName: %s.",
			binding.Name(), binding.Subscription(), binding.ResourceGroup(), binding.Parent().Name())}
}

// UnknownRole answers a PUT with a role that the catalogue does not hold, in
// the sentence of spec/trusted-access.md 2.2.
func UnknownRole(role string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "InvalidParameter", Bare: true,
		Message: "The value of parameter properties.roles is invalid. Error details: non-exist role: " + access.Clip(role, maxQuoted) +
			", please refer to http://aka.ms/aks/ta/role to list available roles. Please see https://aka.ms/aks-naming-rules for more details."}
}

// ResourceNotFound answers for a resource that does not exist.
func ResourceNotFound(id access.ResourceID) *Error {
	return &Error{Status: http.StatusNotFound, Code: "ResourceNotFound",
		Message: fmt.Sprintf("The Resource '%s/%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
			id.Type(), id.Name(), orNull(id.ResourceGroup()))}
}

// ParentNotFound answers the creation of a child of a resource that does not
// exist.
func ParentNotFound(id access.ResourceID) *Error {
	return &Error{Status: http.StatusNotFound, Code: "ParentResourceNotFound",
		Message: fmt.Sprintf("Failed to perform 'write' on resource(s) of type '%s', because the parent resource '%s' could not be found.", id.Type(), id.Parent())}
}

// ResourceGroupNotFound answers for a group that does not exist.
func ResourceGroupNotFound(name string) *Error {
	return &Error{Status: http.StatusNotFound, Code: "ResourceGroupNotFound", Message: "Resource group '" + name + "' could not be found."}
}

// SubscriptionNotFound answers for a subscription that does not exist.
func SubscriptionNotFound(name string) *Error {
	return &Error{Status: http.StatusNotFound, Code: "SubscriptionNotFound", Message: "The subscription '" + name + "' could not be found."}
}

// InvalidSubscriptionID answers for a subscription that is no GUID.
func InvalidSubscriptionID(name string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "InvalidSubscriptionId",
		Message: "The provided subscription identifier '" + access.Clip(name, maxQuoted) + "' is malformed or invalid; a GUID is expected."}
}

// NoRoute answers for what a path names and this server, as it is set up, does
// not have.
func NoRoute(path Path) *Error { return NoRouteIn(path, "") }

// NoRouteIn answers a request whose path no route has, in the api-version that
// it asked for.
func NoRouteIn(path Path, version string) *Error {
	if len(path) < 2 || !equalFold(path[0], "subscriptions") {
		return &Error{Status: http.StatusNotFound, Code: "MissingSubscription",
			Message: "The request did not have a subscription or a valid tenant level resource provider."}
	}
	namespace, in := path.Namespace(), "this api version"
	if version != "" {
		in = "api version '" + version + "'"
	}
	return &Error{Status: http.StatusNotFound, Code: "InvalidResourceType",
		Message: fmt.Sprintf("The resource type '%s' could not be found in the namespace '%s' for %s.",
			access.Clip(strings.TrimPrefix(path.Type(), namespace+"/"), maxQuoted), access.Clip(namespace, maxQuoted), in)}
}

// NoNamespace answers for a resource provider that nobody has heard of.
func NoNamespace(name string) *Error {
	return &Error{Status: http.StatusNotFound, Code: "InvalidResourceNamespace", Message: "The resource namespace '" + access.Clip(name, maxQuoted) + "' is invalid."}
}

// NotRegistered answers a write in a resource provider that the subscription
// unregistered. SDKs register it and try again (spec/identity.md 6.5).
func NotRegistered(namespace string) *Error {
	return &Error{Status: http.StatusConflict, Code: "MissingSubscriptionRegistration",
		Message: "The subscription is not registered to use namespace '" + namespace + "'. See https://aka.ms/rps-not-found for how to register subscriptions."}
}

// GroupBeingDeleted answers a write into a group whose deletion has begun.
func GroupBeingDeleted(name string) *Error {
	return &Error{Status: http.StatusConflict, Code: "ResourceGroupBeingDeleted",
		Message: "The resource group '" + name + "' is in deprovisioning state and cannot perform this operation."}
}

// MaxMethod is how many bytes of a request's method are quoted, logged or
// recorded; HTTP sets no bound.
const MaxMethod = 20

// MethodNotAllowed answers for a path that is served with other methods.
func MethodNotAllowed(method string) *Error {
	return &Error{Status: http.StatusMethodNotAllowed, Code: "MethodNotAllowed",
		Message: "The http method '" + access.Clip(method, MaxMethod) + "' is not supported for this resource; the Allow header names those that are."}
}

// MissingToken is the code of a 401 to a request without a bearer token.
const MissingToken = "AuthenticationFailed"

// Unauthenticated answers a request whose caller is unknown. Code is one of
// the five of spec/identity.md 6.3, login the authority to sign in at. The
// tenant in the challenge is what tools learn a subscription's tenant from.
func Unauthenticated(code, message, login, tenant string) *Error {
	description := "The access token is invalid."
	if code == MissingToken {
		description = "The authentication failed because of missing 'Authorization' header."
	}
	return &Error{Status: http.StatusUnauthorized, Code: code, Message: message,
		Challenge: fmt.Sprintf(`Bearer authorization_uri="%s/%s", error="invalid_token", error_description="%s"`, login, tenant, description)}
}

// AuthorizationFailed answers a caller who may not do action over scope.
func AuthorizationFailed(p access.Principal, action, scope string) *Error {
	client := p.AppID
	if client == "" {
		client = p.ObjectID
	}
	return &Error{Status: http.StatusForbidden, Code: "AuthorizationFailed",
		Message: fmt.Sprintf("The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s' or the scope is invalid. If access was recently granted, please refresh your credentials.",
			client, p.ObjectID, action, scope)}
}

// LinkedAuthorizationFailed answers a caller who may do action over scope, but
// not what that takes over another resource, linked. The sentence is the real
// service's.
func LinkedAuthorizationFailed(p access.Principal, action, scope, linkedAction, linked string) *Error {
	client := p.AppID
	if client == "" {
		client = p.ObjectID
	}
	return &Error{Status: http.StatusForbidden, Code: "LinkedAuthorizationFailed",
		Message: fmt.Sprintf("The client '%s' with object id '%s' has permission to perform action '%s' on scope '%s'; however, it does not have permission to perform action '%s' on the linked scope(s) '%s' or the linked scope(s) are invalid.",
			client, p.ObjectID, action, scope, linkedAction, linked)}
}

// InvalidContent answers a body that could not be read as what it should be.
func InvalidContent(format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "InvalidRequestContent",
		Message: "The request content was invalid: " + fmt.Sprintf(format, args...) + "."}
}

// InvalidParameter answers a field whose value cannot be: which, what it was,
// and what would be accepted.
func InvalidParameter(field, format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "InvalidParameter", Bare: true,
		Message: "The value of parameter " + field + " is invalid. Error details: " + fmt.Sprintf(format, args...)}
}

// LocationRequired answers the creation of a resource without a location.
func LocationRequired() *Error {
	return &Error{Status: http.StatusBadRequest, Code: "LocationRequired",
		Message: "The location property is required for this definition: a region such as 'westeurope'."}
}

func equalFold(a, b string) bool { return strings.EqualFold(a, b) }

func orNull(s string) string {
	if s == "" {
		return "<null>"
	}
	return s
}
