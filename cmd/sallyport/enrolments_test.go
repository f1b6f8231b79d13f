package main

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/enroll"
)

// TestReenrolment runs the whole server against clusters that are only their
// service-account keys: a join token alone does not take the place of the agent
// of an enrolled cluster, and only an owner's reset says that it may.
func TestReenrolment(t *testing.T) {
	s := newSystem(t)
	id := s.register("private")
	owner, thief := newSigner(t, "https://kubernetes.default.svc"), newSigner(t, "https://evil")

	first := s.must("agent", "manifest", "-n", "private", "--roles", "mlworkload")
	if !strings.Contains(first, "sallyport-join-v1.") {
		t.Fatal("the first manifest holds no join token")
	}
	token := s.joinToken("private")
	if err := owner.enrol(t, token); err != nil {
		t.Fatal(err)
	}

	// Applied again, for the roles, the manifest leaves nothing to be stolen.
	again := s.must("agent", "manifest", "-n", "private", "--roles", "mlworkload,backup-operator")
	if strings.Contains(again, "sallyport-join") {
		t.Error("the manifest for an enrolled cluster holds a join token")
	}
	contains(t, "the manifest", again, `"`+token.Address+`"`, `"`+token.CAHash+`"`, id)

	stolen := s.joinToken("private")
	if err := thief.enrol(t, stolen); !errors.Is(err, access.ErrUnauthenticated) || !strings.Contains(err.Error(), "--reset") {
		t.Errorf("the thief: %v, want ErrUnauthenticated that names --reset", err)
	}
	if _, err := thief.credentials(t, stolen, enroll.RoleServe).TLS(t.Context(), enroll.ALPNTunnel); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("the thief's certificate: %v, want ErrUnauthenticated", err)
	}
	if _, err := owner.credentials(t, token, enroll.RoleServe).TLS(t.Context(), enroll.ALPNTunnel); err != nil {
		t.Errorf("the agent's certificate: %v", err)
	}
	if err := owner.enrol(t, stolen); err != nil {
		t.Errorf("the same cluster again: %v", err)
	}

	rotated := newSigner(t, owner.issuer)
	if err := rotated.enrol(t, s.joinToken("private")); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("rotated keys: %v, want ErrUnauthenticated", err)
	}
	if err := rotated.enrol(t, s.joinToken("private", "--reset")); err != nil {
		t.Errorf("rotated keys, reset: %v", err)
	}
	resets := 0
	for _, r := range s.records() {
		detail, err := json.Marshal(r.Detail)
		if err != nil {
			t.Fatal(err)
		}
		if r.Stage == audit.Consent && strings.HasSuffix(r.Path, "/joinToken") && string(detail) == `{"reset":true}` {
			resets++
		}
	}
	if resets != 1 {
		t.Errorf("%d resets are in the audit log, want 1", resets)
	}
}

// joinToken has the command line issue one.
func (s *system) joinToken(cluster string, flags ...string) enroll.JoinToken {
	s.t.Helper()
	text := s.must(append([]string{"cluster", "join-token", "-n", cluster}, flags...)...)
	token, err := enroll.ParseJoinToken(strings.TrimSpace(text))
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// signer is all that enrolment sees of a cluster.
type signer struct {
	issuer string
	key    *rsa.PrivateKey
}

func newSigner(t *testing.T, issuer string) *signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{issuer, key}
}

// token is a projected token of one of the agent's accounts.
func (c *signer) token(t *testing.T, account string) string {
	t.Helper()
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
		"iss": c.issuer, "sub": "system:serviceaccount:sallyport-system:" + account, "aud": []string{enroll.Audience},
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	token.Header["kid"] = "k"
	text, err := token.SignedString(c.key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (c *signer) enrol(t *testing.T, token enroll.JoinToken) error {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	keys, err := json.Marshal(map[string]any{"keys": []map[string]string{
		{"kty": "RSA", "kid": "k", "n": b64(c.key.N.Bytes()), "e": b64(big.NewInt(int64(c.key.E)).Bytes())},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return token.Client().Enrol(t.Context(), token, c.issuer, keys, c.token(t, "sallyport-reconciler"))
}

func (c *signer) credentials(t *testing.T, token enroll.JoinToken, role enroll.Role) *enroll.Credentials {
	account := "sallyport-proxy"
	if role == enroll.RoleReport {
		account = "sallyport-reconciler"
	}
	return enroll.NewCredentials(token.Client(), role, func() (string, error) { return c.token(t, account), nil })
}
