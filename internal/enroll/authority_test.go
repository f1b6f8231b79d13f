package enroll_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
)

func TestAuthorityFilesAndReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first, err := enroll.OpenAuthority(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "agents-ca.pem")
	if err := os.Chmod(path, 0o644); err != nil { // as a restored backup might be
		t.Fatal(err)
	}
	second, err := enroll.OpenAuthority(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if first.CAHash() != second.CAHash() {
		t.Error("the CA changed between two openings")
	}
	for name, want := range map[string]os.FileMode{dir: 0o700, path: 0o600} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", filepath.Base(name), info.Mode().Perm(), want)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("folder holds %d entries (%v), want the CA alone", len(entries), err)
	}
}

func TestAuthorityConcurrentOpen(t *testing.T) {
	dir := t.TempDir()
	hashes := make([]string, 16)
	var wg sync.WaitGroup
	for i := range hashes {
		wg.Go(func() {
			a, err := enroll.OpenAuthority(dir, time.Now)
			if err != nil {
				t.Error(err)
				return
			}
			hashes[i] = a.CAHash()
		})
	}
	wg.Wait()
	for _, h := range hashes {
		if h != hashes[0] {
			t.Fatalf("two CAs were made: %s and %s", h, hashes[0])
		}
	}
}

func TestAuthorityRefusesBrokenFile(t *testing.T) {
	other := t.TempDir()
	if _, err := enroll.OpenAuthority(other, time.Now); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(other, "agents-ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		data []byte
		now  func() time.Time
	}{
		"empty":        {data: nil, now: time.Now},
		"half":         {data: good[:len(good)/2], now: time.Now},
		"twice":        {data: append(good, good...), now: time.Now},
		"past its end": {data: good, now: func() time.Time { return time.Now().AddDate(11, 0, 0) }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "agents-ca.pem"), tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := enroll.OpenAuthority(dir, tt.now); !errors.Is(err, access.ErrInvalid) {
				t.Errorf("error is %v, want ErrInvalid", err)
			}
		})
	}
}

func TestServerCertificate(t *testing.T) {
	clock := newClock()
	a, err := enroll.OpenAuthority(t.TempDir(), clock.now)
	if err != nil {
		t.Fatal(err)
	}
	first, err := a.ServerCertificate([]string{"gw.example.com", "192.0.2.1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{enroll.ServerName, "gw.example.com", "192.0.2.1"} {
		if err := first.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if _, err := first.Leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the server's certificate is good for clients too")
	}
	clock.add(59 * 24 * time.Hour)
	if same, err := a.ServerCertificate([]string{"gw.example.com", "192.0.2.1"}); err != nil || same != first {
		t.Errorf("replaced with 31 days left (%v)", err)
	}
	clock.add(2 * 24 * time.Hour)
	if next, err := a.ServerCertificate([]string{"gw.example.com", "192.0.2.1"}); err != nil || next == first {
		t.Errorf("not replaced with 29 days left (%v)", err)
	}
	wild, err := a.ServerCertificate([]string{"gw.example.com", "*.clusters.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	for name, good := range map[string]bool{"x.clusters.example.com": true, "clusters.example.com": false, "y.x.clusters.example.com": false, "gw.example.com": true} {
		if err := wild.Leaf.VerifyHostname(name); (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "a b", "https://gw", "fe80::1%eth0", "*", "*.", "a.*.b", "*.*.b"} {
		if _, err := a.ServerCertificate([]string{name}); !errors.Is(err, access.ErrInvalid) {
			t.Errorf("name %q: error is %v, want ErrInvalid", name, err)
		}
	}
}

func TestIssueAndPeer(t *testing.T) {
	clock := newClock()
	a, err := enroll.OpenAuthority(t.TempDir(), clock.now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, notAfter, err := a.Issue(enroll.RoleServe, clusterUID, 7, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	id, err := a.Peer(state)
	if err != nil {
		t.Fatal(err)
	}
	if id.Role != enroll.RoleServe || id.ClusterUID != clusterUID || id.Generation != 7 || id.Serial == "" || !id.NotAfter.Equal(notAfter) {
		t.Errorf("identity is %+v", id)
	}
	if life := notAfter.Sub(clock.now()); life > 24*time.Hour {
		t.Errorf("lives %v", life)
	}

	server, err := a.ServerCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := enroll.OpenAuthority(t.TempDir(), clock.now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Peer(state); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("another CA's certificate: %v", err)
	}
	if _, err := a.Peer(tls.ConnectionState{}); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("no certificate: %v", err)
	}
	if _, err := a.Peer(tls.ConnectionState{PeerCertificates: []*x509.Certificate{server.Leaf}}); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("server's certificate as an agent's: %v", err)
	}
	clock.add(25 * time.Hour)
	if _, err := a.Peer(state); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("ended certificate: %v", err)
	}
}

func TestIssueRefuses(t *testing.T) {
	a, err := enroll.OpenAuthority(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		role       enroll.Role
		uid        string
		generation int64
		public     any
	}{
		"unknown role":     {role: "admin", uid: clusterUID, generation: 1, public: p256.Public()},
		"uid with a colon": {role: enroll.RoleServe, uid: clusterUID + ":9", generation: 1, public: p256.Public()},
		"generation zero":  {role: enroll.RoleServe, uid: clusterUID, generation: 0, public: p256.Public()},
		"other curve":      {role: enroll.RoleServe, uid: clusterUID, generation: 1, public: p384.Public()},
		"no key":           {role: enroll.RoleServe, uid: clusterUID, generation: 1, public: nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, _, err := a.Issue(tt.role, tt.uid, tt.generation, tt.public); !errors.Is(err, access.ErrInvalid) {
				t.Errorf("error is %v, want ErrInvalid", err)
			}
		})
	}
}

func FuzzParseSAN(f *testing.F) {
	f.Add("sallyport:cluster:" + clusterUID + ":1:serve")
	f.Add("sallyport:cluster:" + clusterUID + ":01:serve")
	f.Add("sallyport:cluster:" + clusterUID + ":+1:report")
	f.Add("sallyport:cluster:" + clusterUID + ":1:serve:report")
	f.Add("sallyport:cluster:" + clusterUID + "?generation=1&role=serve")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := enroll.ParseSAN(s)
		if err != nil {
			if !errors.Is(err, access.ErrInvalid) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		if id.SAN() != s || id.Generation < 1 {
			t.Errorf("%q parsed to %+v, which is %q", s, id, id.SAN())
		}
	})
}
