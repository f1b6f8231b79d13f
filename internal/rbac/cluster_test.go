package rbac_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/rbac"
)

const (
	clusterID = "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/c1"
	prefix    = access.DefaultPrefix
	patience  = 20 * time.Second
)

// cluster is a real kube-apiserver with the manifest applied, one for the test
// binary: every test uses binding names of its own.
type cluster struct {
	kubeconfig string
	config     *rest.Config // cluster admin
	transports []*http.Client
	admin      kubernetes.Interface
	reconciler kubernetes.Interface
	proxyToken string
}

var dev *cluster // the one exception to "no package state": TestMain fills it

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "rbac")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	stop, err := startCluster(ctx, dir)
	if err == nil {
		dev, err = install(ctx, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start the test cluster:", err)
		stop()
		return 1
	}
	code := m.Run()
	for _, c := range dev.transports {
		c.CloseIdleConnections()
	}
	stop()
	cancel()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func binary(name string) (string, error) {
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", name))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("bin/%s is missing, run make build first: %w", name, err)
	}
	return path, nil
}

func startCluster(ctx context.Context, dir string) (stop func(), err error) {
	stop = func() {}
	path, err := binary("devcluster")
	if err != nil {
		return stop, err
	}
	cmd := exec.CommandContext(ctx, path, "start", "--dir", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return stop, err
	}
	if err := cmd.Start(); err != nil {
		return stop, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ready ") {
		return stop, fmt.Errorf("devcluster said %q and not \"ready\": %w", line, errors.Join(err, errors.New("see apiserver.log")))
	}
	return stop, nil
}

// install applies exactly what Manifest writes, and takes the accounts' tokens.
func install(ctx context.Context, dir string) (*cluster, error) {
	c := &cluster{kubeconfig: filepath.Join(dir, "kubeconfig")}
	var err error
	if c.config, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig); err != nil {
		return nil, err
	}
	if c.admin, err = c.client(c.config); err != nil {
		return nil, err
	}
	roles, err := access.Catalogue()
	if err != nil {
		return nil, err
	}
	if err := c.apply(ctx, roles); err != nil {
		return nil, err
	}
	token, err := c.token(ctx, access.ReconcilerAccount)
	if err != nil {
		return nil, err
	}
	if c.reconciler, err = c.client(c.as(token)); err != nil {
		return nil, err
	}
	if c.proxyToken, err = c.token(ctx, access.ProxyAccount); err != nil {
		return nil, err
	}
	return c, until(ctx, func() error { return c.policiesHold(ctx) })
}

func (c *cluster) apply(ctx context.Context, roles []access.Role) error {
	return c.applyAs(ctx, rbac.Legacy, roles)
}

func (c *cluster) applyAs(ctx context.Context, mode rbac.Impersonation, roles []access.Role) error {
	id, err := access.ParseResourceID(clusterID)
	if err != nil {
		return err
	}
	text, err := rbac.Manifest(rbac.ManifestOptions{
		Gateway: "gateway.test:443", ClusterID: id, CAHash: "sha256:" + strings.Repeat("ab", 32),
		JoinToken: "join-once", Roles: roles, Impersonation: mode,
	})
	if err != nil {
		return err
	}
	kubectl, err := binary("kubectl")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, kubectl, "--kubeconfig", c.kubeconfig, "apply", "-f", "-")
	cmd.Stdin = bytes.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w: %s", err, out)
	}
	return nil
}

// policiesHold asks until both admission policies are enforced: an API server
// takes a moment to read them.
func (c *cluster) policiesHold(ctx context.Context) error {
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	_, err := c.reconciler.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "probe"}}, dry)
	if !deniedBy(err, "sallyport-reconciler") {
		return fmt.Errorf("policy sallyport-reconciler is not enforced: %w", orNil(err))
	}
	probe := rest.CopyConfig(c.config)
	probe.Impersonate = rest.ImpersonationConfig{UserName: "probe", Groups: []string{prefix, "system:masters"}}
	source, err := c.client(probe)
	if err != nil {
		return err
	}
	_, err = source.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "sallyport:probe"}}, dry)
	if !deniedBy(err, "sallyport-sources") {
		return fmt.Errorf("policy sallyport-sources is not enforced: %w", orNil(err))
	}
	return nil
}

func orNil(err error) error {
	if err == nil {
		return errors.New("the probe was let through")
	}
	return err
}

func deniedBy(err error, policy string) bool {
	return err != nil && strings.Contains(err.Error(), "ValidatingAdmissionPolicy '"+policy+"'") && strings.Contains(err.Error(), "denied request")
}

