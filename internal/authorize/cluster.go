package authorize

import (
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// ClusterID returns the id of the cluster with this uid, in any casing. It
// grants nothing, so it may answer from an index that is not fresh. The error
// wraps [access.ErrNotFound], or [access.ErrUnavailable] before the index is
// loaded.
func (x *Index) ClusterID(uid string) (access.ResourceID, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if !x.isLoaded() {
		return access.ResourceID{}, fmt.Errorf("the index of clusters is not loaded yet: %w", access.ErrUnavailable)
	}
	key, ok := x.byUID[strings.ToLower(uid)]
	if !ok {
		return access.ResourceID{}, fmt.Errorf("no cluster with uid %s is registered here: %w", access.Clip(uid, 64), access.ErrNotFound)
	}
	return x.clusters[key].ID, nil
}
