package access

import "errors"

// The six kinds of failure. Rooms wrap them with %w, saying what was done to
// what; the edges map a kind to a status once (ARM in package arm, Kubernetes
// in package gateway). An error of no kind is answered with a fixed text, and
// its cause stays in the log.
var (
	ErrInvalid         = errors.New("invalid")
	ErrUnauthenticated = errors.New("not authenticated")
	ErrForbidden       = errors.New("forbidden")
	ErrNotFound        = errors.New("not found")
	ErrConflict        = errors.New("conflict")
	ErrUnavailable     = errors.New("unavailable")
)
