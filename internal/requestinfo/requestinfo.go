package requestinfo

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metainternalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/sallyport/sallyport/access"
)

// Info is what an API server takes a request to be.
type Info struct {
	// Verb is Kubernetes' own, "get", "list", "watch", "deletecollection" and so
	// on; of a path that is no resource it is the method in lower case. It is
	// empty for OPTIONS on an application's path, for which RBAC has no verb.
	Verb        string
	APIGroup    string // "" is the core group
	APIVersion  string
	Resource    string
	Subresource string
	Namespace   string
	Name        string
	Path        string // decoded
	IsResource  bool   // else only Verb and Path are set
}

// Parse reads a request as kube-apiserver does. path is in the bytes that are
// forwarded, without the cluster's prefix, and rawQuery without the "?". The
// error wraps [access.ErrInvalid].
func Parse(method, path, rawQuery string) (Info, error) {
	if !slices.Contains(methods(), method) {
		return Info{}, fmt.Errorf("method %q: an API server knows %s: %w", access.Clip(method, 20), strings.Join(methods(), ", "), access.ErrInvalid)
	}
	decoded, err := decode(path)
	if err != nil {
		return Info{}, err
	}
	query, err := decodeQuery(rawQuery)
	if err != nil {
		return Info{}, err
	}
	info, err := resolve(method, decoded, "")
	if err != nil {
		return Info{}, err
	}
	if err := info.checkPath(method, path); err != nil {
		return Info{}, err
	}
	if info.Application() {
		return info, nil
	}
	if err := info.checkQuery(query); err != nil {
		return Info{}, err
	}
	if info.Verb == "list" && (query.Has("watch") || query.Has("fieldSelector")) { // it may be a watch, or of one name
		return resolve(method, decoded, rawQuery)
	}
	return info, nil
}

func methods() []string {
	return []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}
}

// resolve asks Kubernetes' own reader, set up as kube-apiserver's is
// (k8s.io/apiserver, pkg/server.NewRequestInfoResolver).
func resolve(method, decoded, rawQuery string) (Info, error) {
	factory := request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	r, err := factory.NewRequestInfo(&http.Request{Method: method, URL: &url.URL{Path: decoded, RawQuery: rawQuery}})
	if err != nil {
		return Info{}, fmt.Errorf("the path %q names no resource: %w", access.Clip(decoded, 256), access.ErrInvalid)
	}
	return Info{
		Verb: r.Verb, APIGroup: r.APIGroup, APIVersion: r.APIVersion, Resource: r.Resource, Subresource: r.Subresource,
		Namespace: r.Namespace, Name: r.Name, Path: r.Path, IsResource: r.IsResourceRequest,
	}, nil
}

// Application reports whether the request goes to an application behind the
// API server's proxy of pods and services: path, query, headers and body are
// then that application's, not Kubernetes'.
func (i Info) Application() bool {
	return i.core() && i.Subresource == "proxy" && (i.Resource == "pods" || i.Resource == "services")
}

// MayUpgrade reports whether the request is for one of the subresources that
// speak another protocol (checklist, item 9). nodes/proxy is not among them: an
// upgraded GET of it is an exec through the kubelet, past RBAC for pods/exec.
func (i Info) MayUpgrade() bool {
	if i.Application() {
		return true
	}
	if !i.core() || i.Resource != "pods" || !strings.HasSuffix(i.Path, "/"+i.Name+"/"+i.Subresource) {
		return false
	}
	return i.Subresource == "exec" || i.Subresource == "attach" || i.Subresource == "portforward"
}

// core reports whether this is a named, namespaced resource of core/v1.
func (i Info) core() bool {
	return i.IsResource && i.APIGroup == "" && i.APIVersion == "v1" && i.Namespace != "" && i.Name != "" && i.Verb != "watch"
}

// checkPath refuses paths that are well formed but could be taken for another
// resource, or for another method's.
func (i Info) checkPath(method, path string) error {
	segments := strings.Split(path[1:], "/")
	if first := segments[0]; first != strings.ToLower(first) && slices.Contains([]string{"api", "apis"}, strings.ToLower(first)) {
		return fmt.Errorf("the path begins with %q; API paths begin with api or apis, in lower case: %w", first, access.ErrInvalid)
	}
	if i.Application() {
		segments = segments[:len([]string{"api", "v1", "namespaces", "NAMESPACE", "pods", "NAME", "proxy"})]
	}
	for _, segment := range segments {
		if err := checkSegment(segment); err != nil {
			return err
		}
	}
	if !i.IsResource {
		return nil
	}
	for _, word := range []string{i.APIGroup, i.APIVersion, i.Resource, i.Subresource} {
		if !plain(word) {
			return fmt.Errorf("%q in the path must be lower-case letters, digits, dots and dashes: %w", access.Clip(word, 64), access.ErrInvalid)
		}
	}
	switch {
	case i.Verb == "proxy":
		return fmt.Errorf("the path is of the form /api/v1/proxy/..., which Kubernetes no longer serves; use .../NAME/proxy/...: %w", access.ErrInvalid)
	case i.Verb == "watch" && (method != http.MethodGet || i.Subresource != ""):
		return fmt.Errorf("a path of the form /api/v1/watch/... takes only GET, and no subresource: %w", access.ErrInvalid)
	case i.Verb == "" && !i.Application():
		return fmt.Errorf("method %s has no verb on a resource: %w", method, access.ErrInvalid)
	}
	return nil
}

