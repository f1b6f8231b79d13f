package hostcert

import (
	"crypto/tls"
	"crypto/x509"
	"net"
)

// Sign signs for any name, as somebody who stole the key would.
func (a *Authority) Sign(host string) (*tls.Certificate, error) { return a.sign(a.template(host)) }

// SignAddress signs for an IP address, as that thief would.
func (a *Authority) SignAddress(ip net.IP) (*x509.Certificate, error) {
	template := a.template("")
	template.DNSNames, template.IPAddresses = nil, []net.IP{ip}
	leaf, err := a.sign(template)
	if err != nil {
		return nil, err
	}
	return leaf.Leaf, nil
}
