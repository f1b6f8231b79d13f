package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
)

// Both are far beyond the life of a development cluster. What limits the use
// of a stolen certificate is that the server is on loopback, and DIR private.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
)

// certificates is what the API server and its admin prove themselves with.
type certificates struct {
	// servingCA is the PEM of the authority that clients check the server by.
	servingCA []byte
	// serving and client sign more, for the kubelet.
	serving, client *authority
	// adminCert and adminKey are the PEM of a system:masters client certificate.
	adminCert, adminKey []byte
}

// prepareCertificates loads the authorities and the service account key, makes
// those that are missing, and issues new leaf certificates.
//
// There are two authorities so that a client that trusts ca.crt does not thereby
// trust, as a server, whoever holds a client certificate. The third vouches for
// kube-apiserver towards the servers of aggregated APIs, where its client may
// name any user; nobody else has a certificate of it.
func prepareCertificates(dir *directory, address netip.Addr) (*certificates, error) {
	servingCA, err := loadAuthority(dir, servingCAName)
	if err != nil {
		return nil, err
	}
	clientCA, err := loadAuthority(dir, clientCAName)
	if err != nil {
		return nil, err
	}
	if err := makeServiceAccountKey(dir); err != nil {
		return nil, err
	}

	if err := prepareFrontProxy(dir); err != nil {
		return nil, err
	}

	cert, key, err := servingCA.issue(x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{
			"localhost",
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP(apiServerServiceIP), address.AsSlice()},
	})
	if err != nil {
		return nil, fmt.Errorf("issuing the serving certificate: %w", err)
	}
	if err := writePair(dir, servingName, cert, key); err != nil {
		return nil, err
	}

	cert, key, err = clientCA.issue(x509.Certificate{
		// The group system:masters passes every authorization check.
		Subject:     pkix.Name{CommonName: "devcluster-admin", Organization: []string{"system:masters"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("issuing the admin certificate: %w", err)
	}
	return &certificates{
		servingCA: servingCA.certPEM, adminCert: cert, adminKey: key,
		serving: servingCA, client: clientCA,
	}, nil
}

// prepareFrontProxy makes what kube-apiserver proves itself with to the servers
// of aggregated APIs, and the authority that those servers know it by.
func prepareFrontProxy(dir *directory) error {
	ca, err := loadAuthority(dir, frontProxyCAName)
	if err != nil {
		return err
	}
	cert, key, err := ca.issue(x509.Certificate{
		Subject:     pkix.Name{CommonName: frontProxyUser},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("issuing the front proxy's certificate: %w", err)
	}
	return writePair(dir, frontProxyName, cert, key)
}

// writePair writes a certificate and its key for kube-apiserver to read.
func writePair(dir *directory, name string, cert, key []byte) error {
	if err := dir.write(name+".key", key); err != nil {
		return err
	}
	return dir.write(name+".crt", cert)
}

// An authority signs certificates.
type authority struct {
	cert    *x509.Certificate
	key     crypto.Signer
	certPEM []byte
}

// loadAuthority reads an authority from the folder, or makes it.
func loadAuthority(dir *directory, name string) (*authority, error) {
	pair, err := tls.LoadX509KeyPair(dir.file(name+".crt"), dir.file(name+".key"))
	if errors.Is(err, os.ErrNotExist) {
		return makeAuthority(dir, name)
	}
	if err != nil {
		return nil, fmt.Errorf("loading the authority %s: %w", name, err)
	}
	return &authority{
		cert:    pair.Leaf,
		key:     pair.PrivateKey.(crypto.Signer), // what LoadX509KeyPair reads can all sign
		certPEM: encodeCertificate(pair.Leaf.Raw),
	}, nil
}

func makeAuthority(dir *directory, name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key for the authority %s: %w", name, err)
	}
	template := validFor(authorityLife)
	template.Subject = pkix.Name{CommonName: "devcluster " + name}
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	template.IsCA = true
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the authority %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the authority %s: %w", name, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	// The certificate last: with it the authority exists, and without it the
	// next start makes both anew.
	if err := dir.write(name+".key", keyPEM); err != nil {
		return nil, err
	}
	certPEM := encodeCertificate(der)
	if err := dir.write(name+".crt", certPEM); err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, certPEM: certPEM}, nil
}

// issue signs a certificate for a new key. The template says for whom and for
// what; how long, and with which key usage, is the same for all.
func (a *authority) issue(template x509.Certificate) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	validity := validFor(leafLife)
	template.NotBefore, template.NotAfter = validity.NotBefore, validity.NotAfter
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, &template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err = encodeKey(key)
	if err != nil {
		return nil, nil, err
	}
	return encodeCertificate(der), keyPEM, nil
}

