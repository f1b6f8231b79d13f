package hostcert_test

import (
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/hostcert"
)

const file = "azure-hosts-ca.pem"

func open(t *testing.T, dir string, now func() time.Time) *hostcert.Authority {
	t.Helper()
	a, err := hostcert.Open(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func pool(t *testing.T, a *hostcert.Authority) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(a.CertPEM()) {
		t.Fatal("CertPEM holds no certificate")
	}
	return p
}

func TestEachHostHasItsCertificate(t *testing.T) {
	a := open(t, t.TempDir(), time.Now)
	for _, host := range hostcert.Names() {
		leaf, err := a.Certificate(strings.ToUpper(host))
		if err != nil || leaf == nil {
			t.Fatalf("%s: %v, %v", host, leaf, err)
		}
		for _, other := range hostcert.Names() {
			_, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: pool(t, a), DNSName: other})
			if (err == nil) != (other == host) {
				t.Errorf("certificate of %s, used for %s: %v", host, other, err)
			}
		}
		if again, _ := a.Certificate(host); again != leaf {
			t.Errorf("%s: a second handshake made a second certificate", host)
		}
	}
	for _, name := range []string{"", "example.com", "login.microsoftonline.com.example.com", "xlogin.microsoftonline.com", "127.0.0.1"} {
		if leaf, err := a.Certificate(name); leaf != nil || err != nil {
			t.Errorf("Certificate(%q) = %v, %v; want none", name, leaf, err)
		}
	}
}

// A thief of the key gets nothing that a client would believe elsewhere.
func TestCAIsConstrainedToTheHosts(t *testing.T) {
	a := open(t, t.TempDir(), time.Now)
	for _, name := range []string{"example.com", "azure.com", "portal.azure.com", "microsoft.com"} {
		leaf, err := a.Sign(name)
		if err != nil {
			t.Fatal(err)
		}
		var invalid x509.CertificateInvalidError
		if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: pool(t, a), DNSName: name}); !errors.As(err, &invalid) || invalid.Reason != x509.CANotAuthorizedForThisName {
			t.Errorf("%s: %v, want a refusal by name constraint", name, err)
		}
	}
}

// Nor at an address: where a client asks for one, no name is checked.
func TestCASpeaksForNoAddress(t *testing.T) {
	a := open(t, t.TempDir(), time.Now)
	for _, address := range []string{"127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "2001:db8::1"} {
		leaf, err := a.SignAddress(net.ParseIP(address))
		if err != nil {
			t.Fatal(err)
		}
		var invalid x509.CertificateInvalidError
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool(t, a), DNSName: address}); !errors.As(err, &invalid) || invalid.Reason != x509.CANotAuthorizedForThisName {
			t.Errorf("%s: %v, want a refusal by name constraint", address, err)
		}
	}
}

func TestCAIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hosts")
	first := open(t, dir, time.Now)
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, file): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if string(open(t, dir, time.Now).CertPEM()) != string(first.CertPEM()) {
		t.Error("a second start made another CA")
	}
	later := func() time.Time { return time.Now().AddDate(4, 2, 0) }
	if string(open(t, dir, later).CertPEM()) == string(first.CertPEM()) {
		t.Error("a CA with less than a year to live was kept")
	}
}

func TestLeafIsRenewed(t *testing.T) {
	now := time.Now()
	a := open(t, t.TempDir(), func() time.Time { return now })
	first, err := a.Certificate("login.microsoftonline.com")
	if err != nil {
		t.Fatal(err)
	}
	now = now.AddDate(0, 0, 61)
	second, err := a.Certificate("login.microsoftonline.com")
	if err != nil || second == first {
		t.Errorf("with 29 days left the certificate was not renewed (%v)", err)
	}
}

func TestFaultyFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, file), []byte("not a CA"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := hostcert.Open(dir, time.Now); !errors.Is(err, access.ErrInvalid) {
		t.Errorf("error %v, want ErrInvalid", err)
	}
}
