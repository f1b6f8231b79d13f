package idp

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
)

// oauthError is a refusal in the words of OAuth (RFC 6749 5.2) with Entra's
// number (spec/identity.md 3.4).
type oauthError struct {
	status int
	kind   string // "invalid_client"
	code   int    // of AADSTS; 0 outside it
	text   string
	cause  error // for the log only
	basic  bool  // the client tried HTTP Basic, and is to be challenged
}

func fail(status int, kind string, code int, format string, args ...any) *oauthError {
	return &oauthError{status: status, kind: kind, code: code, text: fmt.Sprintf(format, args...)}
}

// described is the text with its number, as people look it up.
func (e *oauthError) described() string { return "AADSTS" + strconv.Itoa(e.code) + ": " + e.text }

func notFound() *oauthError {
	return fail(http.StatusNotFound, "invalid_request", 9002313, "There is no such endpoint.")
}

func methodNotAllowed(method, allowed string) *oauthError {
	return fail(http.StatusMethodNotAllowed, "invalid_request", 900561, "The endpoint only accepts %s requests. Received a %s request.", allowed, clip(method))
}

func unknownTenant(tenant string) *oauthError {
	return fail(http.StatusBadRequest, "invalid_request", 90002, "Tenant '%s' not found. Check to make sure you have the correct tenant ID, or a verified domain of the tenant.", clip(tenant))
}

func unavailable(cause error) *oauthError {
	e := fail(http.StatusServiceUnavailable, "temporarily_unavailable", 90033, "A transient error has occurred. Please try again.")
	e.cause = cause
	return e
}

func invalidRequest(format string, args ...any) *oauthError {
	return fail(http.StatusBadRequest, "invalid_request", 9002313, format, args...)
}

func missingParameter(name string) *oauthError {
	return fail(http.StatusBadRequest, "invalid_request", 900144, "The request body must contain the following parameter: '%s'.", name)
}

func unknownResource(audience, tenant string) *oauthError {
	return fail(http.StatusBadRequest, "invalid_resource", 500011, "The resource principal named %s was not found in the tenant named %s.", clip(audience), tenant)
}

// errorBody is the shape of spec/identity.md 3.4.
type errorBody struct {
	Error         string `json:"error"`
	Description   string `json:"error_description"`
	Codes         []int  `json:"error_codes"`
	Timestamp     string `json:"timestamp"`
	TraceID       string `json:"trace_id"`
	CorrelationID string `json:"correlation_id"`
	URI           string `json:"error_uri"`
}

func (e *oauthError) body(trace, correlation string, now time.Time) errorBody {
	stamp := now.UTC().Format("2006-01-02 15:04:05Z")
	return errorBody{
		Error:       e.kind,
		Description: fmt.Sprintf("%s Trace ID: %s Correlation ID: %s Timestamp: %s", e.described(), trace, correlation, stamp),
		Codes:       []int{e.code}, Timestamp: stamp, TraceID: trace, CorrelationID: correlation,
		URI: fmt.Sprintf("https://login.microsoftonline.com/error?code=%d", e.code),
	}
}

// reply writes an answer or a failure and the request's one line of log. Only
// fields from a fixed list are logged (checklist item 39).
func (p *Provider) reply(w http.ResponseWriter, c *call, answer any, failure *oauthError) {
	r := c.request
	trace := uuid.NewString()
	correlation := r.Header.Get("client-request-id")
	if !access.IsGUID(correlation) {
		correlation = uuid.NewString()
	}
	w.Header().Set("x-ms-request-id", trace)
	if r.Header.Get("return-client-request-id") == "true" {
		w.Header().Set("client-request-id", correlation)
	}
	status := http.StatusOK
	fields := []any{"endpoint", c.name, "method", clip(r.Method), "tenant", guidOnly(c.tenant), "client", guidOnly(c.client), "trace", trace}
	if failure != nil {
		status, answer = failure.status, failure.body(trace, correlation, p.cfg.Now())
		fields = append(fields, "error", failure.kind, "code", failure.code)
		if failure.cause != nil {
			fields = append(fields, "cause", failure.cause)
		}
		if failure.basic {
			w.Header().Set("WWW-Authenticate", `Basic realm="sallyport"`)
		}
	}
	pg, isPage := answer.(page)
	if failure != nil && c.page {
		pg, isPage = page{Title: "That did not work", Text: failure.described(), status: failure.status}, true
	}
	if isPage {
		status = cmp.Or(pg.status, http.StatusOK)
		writePage(w, pg)
	} else {
		writeJSON(w, status, answer)
	}
	p.metrics.answered(c.name, status)
	p.cfg.Logger.Info("identity provider", append(fields, "status", status)...)
}

// guidOnly keeps out of the log what is not an id: it may be a secret that
// was put in the wrong place.
func guidOnly(s string) string {
	if !access.IsGUID(s) {
		return ""
	}
	return s
}

func writeJSON(w http.ResponseWriter, status int, answer any) {
	raw, err := json.Marshal(answer)
	if err != nil { // all answers are strings and numbers
		status, raw = http.StatusInternalServerError, []byte(`{"error":"server_error"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store, no-cache")
	h.Set("Pragma", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(raw) // the client has gone; nobody is left to tell
}

// clip shortens a value of the client's that is quoted back.
func clip(s string) string {
	return cmp.Or(access.Clip(s, 200), "(empty)")
}
