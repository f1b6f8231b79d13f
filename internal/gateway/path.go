package gateway

import (
	"cmp"
	"fmt"
	"net/url"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/requestinfo"
)

// PathPrefix is the first segment of every data-plane address:
// https://host/k8s{clusterId}.
const PathPrefix = "/k8s"

// maxPath bounds a request's path and query together, in bytes.
const maxPath = 32 << 10

// target is what a request's address says, read once.
type target struct {
	cluster access.ResourceID
	prefix  string // what stands before path in the address the client uses
	path    string // to forward, in the bytes of the request, beginning with "/"
	query   string // raw
}

// parseTarget reads the address of a data-plane request in the path form. It
// refuses whatever the gateway and an API server could read differently:
// absolute forms, empty and dot segments, and encoded dots, slashes, backslashes
// and NUL. The error wraps [access.ErrInvalid], or [access.ErrNotFound] when the
// path names no cluster.
func parseTarget(u *url.URL, requestURI string) (target, error) {
	raw, err := parsePath(u, requestURI)
	if err != nil {
		return target{}, err
	}
	rest, ok := strings.CutPrefix(raw, PathPrefix+"/")
	if !ok {
		return target{}, fmt.Errorf("the address must begin with %s/subscriptions/: %w", PathPrefix, access.ErrNotFound)
	}
	if err := requestinfo.CheckPath(rest); err != nil {
		return target{}, err
	}
	prefix, path, ok := cutID(raw)
	if !ok {
		return target{}, fmt.Errorf("the address must be %s followed by a cluster's resource id: %w", PathPrefix, access.ErrNotFound)
	}
	id, err := access.ParseResourceID(prefix[len(PathPrefix):])
	if err != nil {
		return target{}, err
	}
	if !id.IsType(access.ClusterType) || id.ResourceGroup() == "" {
		return target{}, fmt.Errorf("%s is not a managed cluster: %w", id, access.ErrNotFound)
	}
	return target{cluster: id, prefix: prefix, path: path, query: u.RawQuery}, nil
}

// cutID cuts a path behind a cluster's id, which has as many segments as
// /subscriptions/S/resourceGroups/G/providers/NS/managedClusters/C. It reports
// whether there are as many.
func cutID(raw string) (prefix, path string, ok bool) {
	const idSegments = 8
	end := len(PathPrefix)
	for range idSegments {
		if end == len(raw) {
			return "", "", false
		}
		if next := strings.IndexByte(raw[end+1:], '/'); next >= 0 {
			end += 1 + next
		} else {
			end = len(raw)
		}
	}
	return raw[:end], cmp.Or(raw[end:], "/"), true
}

// parsePath returns the bytes of a request's path.
func parsePath(u *url.URL, requestURI string) (string, error) {
	if len(requestURI) > maxPath {
		return "", fmt.Errorf("the request's address has %d bytes, more than %d: %w", len(requestURI), maxPath, access.ErrInvalid)
	}
	if !strings.HasPrefix(requestURI, "/") {
		return "", fmt.Errorf("the request's address must begin with /: %w", access.ErrInvalid)
	}
	// Of a path with a character that must be escaped, EscapedPath is a cleaned
	// copy, in which an encoded slash or dot is a plain one.
	raw, _, _ := strings.Cut(requestURI, "?")
	if raw != u.EscapedPath() {
		return "", fmt.Errorf("the path has a character that must be percent-encoded: %w", access.ErrInvalid)
	}
	if _, err := url.ParseQuery(u.RawQuery); err != nil {
		return "", fmt.Errorf("the query cannot be read: %v: %w", err, access.ErrInvalid)
	}
	return raw, nil
}
