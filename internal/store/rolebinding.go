package store

import (
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// Bindings are found by id; those of a cluster are the list under the
// cluster's id's Key() + "/". Tombstones lie under their cluster's id too,
// named by the uid of the binding that was, since a name can be used again.

func bindingKey(v access.RoleBinding) (string, error) { return v.ID.Key(), nil }

func tombstoneKey(v access.Tombstone) (string, error) {
	if v.UID == "" || strings.Contains(v.UID, "/") {
		return "", fmt.Errorf("uid %q must be one segment: %w", access.Clip(v.UID, maxQuoted), access.ErrInvalid)
	}
	return v.Cluster.Key() + "/" + v.UID, nil
}
