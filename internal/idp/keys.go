package idp

import (
	"cmp"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // x5t is defined as a SHA-1 thumbprint
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/durable"
)

const (
	headerKeyFile = "identity-header.key"
	signingFiles  = "signing-*.pem"
	headerKeySize = 32 // bytes
	modulusBits   = 2048
)

// Keys are the provider's: RSA keys that sign tokens, and an HMAC key that
// identity headers are derived from. They are files of one folder. Safe for
// concurrent use.
type Keys struct {
	dir       string
	now       func() time.Time
	headerKey []byte

	mu      sync.RWMutex
	signing []signingKey // newest first; never empty
}

// signingKey is one file: a private key and a self-signed certificate, whose
// NotBefore is when the key begins to sign and whose thumbprint is its kid.
type signingKey struct {
	kid     string
	private *rsa.PrivateKey
	cert    *x509.Certificate
}

// OpenKeys reads the keys in dir, and makes those that are missing, in files
// of mode 0600 in a folder of mode 0700. A file or folder that others may read
// is refused with [access.ErrInvalid]: such a key is no secret any more.
//
// Several signing keys lie side by side while one follows another, so that
// verifiers know the new one in time and tokens of the old one still verify;
// see [Keys.Rotate]. now is the clock, never nil.
func OpenKeys(dir string, now func() time.Time) (*Keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of keys: %w", err)
	}
	if err := checkPrivate(dir); err != nil {
		return nil, err
	}
	k := &Keys{dir: dir, now: now}
	if err := k.openHeaderKey(); err != nil {
		return nil, err
	}
	names, err := filepath.Glob(filepath.Join(dir, signingFiles))
	if err != nil {
		return nil, fmt.Errorf("folder of keys %s: %w", dir, err)
	}
	for _, name := range names {
		key, err := readSigningKey(name)
		if err != nil {
			return nil, err
		}
		k.signing = append(k.signing, key)
	}
	k.sort()
	if len(k.signing) == 0 {
		if _, err := k.Rotate(0); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (k *Keys) openHeaderKey() error {
	name := filepath.Join(k.dir, headerKeyFile)
	raw, err := readPrivate(name)
	if errors.Is(err, fs.ErrNotExist) {
		fresh := make([]byte, headerKeySize)
		_, _ = rand.Read(fresh)
		if err := durable.Create(name, fresh); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		raw, err = readPrivate(name) // another process may have been first
	}
	if err == nil && len(raw) != headerKeySize {
		err = fmt.Errorf("%s has %d bytes, not %d: %w", name, len(raw), headerKeySize, access.ErrInvalid)
	}
	k.headerKey = raw
	return err
}

// sort puts the newest first.
func (k *Keys) sort() {
	slices.SortFunc(k.signing, func(a, b signingKey) int {
		return cmp.Or(b.cert.NotBefore.Compare(a.cert.NotBefore), cmp.Compare(a.kid, b.kid))
	})
}

// current returns the key that signs.
func (k *Keys) current() signingKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.signing[k.signer(k.now())]
}

// sign makes a JWT with Entra's v1 header (spec/identity.md 1.1).
func (s signingKey) sign(claims jwt.MapClaims) (string, error) {
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	token.Header["kid"], token.Header["x5t"] = s.kid, s.kid
	return token.SignedString(s.private)
}

// JWKS returns the public keys, with the fields Entra's have: no alg
// (spec/identity.md 1.6). The issuer is the template for any tenant, since all
// tenants of this provider share its keys.
func (k *Keys) JWKS() []byte {
	type jwk struct {
		Kty    string   `json:"kty"`
		Use    string   `json:"use"`
		Kid    string   `json:"kid"`
		X5t    string   `json:"x5t"`
		N      string   `json:"n"`
		E      string   `json:"e"`
		X5c    []string `json:"x5c"`
		Issuer string   `json:"issuer"`
	}
	set := struct {
		Keys []jwk `json:"keys"`
	}{}
	k.mu.RLock()
	defer k.mu.RUnlock()
	for i, s := range k.signing {
		if k.state(i, k.now()) == keyGone {
			continue
		}
		set.Keys = append(set.Keys, jwk{
			Kty: "RSA", Use: "sig", Kid: s.kid, X5t: s.kid,
			N:      base64.RawURLEncoding.EncodeToString(s.private.N.Bytes()),
			E:      base64.RawURLEncoding.EncodeToString(big.NewInt(int64(s.private.E)).Bytes()),
			X5c:    []string{base64.StdEncoding.EncodeToString(s.cert.Raw)},
			Issuer: tokenIssuer("{tenantid}"),
		})
	}
	raw, err := json.Marshal(set)
	if err != nil {
		panic(err) // strings only
	}
	return raw
}

