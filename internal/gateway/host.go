package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// errMisdirected is answered with 421 (RFC 9110, 15.5.20): a client may ask
// again on a connection of its own.
var errMisdirected = errors.New("the connection was made for another host")

// HasHost reports whether a request came for the host name of a cluster, or by
// a connection that was made for one. Only the gateway may answer it then: such
// a host is a cluster's, and has no other part of the server on it.
func (g *Gateway) HasHost(r *http.Request) bool {
	return g.clusterUID(hostOf(r)) != "" || g.clusterUID(serverName(r)) != ""
}

// target reads a request's address in either form. Which one it is, and which
// cluster is meant, is decided by Host or :authority; its port does not matter.
func (g *Gateway) target(r *http.Request) (target, error) {
	host, name := hostOf(r), serverName(r)
	uid := g.clusterUID(host)
	// A certificate for every host lets an HTTP/2 client use one connection for
	// several of them, and a client say one name to those who watch its TLS
	// handshakes and another to us.
	if host != name && name != "" && (uid != "" || g.clusterUID(name) != "") {
		return target{}, fmt.Errorf("%w: the TLS handshake named %q, the request is for %q", errMisdirected, access.Clip(name, 256), access.Clip(host, 256))
	}
	if uid == "" {
		return parseTarget(r.URL, r.RequestURI)
	}
	path, err := parsePath(r.URL, r.RequestURI)
	if err != nil {
		return target{}, err
	}
	cluster, err := g.cfg.ClusterID(uid)
	if err != nil {
		return target{}, err
	}
	return target{cluster: cluster, path: path, query: r.URL.RawQuery}, nil
}

// clusterUID returns the uid of the cluster that a host name, in lower case,
// is of, or "".
func (g *Gateway) clusterUID(host string) string {
	uid, domain, _ := strings.Cut(host, ".")
	if g.cfg.ClusterDomain == "" || domain != g.cfg.ClusterDomain || !access.IsGUID(uid) {
		return ""
	}
	return uid
}

// hostOf returns the host a request is for, as names are compared: without
// port, in lower case, without the dot that ends an absolute name.
func hostOf(r *http.Request) string {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// serverName returns the host that the TLS handshake named, "" if none.
func serverName(r *http.Request) string {
	if r.TLS == nil {
		return ""
	}
	return strings.TrimSuffix(strings.ToLower(r.TLS.ServerName), ".")
}
