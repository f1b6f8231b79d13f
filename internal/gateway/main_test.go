package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/addresses"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/gateway"
	"github.com/sallyport/sallyport/internal/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	limit      = 20 * time.Second // no test waits longer for one event; none expects to
	source     = "/subscriptions/11111111-2222-3333-4444-aaaaaaaaaaaa/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ml1"
	bindingUID = "bbbbbbbb-2222-3333-4444-aaaaaaaaaaaa"
	clusterUID = "cccccccc-2222-3333-4444-aaaaaaaaaaaa"
)

// rig is a gateway whose surroundings a test can change. What it forwards goes
// to answer, and is counted.
type rig struct {
	*gateway.Gateway
	live         *tunnel.Live
	metrics      *prometheus.Registry
	authenticate func(token string) (access.Principal, error)
	grant        func(access.Principal, access.ResourceID) (access.Grant, error)
	holds        func(access.Grant) error
	to           func(clusterUID string) (http.RoundTripper, error)
	address      func(*http.Request) (netip.Addr, error) // nil: the connection's
	from         func(netip.Addr) bool                   // nil: all
	answer       func(*http.Request) (*http.Response, error)
	tokenLife    time.Duration // what a token has yet to live when it is shown
	quiet        bool          // remembers nothing, for many requests
	log          audit.Log     // of a quiet one; nil for none

	mu        sync.Mutex
	steps     []string // in the order in which they were asked
	records   []audit.Record
	auditErr  error
	forwarded []*http.Request
}

func id(t testing.TB, s string) access.ResourceID {
	t.Helper()
	id, err := access.ParseResourceID(s)
	check(t, err)
	return id
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return newRigWithGrace(t, 0)
}

func newRigWithGrace(t testing.TB, grace time.Duration) *rig {
	t.Helper()
	return newRigWith(t, func(cfg *gateway.Config) { cfg.TokenGrace = grace })
}

// newRigWith is a rig whose gateway is configured otherwise.
func newRigWith(t testing.TB, change func(*gateway.Config)) *rig {
	t.Helper()
	r := &rig{live: &tunnel.Live{}, metrics: prometheus.NewRegistry(), tokenLife: time.Hour}
	from := id(t, source)
	r.authenticate = func(token string) (access.Principal, error) {
		if token != "good" {
			return access.Principal{}, fmt.Errorf("signature: %w", access.ErrUnauthenticated)
		}
		return access.Principal{TenantID: "tenant", ObjectID: "oid", Resource: from, Expires: time.Now().Add(r.tokenLife)}, nil
	}
	r.grant = func(p access.Principal, c access.ResourceID) (access.Grant, error) {
		return access.Grant{Cluster: c, ClusterUID: clusterUID, Binding: "b1", BindingUID: bindingUID, Source: p.Resource}, nil
	}
	r.holds = func(access.Grant) error { return nil }
	r.to = func(string) (http.RoundTripper, error) { return r, nil }
	r.answer = func(*http.Request) (*http.Response, error) { return answer(200, nil, `{"ok":true}`), nil }
	cfg := gateway.Config{
		Address: func(req *http.Request) (netip.Addr, error) {
			if r.address != nil {
				return r.address(req)
			}
			return addresses.TrustedProxies{}.Client(req)
		},
		From: func(a netip.Addr) bool { return r.from == nil || r.from(a) },
		Authenticate: func(_ context.Context, token string) (access.Principal, error) {
			r.step("authenticate")
			return r.authenticate(token)
		},
		Authorizer: r,
		Audit: func(rec audit.Record) error {
			if r.quiet {
				if r.log != nil {
					return r.log(rec)
				}
				return nil
			}
			r.step("audit " + string(rec.Stage))
			r.mu.Lock()
			defer r.mu.Unlock()
			r.records = append(r.records, rec)
			return r.auditErr
		},
		To: func(uid string) (http.RoundTripper, error) {
			r.step("to")
			return r.to(uid)
		},
		Live:          r.live,
		Metrics:       r.metrics,
		Logger:        slog.New(slog.DiscardHandler),
		ClusterDomain: "Clusters.example.com",
		ClusterID: func(uid string) (access.ResourceID, error) {
			if uid != clusterUID {
				return access.ResourceID{}, fmt.Errorf("no cluster with uid %s: %w", uid, access.ErrNotFound)
			}
			return id(t, cluster), nil
		},
	}
	change(&cfg)
	var err error
	r.Gateway, err = gateway.New(cfg)
	check(t, err)
	return r
}

