package enroll

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
)

// The application protocols (ALPN, RFC 7301) of the agents. The server's one
// TLS port tells agents apart by them, and only they demand a client
// certificate.
const (
	// ALPNTunnel carries Kubernetes requests to the agent; it takes a
	// certificate of [RoleServe].
	ALPNTunnel = "sallyport-tunnel/1"
	// ALPNFeed is the agents' API (bindings, reports); it takes either role.
	ALPNFeed = "sallyport-feed/1"
)

// ServerName is the name that agents ask for (SNI) and check, whatever address
// they dial. It is under .internal, which never resolves in public, so no
// public authority can hold a certificate for it.
const ServerName = "gateway.sallyport.internal"

// pinName is what an agent asks for (SNI) that pinned the CA with this hash, so
// that the gateway shows it a certificate of that one, should there be two. It
// proves nothing, and the certificate is for [ServerName] in any case.
func pinName(hash string) string {
	return strings.TrimPrefix(hash, hashPrefix)[:32] + "." + ServerName
}

// Role is what a certificate lets an agent do.
type Role string

// The roles: one for each of the agent's two service accounts.
const (
	RoleServe  Role = "serve"  // the proxy: takes remote traffic, writes no RBAC
	RoleReport Role = "report" // the reconciler: writes RBAC, takes no remote traffic
)

// ParseRole accepts exactly "serve" and "report". The error wraps
// [access.ErrInvalid].
func ParseRole(s string) (Role, error) {
	switch r := Role(s); r {
	case RoleServe, RoleReport:
		return r, nil
	}
	return "", fmt.Errorf("agent role %q must be %q or %q: %w", access.Clip(s, maxQuoted), RoleServe, RoleReport, access.ErrInvalid)
}

// Identity is who an agent is, as its certificate says.
type Identity struct {
	Role       Role
	ClusterUID string
	Generation int64     // of the enrolment it was issued under, 1 or more
	Serial     string    // hexadecimal
	NotAfter   time.Time // nothing new may begin by it from then on
	CAHash     string    // of the CA that issued it, see [Authority.CAHash]; set by [Authority.Peer]
}

const sanPrefix = "sallyport:cluster:"

// SAN returns the subject alternative name (a URI) that carries the identity:
//
//	sallyport:cluster:<uid>:<generation>:<role>
//
// No part may hold a colon, so it reads in one way only.
func (id Identity) SAN() string {
	return sanPrefix + id.ClusterUID + ":" + strconv.FormatInt(id.Generation, 10) + ":" + string(id.Role)
}

// ParseSAN reads what [Identity.SAN] wrote, and nothing else: text that parses
// encodes to the same bytes. Serial and NotAfter are left empty. The error
// wraps [access.ErrInvalid].
func ParseSAN(s string) (Identity, error) {
	rest, ok := strings.CutPrefix(s, sanPrefix)
	parts := strings.Split(rest, ":")
	if !ok || len(parts) != 3 {
		return Identity{}, fmt.Errorf("agent name %q must be %s<uid>:<generation>:<role>: %w", access.Clip(s, maxQuoted), sanPrefix, access.ErrInvalid)
	}
	role, err := ParseRole(parts[2])
	if err != nil {
		return Identity{}, fmt.Errorf("agent name %q: %w", access.Clip(s, maxQuoted), err)
	}
	generation, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || generation < 1 {
		return Identity{}, fmt.Errorf("agent name %q: generation %q must be a positive number: %w", access.Clip(s, maxQuoted), access.Clip(parts[1], maxQuoted), access.ErrInvalid)
	}
	id := Identity{Role: role, ClusterUID: parts[0], Generation: generation}
	if !access.IsGUID(id.ClusterUID) || id.SAN() != s {
		return Identity{}, fmt.Errorf("agent name %q is not in canonical form, with a GUID and no leading zeros: %w", access.Clip(s, maxQuoted), access.ErrInvalid)
	}
	return id, nil
}

// identityOf reads an agent's certificate. It must be good for clients only
// and bear one name only; whether the CA signed it is the caller's business.
func identityOf(cert *x509.Certificate) (Identity, error) {
	if cert.IsCA || len(cert.UnknownExtKeyUsage) > 0 || !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
		return Identity{}, fmt.Errorf("certificate is not for client authentication alone: %w", access.ErrUnauthenticated)
	}
	if len(cert.URIs) != 1 || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 {
		return Identity{}, fmt.Errorf("certificate must bear exactly one name, a URI: %w", access.ErrUnauthenticated)
	}
	id, err := ParseSAN(cert.URIs[0].String())
	if err != nil {
		return Identity{}, fmt.Errorf("certificate: %v: %w", err, access.ErrUnauthenticated)
	}
	id.Serial, id.NotAfter = cert.SerialNumber.Text(16), cert.NotAfter
	return id, nil
}

// maxQuoted is how many bytes of a value from outside an error quotes.
const maxQuoted = 120
