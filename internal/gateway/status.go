package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// status is the part of a Kubernetes Status object that clients read
// (k8s.io/apimachinery, meta/v1).
type status struct {
	Kind       string         `json:"kind"`
	APIVersion string         `json:"apiVersion"`
	Metadata   struct{}       `json:"metadata"`
	Status     string         `json:"status"`
	Message    string         `json:"message"`
	Reason     string         `json:"reason"`
	Details    *statusDetails `json:"details,omitempty"`
	Code       int            `json:"code"`
}

type statusDetails struct {
	RetryAfterSeconds int `json:"retryAfterSeconds,omitempty"`
}

// errHeadersTooLarge is answered with 431 (RFC 6585, 5).
var errHeadersTooLarge = errors.New("the request's headers are too large")

// refusal is what a request is answered when it is not forwarded.
type refusal struct {
	requestID string
	path      string // as in the cluster, "" if it could not be read
	err       error
}

// refuse counts and answers a refusal of one of the gateway's steps.
func (g *Gateway) refuse(w *recorder, step string, r refusal) {
	w.refused = r.err
	g.metrics.refused(step, r.err)
	refuse(w, r)
}

// refuse answers with the Status of the error's kind. An error of no kind is a
// fixed text: its cause is for the log alone.
func refuse(w http.ResponseWriter, r refusal) {
	err := r.err
	s := status{Kind: "Status", APIVersion: "v1", Status: "Failure", Message: access.Message(err)}
	var over *limitError
	var refused *tunnel.RefusedError
	switch {
	case errors.As(err, &over):
		// As apierrors.NewTooManyRequests has it; client-go waits and asks again.
		s.Code, s.Reason = http.StatusTooManyRequests, "TooManyRequests"
		s.Details = &statusDetails{RetryAfterSeconds: over.seconds()}
		w.Header().Set("Retry-After", strconv.Itoa(over.seconds()))
	case errors.Is(err, errHeadersTooLarge):
		s.Code, s.Reason = http.StatusRequestHeaderFieldsTooLarge, "RequestHeaderFieldsTooLarge"
	case errors.Is(err, errMisdirected):
		s.Code, s.Reason = http.StatusMisdirectedRequest, "MisdirectedRequest"
	case errors.Is(err, access.ErrInvalid):
		s.Code, s.Reason = http.StatusBadRequest, "BadRequest"
	case errors.Is(err, access.ErrUnauthenticated):
		s.Code, s.Reason = http.StatusUnauthorized, "Unauthorized"
		if !errors.Is(err, errTokenEnded) {
			s.Message = "Invalid token: " + s.Message
		}
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	case errors.Is(err, access.ErrForbidden):
		s.Code, s.Reason = http.StatusForbidden, "Forbidden"
	case errors.Is(err, access.ErrNotFound):
		s.Code, s.Reason = http.StatusNotFound, "NotFound"
	case errors.Is(err, access.ErrUnavailable):
		s.Code, s.Reason = http.StatusServiceUnavailable, "ServiceUnavailable"
		s.Details = &statusDetails{RetryAfterSeconds: 1}
		w.Header().Set("Retry-After", "1")
	case errors.Is(err, errLost), errors.Is(err, errBadAnswer), errors.Is(err, tunnel.ErrNoAnswer):
		s.Code, s.Reason = http.StatusBadGateway, "InternalError"
	case errors.As(err, &refused):
		// A failure of the agent, or an API server that gave it no proper answer.
		s.Code, s.Reason = http.StatusBadGateway, "InternalError"
		s.Message = "the cluster's agent got no proper answer to the request"
	default:
		s.Code, s.Reason = http.StatusInternalServerError, "InternalError"
		s.Message = "internal error"
	}
	// It helps an owner only, who has to ask the control plane; a caller learns
	// nothing by it that he was not told already.
	s.Message += " (request " + r.requestID + "; the cluster's owner learns more with 'sallyport explain " + r.requestID + "')"
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Audit-Id", r.requestID)
	if r.path == "/api" || r.path == "/apis" {
		// Of a refused discovery kubectl shows the body if it is text, and
		// "unknown" if it is a Status; and discovery is what it asks first.
		h.Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(s.Code)
		fmt.Fprintln(w, s.Message)
		return
	}
	h.Set("Content-Type", "application/json")
	w.WriteHeader(s.Code)
	// An error means that the client is gone; there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(s)
}