func (r *rig) step(s string) {
	if r.quiet {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = append(r.steps, s)
}

// Grant implements gateway.Authorizer.
func (r *rig) Grant(p access.Principal, c access.ResourceID, _ netip.Addr) (access.Grant, error) {
	r.step("grant")
	return r.grant(p, c)
}

// Holds implements gateway.Authorizer.
func (r *rig) Holds(g access.Grant) error {
	if !r.quiet {
		r.step(fmt.Sprintf("holds, %d live", len(r.live.UIDs())))
	}
	return r.holds(g)
}

// RoundTrip is the tunnel.
func (r *rig) RoundTrip(req *http.Request) (*http.Response, error) {
	r.step("forward")
	if !r.quiet {
		r.mu.Lock()
		r.forwarded = append(r.forwarded, req.Clone(req.Context()))
		r.mu.Unlock()
	}
	if req.Body != nil {
		defer req.Body.Close()
	}
	return r.answer(req)
}

func (r *rig) requests() []*http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*http.Request(nil), r.forwarded...)
}

func (r *rig) audited() []audit.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]audit.Record(nil), r.records...)
}

// do serves one request without a network.
func (r *rig) do(req *http.Request) *http.Response {
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	return w.Result()
}

// get is a request that is in order: GET of a path of the cluster.
func get(path string) *http.Request { return request(http.MethodGet, path, nil) }

func request(method, path string, body io.Reader) *http.Request {
	r := httptest.NewRequest(method, base+path, body)
	r.Header.Set("Authorization", "Bearer good")
	return r
}

// answer is what a cluster says.
func answer(status int, h http.Header, body string) *http.Response {
	if h == nil {
		h = http.Header{"Content-Type": {"application/json"}}
	}
	return &http.Response{StatusCode: status, ProtoMajor: 2, Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
}

// serve puts the gateway on the network, with TLS or without.
func (r *rig) serve(t testing.TB, secure bool) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(r)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() {
		s.Client().CloseIdleConnections()
		s.Close()
	})
	return s
}

// raw sends bytes as they are, ends its half of the connection, and returns all
// that comes back until the server has closed the other.
func raw(t testing.TB, s *httptest.Server, text string) string {
	t.Helper()
	return exchange(t, s, text, true)
}

// exchange is raw; a server takes a client whose half has ended for gone.
func exchange(t testing.TB, s *httptest.Server, text string, end bool) string {
	t.Helper()
	u, err := url.Parse(s.URL)
	check(t, err)
	conn, err := net.Dial("tcp", u.Host)
	check(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Logf("the server closed early: %v", err)
	}
	if end {
		conn.(*net.TCPConn).CloseWrite()
	}
	b, _ := io.ReadAll(bufio.NewReader(conn)) // a reset ends it as well
	return string(b)
}

// status decodes a refusal as Kubernetes' own clients do.
func status(t testing.TB, resp *http.Response) *apierrors.StatusError {
	t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	var s metav1.Status
	if err := json.Unmarshal(body, &s); err != nil || s.Kind != "Status" || s.APIVersion != "v1" || s.Status != metav1.StatusFailure || int(s.Code) != resp.StatusCode {
		t.Fatalf("status %d: %s: %v", resp.StatusCode, body, err)
	}
	return &apierrors.StatusError{ErrStatus: s}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func receive[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(limit):
		panic("waited too long for " + what)
	}
}
