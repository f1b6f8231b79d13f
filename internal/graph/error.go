package graph

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/authenticate"
)

// Error is a refusal in Graph's words.
type Error struct {
	Status  int
	Code    string
	Message string
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

func refuse(status int, code, format string, args ...any) *Error {
	return &Error{status, code, fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) *Error {
	return refuse(http.StatusBadRequest, "Request_BadRequest", format, args...)
}

func notFound(id string) *Error {
	return refuse(http.StatusNotFound, "Request_ResourceNotFound", "Resource '%s' does not exist or one of its queried reference-property objects are not present.", access.Clip(id, 200))
}

func unsupportedQuery(format string, args ...any) *Error {
	return refuse(http.StatusBadRequest, "Request_UnsupportedQuery", format, args...)
}

func exists(property, value string) *Error {
	return badRequest("Another object with the same value for property %s already exists: '%s'.", property, access.Clip(value, 200))
}

// asError maps an error to Graph's. What has no kind is a fixed text.
func asError(err error) *Error {
	var e *Error
	var refusal *authenticate.Refusal
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &refusal):
		return refuse(http.StatusUnauthorized, "InvalidAuthenticationToken", "%s", refusal.Message)
	case errors.Is(err, access.ErrInvalid):
		return badRequest("%s", access.Message(err))
	case errors.Is(err, access.ErrNotFound):
		return refuse(http.StatusNotFound, "Request_ResourceNotFound", "%s", access.Message(err))
	case errors.Is(err, access.ErrConflict):
		return refuse(http.StatusConflict, "Directory_ConcurrencyViolation", "The object was changed meanwhile. Try again.")
	case errors.Is(err, access.ErrUnavailable):
		return refuse(http.StatusServiceUnavailable, "ServiceUnavailable", "The directory is not available. Try again.")
	}
	return refuse(http.StatusInternalServerError, "InternalServerError", "The request could not be served.")
}

func writeError(w http.ResponseWriter, e *Error, id string, now time.Time) {
	if e.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize"`)
	}
	writeJSON(w, e.Status, object{"error": object{
		"code": e.Code, "message": e.Message,
		"innerError": object{"date": now.UTC().Format("2006-01-02T15:04:05"), "request-id": id, "client-request-id": id},
	}})
}

func writeJSON(w http.ResponseWriter, status int, answer object) {
	raw, err := json.Marshal(answer)
	if err != nil { // strings, numbers and what was read as JSON
		status, raw = http.StatusInternalServerError, []byte(`{"error":{"code":"InternalServerError"}}`)
	}
	w.Header().Set("Content-Type", "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(raw) // the client has gone; nobody is left to tell
}
