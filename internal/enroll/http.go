package enroll

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/strictjson"
)

const (
	maxBody  = 64 << 10 // bytes, each way
	bodyTime = 10 * time.Second
	maxDepth = 16 // of JSON, in bodies, tokens and key sets
)

// jsonRules fold case: bodies and key sets are read into structs, and a cluster's
// API server sends no two claims that differ in case only.
func jsonRules() strictjson.Rules { return strictjson.Rules{MaxDepth: maxDepth, FoldCase: true} }

// errorBody is the answer to a refused request, both ends' view of it.
type errorBody struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// errorKind ties a kind of failure to its status and code.
type errorKind struct {
	kind   error
	status int
	code   string
}

// errorKinds is read by the server from left to right and by the client from
// right to left.
func errorKinds() []errorKind {
	return []errorKind{
		{access.ErrInvalid, http.StatusBadRequest, "InvalidRequestContent"},
		{access.ErrUnauthenticated, http.StatusUnauthorized, "AuthenticationFailed"},
		{access.ErrForbidden, http.StatusForbidden, "AuthorizationFailed"},
		{access.ErrNotFound, http.StatusNotFound, "ResourceNotFound"},
		{access.ErrConflict, http.StatusConflict, "Conflict"},
		{access.ErrUnavailable, http.StatusServiceUnavailable, "ServiceUnavailable"},
	}
}

// answer is the frame of both requests: method, bearer token and body first,
// then a slot, then the work, then the record and the answer. The body is read
// before a slot is taken, so that slow clients keep nobody out.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, event Event,
	work func(ctx context.Context, bearer string, body []byte, event *Event) (any, error)) {
	event.At, event.Remote = s.cfg.Now(), s.cfg.Remote(r)
	result, err := func() (any, error) {
		if r.Method != http.MethodPost {
			return nil, fmt.Errorf("method %q must be POST: %w", access.Clip(r.Method, maxQuoted), access.ErrInvalid)
		}
		bearer, err := bearerToken(r.Header)
		if err != nil {
			return nil, err
		}
		body, err := readBody(w, r)
		if err != nil {
			return nil, err
		}
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		default:
			return nil, fmt.Errorf("%d enrolments and renewals are in work, try again: %w", cap(s.slots), access.ErrUnavailable)
		}
		ctx, cancel := context.WithTimeout(r.Context(), requestTime)
		defer cancel()
		return work(ctx, bearer, body, &event)
	}()
	if err != nil {
		event.Err = err
		event.Generation, event.Serial = 0, ""
	}
	s.cfg.Audit(event)
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, result)
}

// bearerToken returns the one bearer token of a request (RFC 6750, 2.1).
func bearerToken(header http.Header) (string, error) {
	values := header.Values("Authorization")
	if len(values) == 1 {
		scheme, token, ok := strings.Cut(values[0], " ")
		if ok && strings.EqualFold(scheme, "Bearer") && token != "" && len(token) <= maxToken {
			return token, nil
		}
	}
	return "", fmt.Errorf("one header \"Authorization: Bearer <token>\" of at most %d bytes is needed: %w", maxToken, access.ErrUnauthenticated)
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	// A wall-clock time, whatever Config.Now says: this is about the socket.
	err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("read body: %v: %w", err, access.ErrUnavailable)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("body must arrive within %v and have at most %d bytes: %w", bodyTime, maxBody, access.ErrInvalid)
	}
	return body, nil
}

// writeError tells the client the kind and, since errors hold no secrets, the
// text; an error of no kind is ours, and its text stays here.
func writeError(w http.ResponseWriter, err error) {
	var body errorBody
	status := http.StatusInternalServerError
	body.Error.Code, body.Error.Message = "InternalServerError", "The server failed to answer; its log says why."
	for _, k := range errorKinds() {
		if errors.Is(err, k.kind) {
			status, body.Error.Code, body.Error.Message = k.status, k.code, err.Error()
			break
		}
	}
	switch status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, status, body)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	// A failure here is the client's connection, and the client will see it.
	_ = json.NewEncoder(w).Encode(v)
}
