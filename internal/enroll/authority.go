package enroll

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/cafile"
	"github.com/sallyport/sallyport/internal/durable"
)

const (
	authorityFile = "agents-ca.pem"
	followingFile = "agents-ca-next.pem" // beside it while one CA follows another
	authorityLife = 10 * 365 * 24 * time.Hour
	// backdate allows for agents whose clocks are behind.
	backdate = 5 * time.Minute
)

// Authority is the certificate authority of the agents, and of the server's
// name towards them. It is no other CA's child and signs nothing else. While
// it is being replaced it is two of them, see replace.go. Safe for concurrent
// use.
type Authority struct {
	dir string
	now func() time.Time

	mu     sync.Mutex
	cas    []ca                        // one or two, the older first; replaced, never written to
	leaves map[string]*tls.Certificate // by CA and names
}

// ca is one certificate authority.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	hash string // of its key
}

// OpenAuthority reads the CA from dir, or makes one (ECDSA P-256, 10 years)
// when there is none. Key and certificate are in one file of mode 0600, so
// they exist together or not at all; of several processes that open an empty
// folder at once, one makes the CA and all use it. now is the clock, never
// nil. The error wraps [access.ErrUnavailable] for a folder that cannot be
// used and [access.ErrInvalid] for a file that holds no usable CA.
func OpenAuthority(dir string, now func() time.Time) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open agents' CA: %v: %w", err, access.ErrUnavailable)
	}
	path := filepath.Join(dir, authorityFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := createAuthority(path, now()); err != nil {
			return nil, fmt.Errorf("create agents' CA: %v: %w", err, access.ErrUnavailable)
		}
	}
	// Volume mounts and backups loosen modes; tighten rather than fail.
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open agents' CA: %v: %w", err, access.ErrUnavailable)
	}
	a := &Authority{dir: dir, now: now, leaves: map[string]*tls.Certificate{}}
	for _, name := range []string{authorityFile, followingFile} {
		c, err := a.read(name)
		if errors.Is(err, fs.ErrNotExist) && name == followingFile {
			break
		}
		if err != nil {
			return nil, err
		}
		a.cas = append(a.cas, c)
	}
	return a, nil
}

// read reads one of the files. The error wraps [fs.ErrNotExist] without it.
func (a *Authority) read(name string) (ca, error) {
	path := filepath.Join(a.dir, name)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ca{}, fmt.Errorf("open agents' CA: %w: %w", err, access.ErrUnavailable)
	}
	if err := errors.Join(err, os.Chmod(path, 0o600)); err != nil {
		return ca{}, fmt.Errorf("open agents' CA: %v: %w", err, access.ErrUnavailable)
	}
	c, err := parseAuthority(data, a.now)
	if err != nil {
		return ca{}, fmt.Errorf("agents' CA in %s: %w", name, err)
	}
	return c, nil
}

// createAuthority puts a new CA at path unless another process was first, whose
// CA is in use already.
func createAuthority(path string, now time.Time) error {
	data, err := newAuthority(now)
	if err != nil {
		return err
	}
	if err := durable.Create(path, data); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// newAuthority makes a CA and returns its certificate and key as PEM.
func newAuthority(now time.Time) ([]byte, error) {
	// No name constraints: crypto/x509 refuses every URI without a host, as
	// ours are, under a CA that has constraints of any kind. The usages hold
	// it to TLS, and only agents, by its hash, have reason to trust it.
	return cafile.New(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "Sallyport agents' CA"},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(authorityLife),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

func parseAuthority(data []byte, now func() time.Time) (ca, error) {
	cert, key, err := cafile.Parse(data)
	if err != nil {
		return ca{}, err
	}
	if now().After(cert.NotAfter) {
		return ca{}, fmt.Errorf("certificate ended at %s; remove the file to make a new CA, and enrol every agent again: %w", cert.NotAfter.UTC().Format(time.RFC3339), access.ErrInvalid)
	}
	return ca{cert: cert, key: key, hash: keyHash(cert)}, nil
}

// CACertPEM returns the CA's certificate; while it is being replaced, the old
// and the new one's.
func (a *Authority) CACertPEM() []byte {
	var out []byte
	for _, c := range a.all() {
		out = append(out, c.pem()...)
	}
	return out
}

func (c ca) pem() []byte {
	return cafile.PEM(c.cert.Raw)
}

// CAHash returns what agents pin that are installed now: "sha256:" and the
// hexadecimal SHA-256 of the CA's public key (its SubjectPublicKeyInfo), which
// outlives a renewal of the certificate. While the CA is being replaced it is
// the new one's.
func (a *Authority) CAHash() string {
	hashes := a.CAHashes()
	return hashes[len(hashes)-1]
}

// CAHashes returns the hash of every CA that agents are to trust, the older
// first.
func (a *Authority) CAHashes() (hashes []string) {
	for _, c := range a.all() {
		hashes = append(hashes, c.hash)
	}
	return hashes
}

// Pool returns a new pool that holds the CA, or both, and nothing else.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range a.all() {
		pool.AddCert(c.cert)
	}
	return pool
}

// all are the CAs there are, the older first.
func (a *Authority) all() []ca {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cas
}

const hashPrefix = "sha256:"

func keyHash(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hashPrefix + hex.EncodeToString(sum[:])
}

// checkCAHash refuses what keyHash could not have written.
func checkCAHash(s string) error {
	digest, ok := strings.CutPrefix(s, hashPrefix)
	raw, err := hex.DecodeString(digest)
	if !ok || err != nil || len(raw) != sha256.Size || digest != strings.ToLower(digest) {
		return fmt.Errorf("CA hash %q must be %q and 64 lower-case hexadecimal digits: %w", access.Clip(s, maxQuoted), hashPrefix, access.ErrInvalid)
	}
	return nil
}
