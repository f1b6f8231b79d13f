package hostcert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/cafile"
	"github.com/sallyport/sallyport/internal/durable"
)

const (
	authorityFile  = "azure-hosts-ca.pem"
	authorityLife  = 5 * 365 * 24 * time.Hour
	authorityRenew = 365 * 24 * time.Hour // made anew at a start when less remains
	leafLife       = 90 * 24 * time.Hour
	leafRenew      = 30 * 24 * time.Hour
	backdate       = 5 * time.Minute // for clocks that are behind
)

// Authority is the CA of Azure's host names. Safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	now  func() time.Time

	mu     sync.Mutex
	leaves map[string]*tls.Certificate // by host; guarded by mu
}

// Open reads the CA from dir, or makes one (ECDSA P-256, 5 years) when there is
// none that is good for the hosts of today. Key and certificate are in one
// file of mode 0600, so they exist together or not at all. now is the clock,
// never nil. The error wraps [access.ErrUnavailable] for a folder that cannot
// be used and [access.ErrInvalid] for a file that holds no CA.
func Open(dir string, now func() time.Time) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open CA of Azure's hosts: %v: %w", err, access.ErrUnavailable)
	}
	path := filepath.Join(dir, authorityFile)
	data, err := os.ReadFile(path)
	if err == nil {
		a, err := parse(data, now)
		if err != nil {
			return nil, fmt.Errorf("CA of Azure's hosts in %s: %w", authorityFile, err)
		}
		if a.current() {
			// Volume mounts and backups loosen modes; tighten rather than fail.
			if err := errors.Join(os.Chmod(dir, 0o700), os.Chmod(path, 0o600)); err != nil {
				return nil, fmt.Errorf("open CA of Azure's hosts: %v: %w", err, access.ErrUnavailable)
			}
			return a, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open CA of Azure's hosts: %v: %w", err, access.ErrUnavailable)
	}
	if data, err = create(now()); err == nil {
		err = durable.Replace(path, data)
	}
	if err != nil {
		return nil, fmt.Errorf("create CA of Azure's hosts: %v: %w", err, access.ErrUnavailable)
	}
	return parse(data, now)
}

// current reports whether the CA is for the hosts of today and will last.
func (a *Authority) current() bool {
	return slices.Equal(a.cert.PermittedDNSDomains, Names()) && a.cert.NotAfter.Sub(a.now()) >= authorityRenew
}

// create makes a CA and returns its certificate and key as PEM.
func create(now time.Time) ([]byte, error) {
	everyIP := []*net.IPNet{
		{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
		{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
	}
	return cafile.New(&x509.Certificate{
		Subject:                     pkix.Name{CommonName: "Sallyport CA of Azure's hosts"},
		NotBefore:                   now.Add(-backdate),
		NotAfter:                    now.Add(authorityLife),
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         Names(),
		ExcludedIPRanges:            everyIP,
	})
}

func parse(data []byte, now func() time.Time) (*Authority, error) {
	cert, key, err := cafile.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("remove the file to make a new CA: %w", err)
	}
	return &Authority{cert: cert, key: key, now: now, leaves: map[string]*tls.Certificate{}}, nil
}

// CertPEM returns the CA's certificate.
func (a *Authority) CertPEM() []byte {
	return cafile.PEM(a.cert.Raw)
}

// Certificate returns the certificate for one of Azure's hosts, or nil for any
// other name: what a client writes into its handshake makes no key and no
// signature. It lives 90 days, in memory alone, and is replaced when less than
// 30 remain, so call it for each handshake.
func (a *Authority) Certificate(host string) (*tls.Certificate, error) {
	host = strings.ToLower(host)
	if _, ok := PartOf(host); !ok {
		return nil, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if leaf, ok := a.leaves[host]; ok && leaf.Leaf.NotAfter.Sub(a.now()) >= leafRenew {
		return leaf, nil
	}
	leaf, err := a.sign(a.template(host))
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", host, err)
	}
	a.leaves[host] = leaf
	return leaf, nil
}

func (a *Authority) template(host string) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: host},
		DNSNames:              []string{host},
		NotBefore:             a.now().Add(-backdate),
		NotAfter:              a.now().Add(leafLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
}

// sign makes a key and signs a certificate of it.
func (a *Authority) sign(template *x509.Certificate) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
