package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/internal/enroll"
)

// TestSystemSecondEnrolment: a new join token's enrolment retires what came
// before it, at once and for good.
func TestSystemSecondEnrolment(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	first := s.install("private", "mlworkload")
	first.start()
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, mlworkload)
	through := ml.client(cluster)
	if _, err := services(t, through); err != nil {
		t.Fatal(err)
	}
	token := first.joinToken()

	// A feed of the first enrolment, whose certificate is kept.
	creds := enroll.NewCredentials(token.Client(), enroll.RoleReport, first.gatewayToken("reconciler"))
	certificate, err := creds.TLS(t.Context(), enroll.ALPNFeed)
	if err != nil {
		t.Fatal(err)
	}
	feed := s.feed(certificate)
	states, ended := make(chan access.Desired, 1), make(chan error, 1)
	go func() {
		ended <- feed.Desired(t.Context(), func(d access.Desired) {
			select {
			case states <- d:
			default:
			}
		})
	}()
	select {
	case d := <-states:
		if d.Generation != 1 {
			t.Errorf("the first enrolment is of generation %d", d.Generation)
		}
	case err := <-ended:
		t.Fatalf("the feed of the first enrolment: %v", err)
	}

	// The token of the first enrolment is used up.
	if err := first.enrol(token); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("a used join token: %v", err)
	}

	second := s.install("private", "mlworkload", "--reenrol")
	cut := strings.Count(s.server.log.String(), "agent disconnected")
	second.start()
	s.await("the first agent's tunnel is cut", func() bool {
		return strings.Count(s.server.log.String(), "agent disconnected") > cut
	})
	if err := <-ended; err == nil {
		t.Error("the feed of the first enrolment ended without a reason")
	}
	for name, feed := range map[string]*client.Feed{"the connection": feed, "the certificate": s.feed(certificate)} {
		err := feed.Desired(t.Context(), func(access.Desired) {})
		if err == nil {
			t.Errorf("%s of the first enrolment is still accepted", name)
		}
		t.Logf("%s of the first enrolment: %v", name, err)
	}
	s.await("requests work through the second agent", func() bool { _, err := services(t, through); return err == nil })
	if text := s.must("cluster", "show", "-n", "private"); !strings.Contains(text, " 2") {
		t.Errorf("the enrolment is not 2: %s", text)
	}
}

// TestSystemJoinTokenWorksOnce has two agents show one token at once.
func TestSystemJoinTokenWorksOnce(t *testing.T) {
	s := newSystem(t)
	s.register("private")
	agent := s.install("private", "mlworkload")
	token := agent.joinToken()
	var won, refused atomic.Int64
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			switch err := agent.enrol(token); {
			case err == nil:
				won.Add(1)
			case errors.Is(err, access.ErrUnauthenticated):
				refused.Add(1)
			default:
				t.Errorf("enrol: %v", err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 || refused.Load() != 1 {
		t.Errorf("%d enrolled and %d were refused, want one of each", won.Load(), refused.Load())
	}
	var recorded []string
	for _, r := range s.records() {
		if r.Action == "agents/enrol" {
			if r.Allowed != nil && *r.Allowed {
				recorded = append(recorded, "allowed")
			} else {
				recorded = append(recorded, "refused")
			}
		}
	}
	if len(recorded) != 2 || recorded[0] == recorded[1] {
		t.Errorf("the audit log has %v", recorded)
	}
}

// joinToken reads the one of the manifest.
func (a *installed) joinToken() enroll.JoinToken {
	a.s.t.Helper()
	text, err := os.ReadFile(filepath.Join(a.dir, "reconciler", "join", "token"))
	if err != nil {
		a.s.t.Fatal(err)
	}
	token, err := enroll.ParseJoinToken(strings.TrimSpace(string(text)))
	if err != nil {
		a.s.t.Fatal(err)
	}
	return token
}

// gatewayToken gives fresh tokens of a half's account, for the gateway.
func (a *installed) gatewayToken(half string) func() (string, error) {
	return func() (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		token, err := a.kube.admin.CoreV1().ServiceAccounts("sallyport-system").CreateToken(ctx, "sallyport-"+half,
			&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"sallyport"}}}, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return token.Status.Token, nil
	}
}

// enrol shows a join token as the reconciler does.
func (a *installed) enrol(token enroll.JoinToken) error {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	api := a.kube.admin.Discovery().RESTClient()
	document, err := api.Get().AbsPath("/.well-known/openid-configuration").DoRaw(ctx)
	if err != nil {
		return err
	}
	var discovery struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(document, &discovery); err != nil {
		return err
	}
	keys, err := api.Get().AbsPath("/openid/v1/jwks").DoRaw(ctx)
	if err != nil {
		return err
	}
	proof, err := a.gatewayToken("reconciler")()
	if err != nil {
		return err
	}
	return token.Client().Enrol(ctx, token, discovery.Issuer, keys, proof)
}

// feed is an agent's feed with a certificate that is never renewed.
func (s *system) feed(config *tls.Config) *client.Feed {
	transport := &http.Transport{DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		dialer := tls.Dialer{Config: config}
		return dialer.DialContext(ctx, "tcp", strings.TrimPrefix(s.url, "https://"))
	}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return client.NewFeed(transport)
}
