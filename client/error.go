package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// Error is a refusal by the server, or the failed end of an operation. It wraps
// one of the kinds of package access, so that callers decide with errors.Is.
type Error struct {
	// Status is the HTTP status; 200 with Operation set when the request was
	// accepted and the operation behind it failed.
	Status int
	// Operation is the final status of a long-running operation, "" otherwise.
	Operation access.OperationStatus
	Code      string // such as "NotFound"; "" when the reply was not understood
	Message   string // the server's own words
	Subcode   string // such as "GetTrustedAccessRoleBinding_NotFound", of bare bodies only
	RequestID string // x-ms-request-id, for the server's log
}

// Error gives code, message and request id.
func (e *Error) Error() string {
	var b strings.Builder
	switch {
	case e.Operation != "":
		fmt.Fprintf(&b, "operation %s", e.Operation)
		if e.Code != "" {
			fmt.Fprintf(&b, ": %s", e.Code)
		}
	case e.Code != "":
		b.WriteString(e.Code)
	default:
		fmt.Fprintf(&b, "status %d %s", e.Status, http.StatusText(e.Status))
	}
	if e.Message != "" {
		fmt.Fprintf(&b, ": %s", e.Message)
	}
	if e.RequestID != "" {
		fmt.Fprintf(&b, " (request %s)", e.RequestID)
	}
	return b.String()
}

// Unwrap returns the kind, or nil for a fault of the server's own.
func (e *Error) Unwrap() error {
	if e.Operation != "" {
		return operationKind(e)
	}
	switch e.Status {
	case http.StatusUnauthorized:
		return access.ErrUnauthenticated
	case http.StatusForbidden:
		return access.ErrForbidden
	case http.StatusNotFound, http.StatusGone:
		return access.ErrNotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return access.ErrConflict
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return access.ErrUnavailable
	}
	if e.Status >= 400 && e.Status < 500 {
		return access.ErrInvalid
	}
	return nil
}

// operationKind sorts the failures of operations. A canceled one was superseded
// by a later write (design, "A write is done when the cluster has it").
func operationKind(e *Error) error {
	switch {
	case e.Operation == access.OperationCanceled:
		return access.ErrConflict
	case e.Code == CodeAgentNotConnected, e.Code == CodeAgentNotResponding:
		return access.ErrUnavailable
	case e.Code == CodeRoleNotAllowed:
		return access.ErrForbidden
	}
	return nil
}

// Codes of operations on bindings that failed in the cluster. The binding is
// stored in each case.
const (
	CodeAgentNotConnected   = "AgentNotConnected"   // no agent took it up in time; it takes effect when one connects
	CodeAgentNotResponding  = "AgentNotResponding"  // an agent is there, but said nothing in time
	CodeRoleNotAllowed      = "RoleNotAllowed"      // a role is above the ceiling set at install
	CodeInvalidResourceType = "InvalidResourceType" // the server does not have what the path names
)

// maxMessage bounds the part of a reply that is not understood and is shown
// as it is.
const maxMessage = 512

// errorBody holds the shapes of an error at once: wrapped (ARM), bare (AKS,
// spec/trusted-access.md 2.2) and OAuth2 (RFC 6749 5.2), whose "error" is a
// string.
type errorBody struct {
	Error       json.RawMessage `json:"error"`
	Description string          `json:"error_description"`
	errorDetail
}

type errorDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Subcode string `json:"subcode"`
}

// newError reads the reply of a refused request.
func newError(status int, header http.Header, body []byte) *Error {
	e := &Error{Status: status, RequestID: header.Get("X-Ms-Request-Id")}
	var parsed errorBody
	if json.Unmarshal(body, &parsed) == nil {
		e.fill(parsed)
	}
	if e.Code == "" {
		e.Code = header.Get("X-Ms-Error-Code")
	}
	if e.Code == "" && e.Message == "" && !strings.HasPrefix(header.Get("Content-Type"), "text/html") {
		e.Message = strings.TrimSpace(string(body[:min(len(body), maxMessage)]))
	}
	return e
}

func (e *Error) fill(b errorBody) {
	detail := b.errorDetail
	var oauth string
	if len(b.Error) > 0 {
		if json.Unmarshal(b.Error, &oauth) == nil {
			detail = errorDetail{Code: oauth, Message: b.Description}
		} else if err := json.Unmarshal(b.Error, &detail); err != nil {
			return
		}
	}
	e.Code, e.Message, e.Subcode = detail.Code, detail.Message, detail.Subcode
}
