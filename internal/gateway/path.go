package gateway

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// PathPrefix is the first segment of every data-plane address:
// https://host/k8s{clusterId}.
const PathPrefix = "/k8s"

// maxPath bounds a request's path and query together, in bytes.
const maxPath = 32 << 10

// target is what a request's address says, read once.
type target struct {
	cluster access.ResourceID
	path    string // to forward, in the bytes of the request, beginning with "/"
	query   string // raw
}

// parseTarget reads the address of a data-plane request. It refuses whatever
// the gateway and an API server could read differently: absolute forms, empty
// and dot segments, and encoded dots, slashes, backslashes and NUL. The error
// wraps [access.ErrInvalid], or [access.ErrNotFound] when the path names no
// cluster.
func parseTarget(u *url.URL, requestURI string) (target, error) {
	if len(requestURI) > maxPath {
		return target{}, fmt.Errorf("the request's address has %d bytes, more than %d: %w", len(requestURI), maxPath, access.ErrInvalid)
	}
	if !strings.HasPrefix(requestURI, "/") {
		return target{}, fmt.Errorf("the request's address must begin with /: %w", access.ErrInvalid)
	}
	// Of a path with a character that must be escaped, EscapedPath is a cleaned
	// copy, in which an encoded slash or dot is a plain one.
	raw, _, _ := strings.Cut(requestURI, "?")
	if raw != u.EscapedPath() {
		return target{}, fmt.Errorf("the path has a character that must be percent-encoded: %w", access.ErrInvalid)
	}
	rest, ok := strings.CutPrefix(raw, PathPrefix+"/")
	if !ok {
		return target{}, fmt.Errorf("the address must begin with %s/subscriptions/: %w", PathPrefix, access.ErrNotFound)
	}
	if err := checkPath(rest); err != nil {
		return target{}, err
	}
	if _, err := url.ParseQuery(u.RawQuery); err != nil {
		return target{}, fmt.Errorf("the query cannot be read: %v: %w", err, access.ErrInvalid)
	}
	// /subscriptions/S/resourceGroups/G/providers/NS/managedClusters/C
	const idSegments = 8
	segments := strings.SplitN(rest, "/", idSegments+1)
	if len(segments) < idSegments {
		return target{}, fmt.Errorf("the address must be %s followed by a cluster's resource id: %w", PathPrefix, access.ErrNotFound)
	}
	id, err := access.ParseResourceID("/" + strings.Join(segments[:idSegments], "/"))
	if err != nil {
		return target{}, err
	}
	if !id.IsType(access.ClusterType) || id.ResourceGroup() == "" {
		return target{}, fmt.Errorf("%s is not a managed cluster: %w", id, access.ErrNotFound)
	}
	path := "/"
	if len(segments) > idSegments {
		path += segments[idSegments]
	}
	return target{cluster: id, path: path, query: u.RawQuery}, nil
}

// checkPath refuses what could be read in two ways. A trailing slash is
// allowed, since kubectl proxies services with one.
func checkPath(path string) error {
	lower := strings.ToLower(path)
	for _, bad := range []string{"%2e", "%2f", "%5c", "%00", "\\"} {
		if strings.Contains(lower, bad) {
			return fmt.Errorf("the path contains %q, which readers disagree on: %w", bad, access.ErrInvalid)
		}
	}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		// A parameter such as "..;x" is a dot segment to some readers.
		name, _, _ := strings.Cut(segment, ";")
		if name == "." || name == ".." || segment == "" && i != len(segments)-1 {
			return fmt.Errorf("the path contains the segment %q: %w", segment, access.ErrInvalid)
		}
	}
	return nil
}

// mayUpgrade reports whether the path is one of the subresources that speak
// another protocol (checklist, item 9). nodes/proxy is not among them: an
// upgraded GET of it is an exec through the kubelet, past RBAC for pods/exec.
func mayUpgrade(path string) bool {
	// /api/v1/namespaces/NS/{pods|services}/NAME/SUB[/...]
	seg := strings.Split(path, "/")
	if len(seg) < 8 || seg[1] != "api" || seg[2] != "v1" || seg[3] != "namespaces" {
		return false
	}
	switch kind, sub := seg[5], seg[7]; kind {
	case "pods":
		return sub == "proxy" || len(seg) == 8 && (sub == "exec" || sub == "attach" || sub == "portforward")
	case "services":
		return sub == "proxy"
	default:
		return false
	}
}
