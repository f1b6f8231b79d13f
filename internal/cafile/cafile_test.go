package cafile_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/cafile"
)

func newCA(t *testing.T) []byte {
	t.Helper()
	data, err := cafile.New(&x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "a CA"},
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestNewIsReadBack(t *testing.T) {
	data := newCA(t)
	cert, key, err := cafile.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) || !bytes.HasPrefix(data, cafile.PEM(cert.Raw)) {
		t.Error("the key is not the certificate's")
	}
	if !cert.IsCA || !cert.MaxPathLenZero || cert.KeyUsage != x509.KeyUsageCertSign || cert.Subject.CommonName != "a CA" {
		t.Errorf("the CA may do other than sign leaves: %+v", cert)
	}
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		t.Error(err)
	}
}

func TestParseRefuses(t *testing.T) {
	whole, other := string(newCA(t)), string(newCA(t))
	begin := strings.Index(whole, "-----BEGIN PRIVATE")
	cert, key := whole[:begin], whole[begin:]
	for name, data := range map[string]string{
		"nothing":          "",
		"a certificate":    cert,
		"a key":            key,
		"the key first":    key + cert,
		"more behind":      whole + cert,
		"another CA's key": cert + other[strings.Index(other, "-----BEGIN PRIVATE"):],
		"a broken key":     cert + "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
	} {
		_, _, err := cafile.Parse([]byte(data))
		if !errors.Is(err, access.ErrInvalid) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
