package main

import (
	"net"
	"strings"
)

// clusterAddress is the URL of a cluster's own host name, "" where clusters
// have none.
func (s *server) clusterAddress(uid string) string {
	if s.cfg.ClusterDomain == "" {
		return ""
	}
	host := strings.ToLower(uid) + "." + s.cfg.ClusterDomain
	if _, port, err := net.SplitHostPort(s.advertise); err == nil && port != "443" {
		host = net.JoinHostPort(host, port)
	}
	return "https://" + host
}

// domainName reports whether s is a DNS name in the form by which hosts are
// compared.
func domainName(s string) bool {
	// With a uid and a dot in front it must still fit (RFC 1035, 2.3.4).
	if len(s) > 253-37 || net.ParseIP(s) != nil {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}
