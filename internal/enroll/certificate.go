package enroll

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
)

const (
	serverLife  = 90 * 24 * time.Hour
	serverRenew = 30 * 24 * time.Hour // reissued when less remains
	agentLife   = 24 * time.Hour
)

// ServerCertificate returns the certificate of the TLS port, for [ServerName]
// and the given DNS names (also wildcards) and IP addresses, good for servers only. The chain
// includes the CA, because agents hold its hash and not the certificate. It
// lives 90 days, in memory alone, and is replaced when less than 30 remain, so
// call it for each handshake. names come from configuration, never from a
// client: each list is remembered. The error wraps [access.ErrInvalid] for a
// name that is none.
func (a *Authority) ServerCertificate(names []string) (*tls.Certificate, error) {
	return a.serverCertificate(a.all()[0], names)
}

// CertificateFor is ServerCertificate for a handshake: while the CA is being
// replaced, a client that says which one it trusts gets a certificate of that.
// Clients that say nothing trust the older one at least.
func (a *Authority) CertificateFor(hello *tls.ClientHelloInfo, names []string) (*tls.Certificate, error) {
	return a.serverCertificate(a.trustedBy(hello.ServerName), names)
}

func (a *Authority) serverCertificate(by ca, names []string) (*tls.Certificate, error) {
	all := slices.Clone(names)
	if !slices.Contains(all, ServerName) {
		all = append([]string{ServerName}, all...)
	}
	key := by.hash + "\n" + strings.Join(all, "\n")
	a.mu.Lock()
	defer a.mu.Unlock()
	if leaf, ok := a.leaves[key]; ok && leaf.Leaf.NotAfter.Sub(a.now()) >= serverRenew {
		return leaf, nil
	}
	leaf, err := a.newServerCertificate(by, all)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	a.leaves[key] = leaf
	return leaf, nil
}

func (a *Authority) newServerCertificate(by ca, names []string) (*tls.Certificate, error) {
	template := a.leaf(by, ServerName, serverLife, x509.ExtKeyUsageServerAuth)
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		if !isHost(strings.TrimPrefix(name, "*.")) {
			return nil, fmt.Errorf("name %q must be a DNS name, *. and a DNS name, or an IP address: %w", access.Clip(name, maxQuoted), access.ErrInvalid)
		}
		template.DNSNames = append(template.DNSNames, name)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	cert, err := by.sign(template, key.Public())
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{cert.Raw, by.cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// Issue signs a certificate (DER) for an agent's public key, which must be
// ECDSA P-256. It is good for clients only and for 24 hours, until notAfter.
// That the agent holds the private key, and may have the role, was checked by
// the caller. The error wraps [access.ErrInvalid].
func (a *Authority) Issue(role Role, clusterUID string, generation int64, public crypto.PublicKey) (der []byte, notAfter time.Time, err error) {
	cert, err := a.issue(a.all()[0], Identity{Role: role, ClusterUID: clusterUID, Generation: generation}, public, agentLife)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("issue agent certificate: %w", err)
	}
	return cert.Raw, cert.NotAfter, nil
}

func (a *Authority) issue(by ca, id Identity, public crypto.PublicKey, life time.Duration) (*x509.Certificate, error) {
	if _, err := ParseSAN(id.SAN()); err != nil {
		return nil, err
	}
	if key, ok := public.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("public key of type %T must be ECDSA P-256: %w", public, access.ErrInvalid)
	}
	name, err := url.Parse(id.SAN())
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, access.ErrInvalid)
	}
	template := a.leaf(by, "sallyport agent "+string(id.Role), life, x509.ExtKeyUsageClientAuth)
	template.URIs = []*url.URL{name}
	return by.sign(template, public)
}

func (a *Authority) leaf(by ca, commonName string, life time.Duration, usage x509.ExtKeyUsage) *x509.Certificate {
	end := a.now().Add(life)
	if end.After(by.cert.NotAfter) {
		end = by.cert.NotAfter
	}
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},    // for people; programs read the SAN
		NotBefore:             a.now().Add(-min(backdate, life/10)), // agents reckon by the whole life
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{usage},
		BasicConstraintsValid: true,
	}
}

// sign leaves the serial number to crypto/x509, which takes a random one.
func (c ca) sign(template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, public, c.key)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, access.ErrInvalid)
	}
	return x509.ParseCertificate(der)
}

// Peer tells which agent is at the other end, from its certificate alone. It
// verifies the chain itself and so does not depend on how the connection was
// configured; the handshake has proved possession of the key. The generation
// is as in the certificate: whether it is current, the caller must know. The
// error wraps [access.ErrUnauthenticated].
func (a *Authority) Peer(state tls.ConnectionState) (Identity, error) {
	if len(state.PeerCertificates) == 0 {
		return Identity{}, fmt.Errorf("agent showed no certificate: %w", access.ErrUnauthenticated)
	}
	leaf := state.PeerCertificates[0]
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots:       a.Pool(),
		CurrentTime: a.now(),
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return Identity{}, fmt.Errorf("agent certificate: %v: %w", err, access.ErrUnauthenticated)
	}
	id, err := identityOf(leaf)
	id.CAHash = keyHash(chains[0][len(chains[0])-1])
	return id, err
}

// IsAgent reports whether a client offers one of the agents' protocols, and so
// is to be answered with [Authority.AgentTLS]. A client that offers others
// besides is an agent too: it must not get out of showing a certificate.
func IsAgent(hello *tls.ClientHelloInfo) bool {
	return slices.Contains(hello.SupportedProtos, ALPNTunnel) || slices.Contains(hello.SupportedProtos, ALPNFeed)
}

// FromAgent reports whether a client says that it is an agent, by its protocols or
// by the name that it asks for: that also an agent has which enrols. Whoever wants
// to can say it, so it is good for nothing but to put clients in order.
func FromAgent(hello *tls.ClientHelloInfo) bool {
	return IsAgent(hello) || strings.HasSuffix(strings.ToLower(hello.ServerName), "."+ServerName)
}

// AgentTLS returns the server's configuration for agents: TLS 1.3, a client
// certificate of this CA, one of the agents' protocols, and a role that the
// protocol admits. current says whether an identity is still good (cluster
// there, generation the newest); it must not be nil, and must answer from
// memory, since it is called during the handshake. A connection that stands
// when its generation is retired, or its NotAfter passes, is for the caller to
// deal with. Use the config by tls.Config.GetConfigForClient, chosen with
// [IsAgent], and ask for it at each handshake: the CA can be replaced.
func (a *Authority) AgentTLS(current func(Identity) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       a.now,
		NextProtos: []string{ALPNTunnel, ALPNFeed},
		ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs:  a.Pool(),
		// A ticket would let a retired certificate come back unseen.
		SessionTicketsDisabled: true,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return a.CertificateFor(hello, nil)
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			id, err := a.Peer(state)
			if err != nil {
				return err
			}
			if err := admits(state.NegotiatedProtocol, id.Role); err != nil {
				return err
			}
			return current(id)
		},
	}
}

// admits says which role may speak which protocol.
func admits(alpn string, role Role) error {
	switch {
	case alpn == ALPNTunnel && role == RoleServe:
	case alpn == ALPNFeed && (role == RoleServe || role == RoleReport):
	default:
		return fmt.Errorf("protocol %q is not for agents of role %q: %w", access.Clip(alpn, maxQuoted), role, access.ErrForbidden)
	}
	return nil
}
