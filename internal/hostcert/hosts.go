package hostcert

import (
	"slices"
	"strings"
)

// Part is the part of the server that answers on a host.
type Part int

// The parts.
const (
	Login      Part = iota + 1 // the identity provider
	Management                 // the control plane
	Graph                      // the directory, as Microsoft Graph shows it
)

// hosts are the names that clients call without being told (spec/identity.md
// 7.3). sts.windows.net is in tokens' issuers, and management.core.windows.net
// in their audiences; both are asked for by name too.
func hosts() map[string]Part {
	return map[string]Part{
		"login.microsoftonline.com":   Login,
		"login.microsoft.com":         Login,
		"login.windows.net":           Login,
		"sts.windows.net":             Login,
		"management.azure.com":        Management,
		"management.core.windows.net": Management,
		"graph.microsoft.com":         Graph,
	}
}

// Names returns the hosts, sorted, in lower case.
func Names() []string {
	var names []string
	for name := range hosts() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// PartOf returns the part that answers on a host name, whatever its case, or
// false for a name that is not of Azure's. It takes no port.
func PartOf(host string) (Part, bool) {
	part, ok := hosts()[strings.ToLower(host)]
	return part, ok
}