// makeServiceAccountKey makes the key that signs service account tokens, unless
// there is one. It is RSA, as in most clusters, so that the tokens look usual.
func makeServiceAccountKey(dir *directory) error {
	_, err := os.Stat(dir.file(serviceAccountKey))
	if err == nil {
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("looking for the service account key: %w", err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("making the service account key: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	return dir.write(serviceAccountKey, keyPEM)
}

// validFor is a template with dates only. It begins an hour ago for the sake of
// a client, in a container or a virtual machine, whose clock is behind. The
// serial number is left out: CreateCertificate picks a random one.
func validFor(life time.Duration) x509.Certificate {
	now := time.Now()
	return x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(life)}
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// A tlsPair is a certificate and its key, in PEM.
type tlsPair struct{ cert, key []byte }

// kubeletCertificates is what the kubelet, and the API server towards it, prove
// themselves with.
type kubeletCertificates struct {
	serving tls.Certificate
	// apiServer is the client certificate of the API server.
	apiServer *x509.Certificate
	// node and scheduler are users of the API server.
	node, scheduler tlsPair
}

// prepareKubeletCertificates issues the leaf certificates that a node needs.
func prepareKubeletCertificates(dir *directory, certs *certificates) (*kubeletCertificates, error) {
	own := &kubeletCertificates{}
	cert, key, err := certs.serving.issue(x509.Certificate{
		Subject:     pkix.Name{CommonName: "system:node:" + nodeName, Organization: []string{"system:nodes"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{nodeName},
		IPAddresses: []net.IP{net.ParseIP(loopback)},
	})
	if err != nil {
		return nil, fmt.Errorf("issuing the kubelet's certificate: %w", err)
	}
	if own.serving, err = tls.X509KeyPair(cert, key); err != nil {
		return nil, fmt.Errorf("reading the kubelet's certificate: %w", err)
	}
	for _, user := range []struct {
		name, group string
		take        func(tlsPair) error
	}{
		{name: "kube-apiserver-kubelet-client", take: func(p tlsPair) error { return own.takeAPIServer(dir, p) }},
		{name: "system:node:" + nodeName, group: "system:nodes", take: func(p tlsPair) error { own.node = p; return nil }},
		{name: "system:kube-scheduler", take: func(p tlsPair) error { own.scheduler = p; return nil }},
	} {
		subject := pkix.Name{CommonName: user.name}
		if user.group != "" {
			subject.Organization = []string{user.group}
		}
		cert, key, err := certs.client.issue(x509.Certificate{Subject: subject, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if err != nil {
			return nil, fmt.Errorf("issuing the certificate of %s: %w", user.name, err)
		}
		if err := user.take(tlsPair{cert: cert, key: key}); err != nil {
			return nil, err
		}
	}
	return own, nil
}

// takeAPIServer writes the pair for kube-apiserver, which reads it from files.
func (own *kubeletCertificates) takeAPIServer(dir *directory, p tlsPair) error {
	block, _ := pem.Decode(p.cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("reading the API server's client certificate: %w", err)
	}
	own.apiServer = cert
	return writePair(dir, kubeletClientName, p.cert, p.key)
}
