package enroll_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

// TestMain runs an etcd for all tests and fails if a goroutine is left.
func TestMain(m *testing.M) { storetest.Main(m) }

const (
	clusterText = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/c1"
	clusterUID  = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
	issuer      = "https://kubernetes.default.svc.cluster.local"
	proxySub    = "system:serviceaccount:sallyport-system:sallyport-proxy"
	reportSub   = "system:serviceaccount:sallyport-system:sallyport-reconciler"
)

// clock is a time that a test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Now()} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// kube is a cluster's service-account signer.
type kube struct {
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
	now func() time.Time
}

func newKube(t testing.TB, now func() time.Time) *kube {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &kube{rsa: r, ec: e, now: now}
}

func (k *kube) jwks(t testing.TB) []byte {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	point, err := k.ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(map[string]any{"keys": []map[string]string{
		{"use": "sig", "kty": "RSA", "kid": "r1", "alg": "RS256", "n": b64(k.rsa.N.Bytes()), "e": b64(big.NewInt(int64(k.rsa.E)).Bytes())},
		{"use": "sig", "kty": "EC", "kid": "e1", "alg": "ES256", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])},
		{"use": "sig", "kty": "OKP", "kid": "o1", "crv": "Ed25519", "x": "AAAA"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (k *kube) claims(sub string) jwt.MapClaims {
	now := k.now()
	return jwt.MapClaims{"iss": issuer, "sub": sub, "aud": []string{enroll.Audience}, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix()}
}

func (k *kube) token(t *testing.T, sub string) string {
	t.Helper()
	return sign(t, jwt.SigningMethodRS256, "r1", k.claims(sub), k.rsa)
}

func sign(t *testing.T, method jwt.SigningMethod, kid string, claims jwt.MapClaims, key any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	token.Header["kid"] = kid
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// gateway is the server's TLS port: enrolment for everyone, and for agents a
// connection that answers with the peer's name and closes.
type gateway struct {
	authority *enroll.Authority
	server    *enroll.Server
	records   *records
	clock     *clock
	kube      *kube
	addr      string

	mu     sync.Mutex
	events []enroll.Event
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{records: newRecords(t), clock: newClock()}
	g.kube = newKube(t, g.clock.now)
	var err error
	if g.authority, err = enroll.OpenAuthority(t.TempDir(), g.clock.now); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = listener.Addr().String()
	g.server, err = enroll.NewServer(enroll.Config{Authority: g.authority, Records: g.records, Address: g.addr, Now: g.clock.now, Audit: g.record})
	if err != nil {
		t.Fatal(err)
	}
	g.serve(t, listener)
	return g
}

func (g *gateway) record(e enroll.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, e)
}

func (g *gateway) lastEvent() enroll.Event {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.events[len(g.events)-1]
}

// current is what the gateway's index does.
func (g *gateway) current(id enroll.Identity) error {
	clusters, _, err := g.records.store.Clusters.List(context.Background(), "")
	if err != nil {
		return err
	}
	for _, c := range clusters {
		if c.Value.UID == id.ClusterUID && c.Value.Generation == id.Generation {
			return nil
		}
	}
	return fmt.Errorf("generation %d is not current: %w", id.Generation, access.ErrUnauthenticated)
}

func (g *gateway) serve(t *testing.T, listener net.Listener) {
	peer := func(_ *http.Server, conn *tls.Conn, _ http.Handler) {
		defer conn.Close()
		if id, err := g.authority.Peer(conn.ConnectionState()); err == nil {
			io.WriteString(conn, id.SAN())
		}
	}
	srv := &http.Server{
		Handler:           http.HandlerFunc(g.route),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          quiet(),
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){enroll.ALPNTunnel: peer, enroll.ALPNFeed: peer},
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, // what the rest of the port may allow
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return g.authority.CertificateFor(hello, []string{"127.0.0.1", "localhost"})
		},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if enroll.IsAgent(hello) {
				return g.authority.AgentTLS(g.current), nil
			}
			return nil, nil
		},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(tls.NewListener(listener, config))
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
}

func (g *gateway) route(w http.ResponseWriter, r *http.Request) {
	for path, handle := range map[string]func(http.ResponseWriter, *http.Request, access.ResourceID){
		enroll.EnrolPath: g.server.Enrol, enroll.CertificatePath: g.server.Certificate,
	} {
		if cluster, ok := strings.CutSuffix(r.URL.Path, path); ok {
			id, err := access.ParseResourceID(cluster)
			if err == nil {
				handle(w, r, id)
				return
			}
		}
	}
	http.NotFound(w, r)
}

func (g *gateway) join(t *testing.T) enroll.JoinToken { t.Helper(); return g.issue(t, false) }

func (g *gateway) issue(t *testing.T, reset bool) enroll.JoinToken {
	t.Helper()
	token, _, err := g.server.NewJoinToken(t.Context(), clusterID(t), reset)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (g *gateway) client(t *testing.T) *enroll.Client {
	t.Helper()
	return &enroll.Client{Address: g.addr, ClusterID: clusterID(t), CAHash: g.authority.CAHash(), Now: g.clock.now}
}

func (g *gateway) enrol(t *testing.T, token enroll.JoinToken) error {
	t.Helper()
	return g.client(t).Enrol(t.Context(), token, issuer, g.kube.jwks(t), g.kube.token(t, reportSub))
}

func (g *gateway) mustEnrol(t *testing.T) {
	t.Helper()
	if err := g.enrol(t, g.join(t)); err != nil {
		t.Fatal(err)
	}
}

func (g *gateway) credentials(t *testing.T, role enroll.Role) *enroll.Credentials {
	t.Helper()
	sub := proxySub
	if role == enroll.RoleReport {
		sub = reportSub
	}
	return enroll.NewCredentials(g.client(t), role, func() (string, error) { return g.kube.token(t, sub) + "\n", nil })
}

// dial connects as an agent and returns the name the gateway saw. With TLS 1.3
// a refusal of the client's certificate shows at the first read.
func (g *gateway) dial(t *testing.T, config *tls.Config) (string, error) {
	t.Helper()
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: config}
	conn, err := dialer.DialContext(t.Context(), "tcp", g.addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	data, err := io.ReadAll(conn)
	if err == nil && len(data) == 0 {
		err = io.ErrUnexpectedEOF
	}
	return string(data), err
}

func clusterID(t *testing.T) access.ResourceID {
	t.Helper()
	id, err := access.ParseResourceID(clusterText)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