// IdentityHeader returns the secret with which a resource's workload asks for
// the resource's tokens, the value of X-IDENTITY-HEADER. It is derived from
// the resource's uid and dies with it.
func (k *Keys) IdentityHeader(uid string) string {
	mac := hmac.New(sha256.New, k.headerKey)
	mac.Write([]byte("managed-identity\x00" + uid))
	return uid + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// headerUID returns the uid of a genuine identity header.
func (k *Keys) headerUID(value string) (uid string, ok bool) {
	dot := strings.LastIndexByte(value, '.')
	if dot <= 0 {
		return "", false
	}
	uid = value[:dot]
	return uid, hmac.Equal([]byte(value), []byte(k.IdentityHeader(uid)))
}

func newSigningKey(now time.Time) (signingKey, error) {
	private, err := rsa.GenerateKey(rand.Reader, modulusBits)
	if err != nil {
		return signingKey{}, fmt.Errorf("signing key: %w", err)
	}
	serial := make([]byte, 16)
	_, _ = rand.Read(serial)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: "Sallyport token signing"},
		NotBefore:    now,
		NotAfter:     now.AddDate(10, 0, 0), // the file, not the certificate, ends a key
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return signingKey{}, fmt.Errorf("signing certificate: %w", err)
	}
	return makeSigningKey(private, der)
}

func makeSigningKey(private crypto.PrivateKey, certificate []byte) (signingKey, error) {
	rsaKey, ok := private.(*rsa.PrivateKey)
	if !ok || rsaKey.N.BitLen() < modulusBits {
		return signingKey{}, fmt.Errorf("signing key must be RSA of at least %d bits: %w", modulusBits, access.ErrInvalid)
	}
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return signingKey{}, fmt.Errorf("signing certificate: %w: %w", err, access.ErrInvalid)
	}
	if !rsaKey.PublicKey.Equal(cert.PublicKey) {
		return signingKey{}, fmt.Errorf("signing certificate is of another key: %w", access.ErrInvalid)
	}
	sum := sha1.Sum(cert.Raw) //nolint:gosec // an identifier, as Entra's; nothing is proved by it
	return signingKey{kid: base64.RawURLEncoding.EncodeToString(sum[:]), private: rsaKey, cert: cert}, nil
}

func readSigningKey(name string) (signingKey, error) {
	raw, err := readPrivate(name)
	if err != nil {
		return signingKey{}, err
	}
	keyBlock, rest := pem.Decode(raw)
	certBlock, _ := pem.Decode(rest)
	if keyBlock == nil || certBlock == nil || keyBlock.Type != "PRIVATE KEY" || certBlock.Type != "CERTIFICATE" {
		return signingKey{}, fmt.Errorf("%s must hold a PRIVATE KEY and a CERTIFICATE in PEM: %w", name, access.ErrInvalid)
	}
	private, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil { // its text could quote the key
		return signingKey{}, fmt.Errorf("%s: the private key is not PKCS #8: %w", name, access.ErrInvalid)
	}
	key, err := makeSigningKey(private, certBlock.Bytes)
	if err != nil {
		return signingKey{}, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}

// checkPrivate refuses what others than the owner may open.
func checkPrivate(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o and must be open to its owner only (0600, a folder 0700): %w", name, mode, access.ErrInvalid)
	}
	return nil
}

func readPrivate(name string) ([]byte, error) {
	if err := checkPrivate(name); err != nil {
		return nil, err
	}
	return os.ReadFile(name)
}
