package store

import (
	"fmt"

	"github.com/sallyport/sallyport/access"
)

// Operations are found by their id. Pending holds those in progress a second
// time, so that they are found at once after a restart; both records are
// written in one commit.

func operationKey(v access.Operation) (string, error) { return v.ID, nil }

func pendingKey(v access.Operation) (string, error) {
	if v.Status != access.OperationInProgress {
		return "", fmt.Errorf("operation %q has status %q, must be %q: %w", access.Clip(v.ID, maxQuoted), v.Status, access.OperationInProgress, access.ErrInvalid)
	}
	return v.ID, nil
}
