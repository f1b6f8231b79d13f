package main

import (
	"net"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/hostcert"
)

// azurePart says which part answers a request for one of Azure's host names,
// which come here through the proxy of `sallyport run`. The Host decides alone:
// each part checks its callers itself, whatever the handshake named.
func azurePart(r *http.Request) (hostcert.Part, bool) {
	host := r.Host
	if name, port, err := net.SplitHostPort(host); err == nil && port == "443" {
		host = name
	}
	return hostcert.PartOf(strings.TrimSuffix(host, "."))
}

// serveAzure is serveWeb for those hosts: a host is one part's, whatever the path.
func (s *server) serveAzure(part hostcert.Part, w http.ResponseWriter, r *http.Request) {
	switch part {
	case hostcert.Management:
		s.control.ServeHTTP(w, r)
	case hostcert.Login:
		arm.LimitBody(w, r)
		s.idp.ServeHTTP(w, r)
	case hostcert.Graph:
		arm.LimitBody(w, r)
		s.graph.ServeHTTP(w, r)
	}
}
