package enroll_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
)

// show enrols with a join token as cluster k does, under the issuer iss.
func (g *gateway) show(t *testing.T, token enroll.JoinToken, k *kube, iss string) error {
	t.Helper()
	claims := k.claims(reportSub)
	claims["iss"] = iss
	proof := sign(t, jwt.SigningMethodRS256, "r1", claims, k.rsa)
	return g.client(t).Enrol(t.Context(), token, iss, k.jwks(t), proof)
}

// TestItem19StolenJoinToken: a source may read Secrets in the agent's namespace, and
// so an unused join token. With keys of its own it must not take the agent's
// place, nor retire the agent.
func TestItem19StolenJoinToken(t *testing.T) {
	g := newGateway(t)
	g.mustEnrol(t)
	agent := g.credentials(t, enroll.RoleServe)
	config, err := agent.TLS(t.Context(), enroll.ALPNTunnel)
	if err != nil {
		t.Fatal(err)
	}
	stolen := g.join(t)
	thief := newKube(t, g.clock.now)
	const evil = "https://evil"

	for name, iss := range map[string]string{"own keys and issuer": evil, "own keys, the cluster's issuer": issuer} {
		err := g.show(t, stolen, thief, iss)
		if !errors.Is(err, access.ErrUnauthenticated) || !strings.Contains(err.Error(), "--reset") {
			t.Errorf("%s: error is %v, want ErrUnauthenticated that names --reset", name, err)
		}
		if e := g.lastEvent(); e.Err == nil || e.Generation != 0 || e.Issuer != iss {
			t.Errorf("%s: event is %+v", name, e)
		}
	}
	for role, sub := range map[enroll.Role]string{enroll.RoleServe: proxySub, enroll.RoleReport: reportSub} {
		claims := thief.claims(sub)
		claims["iss"] = evil
		forged := func() (string, error) { return sign(t, jwt.SigningMethodRS256, "r1", claims, thief.rsa), nil }
		if _, err := enroll.NewCredentials(g.client(t), role, forged).TLS(t.Context(), enroll.ALPNFeed); !errors.Is(err, access.ErrUnauthenticated) {
			t.Errorf("certificate of role %s for the thief: %v", role, err)
		}
	}
	if c, _ := g.records.Cluster(t.Context(), clusterID(t)); c.Generation != 1 || c.AgentIssuer != issuer {
		t.Errorf("cluster is at generation %d of issuer %q", c.Generation, c.AgentIssuer)
	}
	if name, err := g.dial(t, config); err != nil {
		t.Errorf("the agent's certificate no longer works: %q, %v", name, err)
	}

	// The cluster itself may still use it.
	if err := g.enrol(t, stolen); err != nil {
		t.Errorf("the cluster's own agent: %v", err)
	}
}

// TestReenrolment says who may enrol a cluster that is enrolled.
func TestReenrolment(t *testing.T) {
	tests := map[string]struct {
		another bool   // keys than those recorded
		iss     string // default: the recorded one
		reset   bool
		want    error
	}{
		"same keys":              {},
		"same keys, reset":       {reset: true},
		"rotated keys":           {another: true, want: access.ErrUnauthenticated},
		"rotated keys, reset":    {another: true, reset: true},
		"another issuer":         {iss: "https://new.example", want: access.ErrUnauthenticated},
		"another issuer, reset":  {iss: "https://new.example", reset: true},
		"another cluster":        {another: true, iss: "https://new.example", want: access.ErrUnauthenticated},
		"another cluster, reset": {another: true, iss: "https://new.example", reset: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			g.mustEnrol(t)
			k, iss := g.kube, issuer
			if tt.another {
				k = newKube(t, g.clock.now)
			}
			if tt.iss != "" {
				iss = tt.iss
			}
			token := g.issue(t, tt.reset)
			if err := g.show(t, token, k, iss); !errors.Is(err, tt.want) {
				t.Fatalf("error is %v, want %v", err, tt.want)
			}
			generation, recorded := int64(2), iss
			if tt.want != nil {
				generation, recorded = 1, issuer
			}
			if c, _ := g.records.Cluster(t.Context(), clusterID(t)); c.Generation != generation || c.AgentIssuer != recorded {
				t.Errorf("generation %d of issuer %q, want %d of %q", c.Generation, c.AgentIssuer, generation, recorded)
			}
			if err := g.show(t, token, k, iss); tt.want == nil && !errors.Is(err, access.ErrUnauthenticated) {
				t.Errorf("the token worked twice: %v", err)
			}
		})
	}
}

// TestFirstEnrolmentCameBetween: what counts is what is recorded when the
// enrolment is written, not when its token was issued.
func TestFirstEnrolmentCameBetween(t *testing.T) {
	g := newGateway(t)
	early := g.join(t) // while nothing was enrolled
	g.mustEnrol(t)
	if err := g.show(t, early, newKube(t, g.clock.now), "https://evil"); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("error is %v, want ErrUnauthenticated", err)
	}
}

// TestRecordedKeysUnreadable: keys that cannot be read prove nothing.
func TestRecordedKeysUnreadable(t *testing.T) {
	g := newGateway(t)
	g.mustEnrol(t)
	item, err := g.records.store.Clusters.Get(t.Context(), clusterID(t).Key())
	if err != nil {
		t.Fatal(err)
	}
	item.Value.AgentKeys = nil
	if _, err := g.records.store.Clusters.Put(t.Context(), item.Value, item.Version); err != nil {
		t.Fatal(err)
	}
	if err := g.enrol(t, g.join(t)); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("error is %v, want ErrUnauthenticated", err)
	}
	if err := g.enrol(t, g.issue(t, true)); err != nil {
		t.Errorf("reset: %v", err)
	}
}

// TestAdmitWithoutProof: an enrolment that no request proves is not admitted.
func TestAdmitWithoutProof(t *testing.T) {
	hash := make([]byte, 32)
	c := access.Cluster{ID: clusterID(t), UID: clusterUID, Generation: 1, AgentIssuer: issuer}
	now := newClock().now()
	e := enroll.Enrolment{TokenID: "1", SecretHash: hash, Cluster: c.ID, ClusterUID: c.UID, Issuer: "https://evil", At: now}
	token := enroll.StoredToken{ID: "1", Cluster: c.ID, ClusterUID: c.UID, SecretHash: hash, Expires: now.Add(1)}
	if _, err := token.Admit(e, c); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("error is %v, want ErrUnauthenticated", err)
	}
	token.Reset = true
	if c, err := token.Admit(e, c); err != nil || c.Generation != 2 {
		t.Errorf("reset: %+v, %v", c, err)
	}
}