func (c *cluster) token(ctx context.Context, account string) (string, error) {
	got, err := c.admin.CoreV1().ServiceAccounts(access.AgentNamespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return got.Status.Token, nil
}

// as is the configuration of a caller with nothing but a token.
func (c *cluster) as(token string) *rest.Config {
	config := rest.AnonymousClientConfig(c.config)
	config.BearerToken = token
	return config
}

func (c *cluster) client(config *rest.Config) (kubernetes.Interface, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1
	hc, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	c.transports = append(c.transports, hc)
	return kubernetes.NewForConfigAndClient(config, hc)
}

// source is what the agent's proxy sends for a binding: the proxy's token, and
// the binding's whole identity.
func (c *cluster) source(t *testing.T, b access.DesiredBinding) kubernetes.Interface {
	t.Helper()
	return c.proxyAs(t, identity(b))
}

func identity(b access.DesiredBinding) rest.ImpersonationConfig {
	return rest.ImpersonationConfig{
		UserName: access.User(prefix, b.Name),
		Groups:   []string{access.Group(prefix)},
		Extra:    map[string][]string{access.ExtraBindingUID: {b.UID}, access.ExtraSource: {b.Source.String()}},
	}
}

func (c *cluster) proxyAs(t *testing.T, id rest.ImpersonationConfig) kubernetes.Interface {
	t.Helper()
	config := c.as(c.proxyToken)
	config.Impersonate = id
	got, err := c.client(config)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// until polls a condition of the API server until it holds or ctx ends.
func until(ctx context.Context, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func mustForbid(t *testing.T, what string, err error) {
	t.Helper()
	if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
		t.Errorf("%s: got %v, want it forbidden", what, err)
		return
	}
	t.Logf("%s: %v", what, err)
}

// running is a reconciler at work for one test.
type running struct {
	t       *testing.T
	desired chan access.Desired
	reports chan access.Report
	last    access.Report
	at      int64
}

// run starts a reconciler with the account's token only; it is stopped when the
// test ends.
func run(t *testing.T) *running {
	t.Helper()
	return runWith(t, dev.reconciler)
}

func runWith(t *testing.T, client kubernetes.Interface) *running {
	t.Helper()
	return runConfig(t, rbac.Config{Client: client})
}

func runConfig(t *testing.T, config rbac.Config) *running {
	t.Helper()
	r := &running{t: t, desired: make(chan access.Desired), reports: make(chan access.Report, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- rbac.New(config).Run(ctx, r.desired, func(rep access.Report) { r.reports <- rep })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func (r *running) want(tombstones []access.Tombstone, bindings ...access.DesiredBinding) {
	r.t.Helper()
	r.at++
	select {
	case r.desired <- access.Desired{Revision: r.at, Bindings: bindings, Tombstones: tombstones}:
	case <-time.After(patience):
		r.t.Fatal("the reconciler does not take a new desired state")
	}
}

func (r *running) until(what string, ok func(access.Report) bool) access.Report {
	r.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case r.last = <-r.reports:
			if ok(r.last) {
				return r.last
			}
		case <-deadline:
			r.t.Fatalf("%s: not so after %s; last report: %+v", what, patience, r.last)
		}
	}
}

// inForce waits until every one of the bindings is reported in force.
func (r *running) inForce(bindings ...access.DesiredBinding) {
	r.t.Helper()
	r.until("in force", func(rep access.Report) bool {
		for _, b := range bindings {
			if got := reportOf(rep, b); !got.InForce || got.Generation != b.Generation {
				return false
			}
		}
		return true
	})
}

func reportOf(rep access.Report, b access.DesiredBinding) access.BindingReport {
	for _, got := range rep.Bindings {
		if got.UID == b.UID {
			return got
		}
	}
	return access.BindingReport{}
}

func binding(t *testing.T, name, uid string, roles ...string) access.DesiredBinding {
	t.Helper()
	catalogue, err := access.Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	b := access.DesiredBinding{Name: name, UID: uid, Generation: 1}
	for _, short := range roles {
		for _, role := range catalogue {
			if role.Name == short {
				b.Roles = append(b.Roles, role)
			}
		}
	}
	if len(b.Roles) != len(roles) {
		t.Fatalf("roles %v are not all in the catalogue", roles)
	}
	if b.Source, err = access.ParseResourceID("/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/RG/providers/" + b.Roles[0].SourceResourceType + "/" + name + "-src"); err != nil {
		t.Fatal(err)
	}
	return b
}