// checkQuery refuses queries that decide what a request is in a way that
// readers could differ on. A value is never quoted: it could be anything.
func (i Info) checkQuery(query url.Values) error {
	collection := i.Verb == "list" || i.Verb == "deletecollection"
	for name, values := range query {
		if strings.EqualFold(name, "_method") {
			return fmt.Errorf("the query has %q: a request's method is the one it is sent with: %w", name, access.ErrInvalid)
		}
		for _, decides := range []string{"watch", "fieldSelector", "labelSelector"} {
			if collection && strings.EqualFold(name, decides) && (name != decides || len(values) != 1) {
				return fmt.Errorf("the query has %q %d times; %s is accepted once, in this casing: %w", name, len(values), decides, access.ErrInvalid)
			}
		}
	}
	if i.Verb != "list" {
		return nil
	}
	if watch := strings.ToLower(query.Get("watch")); !slices.Contains([]string{"", "0", "1", "true", "false"}, watch) {
		return fmt.Errorf("the query's watch must be true, false, 1 or 0: %w", access.ErrInvalid)
	}
	// The API server would answer 400 as well, after it had taken the request
	// for a list of everything.
	if err := metainternalversionscheme.ParameterCodec.DecodeParameters(query, metav1.SchemeGroupVersion, &metainternalversion.ListOptions{}); err != nil {
		return fmt.Errorf("the query's list options (limit, timeoutSeconds, fieldSelector, labelSelector and so on) cannot be read: %w", access.ErrInvalid)
	}
	return nil
}

// plain reports whether a word of the API has one spelling only.
func plain(word string) bool {
	for _, c := range []byte(word) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// decode checks a path's bytes and returns what they say.
func decode(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("the path must begin with /: %w", access.ErrInvalid)
	}
	if err := CheckPath(path[1:]); err != nil {
		return "", err
	}
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return "", fmt.Errorf("the path cannot be read: %v: %w", err, access.ErrInvalid)
	}
	// Of a path with a character that must be escaped, EscapedPath makes a
	// cleaned copy: other bytes than those that were read.
	if (&url.URL{Path: decoded, RawPath: path}).EscapedPath() != path {
		return "", fmt.Errorf("the path has a character that must be percent-encoded: %w", access.ErrInvalid)
	}
	return decoded, nil
}

// decodeQuery refuses bytes at which a reader of a request line or of a whole
// URL would end the query: HTTP/2 carries them, and HTTP/1.1 cannot.
func decodeQuery(raw string) (url.Values, error) {
	for _, c := range []byte(raw) {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return nil, fmt.Errorf("the query has the byte %#02x, which must be percent-encoded: %w", c, access.ErrInvalid)
		}
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		return nil, fmt.Errorf("the query cannot be read: %v: %w", err, access.ErrInvalid)
	}
	return query, nil
}

// CheckPath refuses what could be read in two ways, whatever the path is of. A
// trailing slash is allowed, since kubectl proxies services with one.
func CheckPath(path string) error {
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
			return fmt.Errorf("the path contains the segment %q: %w", access.Clip(segment, 64), access.ErrInvalid)
		}
	}
	return nil
}

// checkSegment holds a segment of an API path to one spelling of each name.
func checkSegment(segment string) error {
	for rest := segment; ; {
		_, after, found := strings.Cut(rest, "%")
		if !found {
			break
		}
		c, err := url.PathUnescape("%" + after[:2]) // decode saw to it that two digits follow
		if err != nil {
			return fmt.Errorf("the path cannot be read: %v: %w", err, access.ErrInvalid)
		}
		if c == "%" || plain(c) || 'A' <= c[0] && c[0] <= 'Z' || c == "_" || c == "~" {
			return fmt.Errorf("the path contains %q, an encoded %q, which readers disagree on: %w", "%"+after[:2], c, access.ErrInvalid)
		}
		rest = after[2:]
	}
	decoded, err := url.PathUnescape(segment)
	if err != nil || !utf8.ValidString(decoded) || strings.ContainsFunc(decoded, unicode.IsControl) {
		return fmt.Errorf("the path's segment %q must be UTF-8 without control characters: %w", access.Clip(segment, 64), access.ErrInvalid)
	}
	return nil
}
