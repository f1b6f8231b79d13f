// Package cafile makes and reads the files of Sallyport's certificate
// authorities: a self-signed certificate and its ECDSA key, as PEM, in one file,
// so that they exist together or not at all.
//
// What a CA is for, the agents' or Azure's hosts', is in the template of whoever
// keeps it, and so are the folder and the modes. Not here: leaves.
package cafile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/sallyport/sallyport/access"
)

// The types of the PEM blocks (RFC 7468, 5 and 10).
const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

// New makes a key, on P-256, and its certificate by template, which it makes a
// CA's that signs leaves only. It returns both as a file's content.
func New(template *x509.Certificate) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := *template
	ca.IsCA, ca.BasicConstraintsValid, ca.MaxPathLenZero, ca.KeyUsage = true, true, true, x509.KeyUsageCertSign
	cert, err := x509.CreateCertificate(rand.Reader, &ca, &ca, key.Public(), key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(PEM(cert), pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: secret})...), nil
}

// PEM is a certificate (DER) without its key.
func PEM(cert []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: cert})
}

// Parse reads what [New] returned. The error wraps [access.ErrInvalid] and
// quotes nothing of the key.
func Parse(data []byte) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	first, rest := pem.Decode(data)
	second, rest := pem.Decode(rest)
	if first == nil || second == nil || first.Type != certificateBlock || second.Type != keyBlock || len(bytes.TrimSpace(rest)) > 0 {
		return nil, nil, fmt.Errorf("file must hold one %s and one %s block: %w", certificateBlock, keyBlock, access.ErrInvalid)
	}
	cert, err := x509.ParseCertificate(first.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate: %v: %w", err, access.ErrInvalid)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(second.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("private key cannot be read: %w", access.ErrInvalid) // no cause: it may quote the key
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) || !cert.IsCA {
		return nil, nil, fmt.Errorf("file must hold an ECDSA key and the CA certificate of that key: %w", access.ErrInvalid)
	}
	return cert, key, nil
}
