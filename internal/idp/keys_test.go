package idp_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/idp"
)

func open(t *testing.T, dir string) *idp.Keys {
	t.Helper()
	k, err := idp.OpenKeys(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func published(t *testing.T, k *idp.Keys) []map[string]any {
	t.Helper()
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(k.JWKS(), &set); err != nil {
		t.Fatal(err)
	}
	return set.Keys
}

// TestKeysLast: what was made is read again, and nothing of it is open to others.
func TestKeysLast(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "keys")
	first := open(t, dir)
	again := open(t, dir)
	if !bytes.Equal(first.JWKS(), again.JWKS()) || first.IdentityHeader(uid) != again.IdentityHeader(uid) {
		t.Error("keys changed")
	}
	if _, err := again.Rotate(0); err != nil {
		t.Fatal(err)
	}
	third := open(t, dir)
	if !bytes.Equal(third.JWKS(), again.JWKS()) {
		t.Error("the order of keys changed")
	}
	if old, now := published(t, first), published(t, third); len(now) != 2 || now[1]["kid"] != old[0]["kid"] {
		t.Errorf("keys are %v, were %v", now, old)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Fatalf("folder has %v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
}

// TestJWKS: the fields of Entra's keys, which agree with the certificate.
func TestJWKS(t *testing.T) {
	key := published(t, open(t, filepath.Join(t.TempDir(), "keys")))[0]
	if names := slices.Sorted(maps.Keys(key)); !slices.Equal(names, []string{"e", "issuer", "kid", "kty", "n", "use", "x5c", "x5t"}) {
		t.Errorf("fields are %v", names)
	}
	der, err := base64.StdEncoding.DecodeString(key["x5c"].([]any)[0].(string))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(der)
	public := cert.PublicKey.(*rsa.PublicKey)
	if key["kid"] != base64.RawURLEncoding.EncodeToString(sum[:]) || key["x5t"] != key["kid"] || key["e"] != "AQAB" ||
		key["n"] != base64.RawURLEncoding.EncodeToString(public.N.Bytes()) {
		t.Errorf("key is %v", key)
	}
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		t.Error(err)
	}
}

func TestOpenKeysRefuses(t *testing.T) {
	signing := func(dir string) string {
		names, err := filepath.Glob(filepath.Join(dir, "signing-*.pem"))
		if err != nil || len(names) != 1 {
			t.Fatalf("found %v, %v", names, err)
		}
		return names[0]
	}
	tests := []struct {
		name  string
		spoil func(dir string) error
	}{
		{"folder open to a group", func(dir string) error { return os.Chmod(dir, 0o750) }},
		{"key open to all", func(dir string) error { return os.Chmod(signing(dir), 0o644) }},
		{"header key open to a group", func(dir string) error { return os.Chmod(filepath.Join(dir, "identity-header.key"), 0o640) }},
		{"header key cut off", func(dir string) error { return os.Truncate(filepath.Join(dir, "identity-header.key"), 16) }},
		{"key cut off", func(dir string) error { return os.Truncate(signing(dir), 100) }},
		{"key empty", func(dir string) error { return os.Truncate(signing(dir), 0) }},
		{"another key's certificate", func(dir string) error {
			other := filepath.Join(dir, "other")
			open(t, other)
			mine, err := os.ReadFile(signing(dir))
			if err != nil {
				return err
			}
			theirs, err := os.ReadFile(signing(other))
			if err != nil {
				return err
			}
			private, _, _ := strings.Cut(string(mine), "-----BEGIN CERT")
			_, cert, _ := strings.Cut(string(theirs), "-----BEGIN CERT")
			return os.WriteFile(signing(dir), []byte(private+"-----BEGIN CERT"+cert), 0o600)
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			open(t, dir)
			if err := test.spoil(dir); err != nil {
				t.Fatal(err)
			}
			_, err := idp.OpenKeys(dir, time.Now)
			if !errors.Is(err, access.ErrInvalid) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

// TestIdentityHeader: one secret for each uid and key, with the uid in front.
func TestIdentityHeader(t *testing.T) {
	a, b := open(t, filepath.Join(t.TempDir(), "a")), open(t, filepath.Join(t.TempDir(), "b"))
	header := a.IdentityHeader(uid)
	if !strings.HasPrefix(header, uid+".") || len(header) != len(uid)+1+43 {
		t.Errorf("header is %q", header)
	}
	if header == b.IdentityHeader(uid) || header == a.IdentityHeader(otherTenant) || header != a.IdentityHeader(uid) {
		t.Error("header is not of this key and uid")
	}
}
