package enroll_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
)

// issuedBy is the hash of the CA that vouches for an agent's certificate.
func (g *gateway) issuedBy(t *testing.T, c *enroll.Credentials) string {
	t.Helper()
	config, err := c.TLS(t.Context(), enroll.ALPNTunnel)
	if err != nil {
		t.Fatal(err)
	}
	id, err := g.authority.Peer(tls.ConnectionState{PeerCertificates: []*x509.Certificate{config.Certificates[0].Leaf}})
	if err != nil {
		t.Fatal(err)
	}
	return id.CAHash
}

// admitted reports whether an agent with these credentials gets in.
func (g *gateway) admitted(t *testing.T, c *enroll.Credentials) error {
	t.Helper()
	config, err := c.TLS(t.Context(), enroll.ALPNTunnel)
	if err != nil {
		return err
	}
	_, err = g.dial(t, config)
	return err
}

// TestReplaceCA goes through the replacement with three agents: one that hears
// of it, one that does not, and one that is installed meanwhile.
func TestReplaceCA(t *testing.T) {
	g := newGateway(t)
	g.mustEnrol(t)
	old := g.authority.CAHash()
	newAgent := func(hash string) (*enroll.Client, *enroll.Credentials) {
		client := &enroll.Client{Address: g.addr, ClusterID: clusterID(t), CAHash: hash, Now: g.clock.now}
		return client, enroll.NewCredentials(client, enroll.RoleServe, func() (string, error) { return g.kube.token(t, proxySub), nil })
	}
	hears, hearing := newAgent(old)
	_, deaf := newAgent(old)
	g.issuedBy(t, hearing)

	fresh, err := g.authority.Introduce()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.authority.Introduce(); !errors.Is(err, access.ErrConflict) {
		t.Errorf("a third CA: %v, want ErrConflict", err)
	}
	if hashes := g.authority.CAHashes(); !slices.Equal(hashes, []string{old, fresh}) || g.authority.CAHash() != fresh {
		t.Fatalf("hashes are %v, for new agents %s", hashes, g.authority.CAHash())
	}
	if n := bytes.Count(g.authority.CACertPEM(), []byte("BEGIN CERTIFICATE")); n != 2 {
		t.Errorf("clients are told to trust %d CAs, want both", n)
	}
	if renew, err := hears.Trust(g.authority.CAHashes()); err != nil || !renew {
		t.Errorf("Trust = %v, %v", renew, err)
	}
	_, installed := newAgent(fresh)
	for name, tt := range map[string]struct {
		c    *enroll.Credentials
		want string
	}{"hears": {hearing, fresh}, "deaf": {deaf, old}, "installed": {installed, fresh}} {
		if got := g.issuedBy(t, tt.c); got != tt.want {
			t.Errorf("%s: certificate of %s, want %s", name, got, tt.want)
		}
		if err := g.admitted(t, tt.c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	stale, err := deaf.TLS(t.Context(), enroll.ALPNTunnel)
	if err != nil {
		t.Fatal(err)
	}

	if err := g.authority.Retire(); err != nil {
		t.Fatal(err)
	}
	if err := g.authority.Retire(); !errors.Is(err, access.ErrConflict) {
		t.Errorf("retired the only CA: %v, want ErrConflict", err)
	}
	if renew, err := hears.Trust(g.authority.CAHashes()); err != nil || renew {
		t.Errorf("Trust = %v, %v, want no new connections", renew, err)
	}
	for name, c := range map[string]*enroll.Credentials{"hears": hearing, "installed": installed} {
		if err := g.admitted(t, c); err != nil {
			t.Errorf("%s after the old CA went: %v", name, err)
		}
	}
	if err := g.admitted(t, deaf); !errors.Is(err, access.ErrUnauthenticated) || !strings.Contains(err.Error(), "new manifest") {
		t.Errorf("deaf after the old CA went: %v, want ErrUnauthenticated that says what to do", err)
	}
	stale.VerifyConnection = nil
	if name, err := g.dial(t, stale); err == nil {
		t.Errorf("a certificate of the old CA is admitted as %s", name)
	}
}

// TestTrustDropsTheOld: an agent that was told so trusts what the old CA signs
// no more: its key may be what others got hold of.
func TestTrustDropsTheOld(t *testing.T) {
	g, impostor := newGateway(t), newGateway(t)
	g.mustEnrol(t)
	client := g.client(t)
	if _, err := client.Trust([]string{impostor.authority.CAHash()}); err != nil {
		t.Fatal(err)
	}
	c := enroll.NewCredentials(client, enroll.RoleServe, func() (string, error) { return g.kube.token(t, proxySub), nil })
	if _, err := c.TLS(t.Context(), enroll.ALPNTunnel); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("error is %v, want ErrUnauthenticated", err)
	}
	for name, hashes := range map[string][]string{"none": nil, "three": {"a", "b", "c"}, "no hash": {"sha256:x"}} {
		if _, err := client.Trust(hashes); !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

// TestReplaceCASurvives: a restart in the middle goes on with both CAs, and one
// at the end with the new one.
func TestReplaceCASurvives(t *testing.T) {
	dir := t.TempDir()
	open := func() *enroll.Authority {
		t.Helper()
		a, err := enroll.OpenAuthority(dir, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := open()
	if _, err := a.Introduce(); err != nil {
		t.Fatal(err)
	}
	both := a.CAHashes()
	a = open()
	if got := a.CAHashes(); !slices.Equal(got, both) {
		t.Errorf("after a restart: %v, want %v", got, both)
	}
	if err := a.Retire(); err != nil {
		t.Fatal(err)
	}
	if got := open().CAHashes(); !slices.Equal(got, both[1:]) {
		t.Errorf("after another: %v, want %v", got, both[1:])
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("files: %v, %v", entries, err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "agents-ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(data); block == nil || !bytes.Contains(a.CACertPEM(), pem.EncodeToMemory(block)) {
		t.Error("the file is not that of the CA in use")
	}
}
