//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/internal/enroll"
	"github.com/sallyport/sallyport/internal/rbac"
)

// killPatience is the limit of every wait for something that must happen.
const killPatience = time.Minute

// killChild is a process that may be killed and started again.
type killChild struct {
	name  string
	args  []string // the program first
	env   []string // added to the test's own
	ready bool     // it says "ready ADDRESS" on stdout once it serves
	log   string   // file that its stderr is appended to

	cmd *exec.Cmd // nil while it does not run
}

// start runs the child, and returns the address it says it is ready at.
func (c *killChild) start(t *testing.T) string {
	t.Helper()
	log, err := os.OpenFile(c.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // no orphans when the test times out
	var out *bufio.Reader
	if c.ready {
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		out = bufio.NewReader(pipe)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.cmd = cmd
	if !c.ready {
		return ""
	}
	late := time.AfterFunc(killPatience, func() { cmd.Process.Kill() })
	defer late.Stop()
	line, err := out.ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if !ok {
		t.Fatalf("%s said %q (%v) and not \"ready\":\n%s", c.name, line, err, c.tail())
	}
	return address
}

// kill is kill -9. A child that had ended by itself is a failure.
func (c *killChild) kill(t *testing.T) {
	t.Helper()
	if c.cmd == nil {
		return
	}
	c.cmd.Process.Kill()
	c.cmd.Wait() // says only what the state says
	if status := c.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("%s ended by itself (%s):\n%s", c.name, c.cmd.ProcessState, c.tail())
	}
	c.cmd = nil
}

// tail is the end of the child's log.
func (c *killChild) tail() string {
	data, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-4000):])
}

// killRig is a whole system of real processes: a kube-apiserver, the server on
// ports that stay the same over its restarts, and the two halves of the agent.
type killRig struct {
	dir                                   string
	devcluster, server, proxy, reconciler *killChild

	base       string // the server's URL
	roots      *x509.CertPool
	tokens     *client.TokenSource // the operator's
	api        *client.Client      // as the operator
	operations *killOperations     // that api started

	subscription, cluster access.ResourceID
	kube                  kubernetes.Interface // as the cluster's admin
}

func newKillRig(t *testing.T) *killRig {
	t.Helper()
	r := &killRig{dir: t.TempDir(), operations: &killOperations{}}
	self, err := exec.LookPath("sallyport") // this test binary, as a command: see TestMain
	if err != nil {
		t.Fatal(err)
	}
	child := func(name string, ready bool, args ...string) *killChild {
		c := &killChild{name: name, args: args, ready: ready, log: filepath.Join(r.dir, name+".log")}
		t.Cleanup(func() { c.kill(t) })
		return c
	}
	r.devcluster = child("devcluster", true, killBinary(t, "devcluster"), "start", "--dir", filepath.Join(r.dir, "cluster"))
	apiserver := r.devcluster.start(t)

	web, identity := killAddresses(t)
	r.base = "https://" + web
	r.server = child("server", true, self, "server", "--data-dir", filepath.Join(r.dir, "server"),
		"--listen", web, "--identity-listen", identity, "--metrics-listen", "127.0.0.1:0")
	r.proxy, r.reconciler = child("proxy", false, self), child("reconciler", false, self)
	r.server.start(t)
	r.connect(t)
	r.install(t, apiserver)
	return r
}

func killBinary(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("run make build first: %v", err)
	}
	return path
}

// killAddresses picks two ports below those that the kernel gives to outgoing
// connections: one of the many that fail while the server is down could
// otherwise hold the server's port when it comes back.
func killAddresses(t *testing.T) (web, identity string) {
	t.Helper()
	var free []string
	for port := 15000 + os.Getpid()%10000; port < 32000 && len(free) < 2; port++ {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			free = append(free, l.Addr().String())
		}
	}
	if len(free) < 2 {
		t.Fatal("no free ports")
	}
	return free[0], free[1]
}

// connect makes the operator's client.
func (r *killRig) connect(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, "server", "operator.json"))
	if err != nil {
		t.Fatal(err)
	}
	var op operator
	if err := json.Unmarshal(data, &op); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(op.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	r.roots = x509.NewCertPool()
	r.roots.AppendCertsFromPEM(ca)
	r.tokens, err = client.ClientCredentials(client.CredentialsConfig{
		Authority: op.Server, TenantID: op.TenantID, ClientID: op.ClientID, ClientSecret: op.ClientSecret, RootCAs: r.roots,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.operations.next = r.transport(t)
	r.api, err = client.New(client.Config{
		Server: op.Server, Token: r.tokens.Bearer, HTTP: &http.Client{Transport: r.operations}, WaitTimeout: killPatience,
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.subscription, err = client.SubscriptionID(op.SubscriptionID); err != nil {
		t.Fatal(err)
	}
}

// transport trusts the server, which keeps its CA over restarts.
func (r *killRig) transport(t *testing.T) *http.Transport {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.roots}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// install registers the cluster, applies the manifest, and sets up the two
// halves of the agent as their pods would; they are not started.
func (r *killRig) install(t *testing.T, apiserver string) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	guid := r.subscription.Subscription()
	group, err := client.GroupID(guid, "kill")
	must(err)
	_, err = r.api.PutGroup(ctx, group, "eastus", nil)
	must(err)
	r.cluster, err = client.ClusterID(guid, "kill", "c1")
	must(err)
	_, p, err := r.api.PutCluster(ctx, r.cluster, client.ClusterParameters{Location: "eastus"})
	must(err)
	must(p.Wait(ctx, nil))
	issued, err := r.api.NewJoinToken(ctx, r.cluster, client.JoinTokenParameters{})
	must(err)
	join, err := enroll.ParseJoinToken(issued.Token)
	must(err)
	roles, err := resolveRoles([]string{killMLWorkload, killBackup, killPolicy, killNetwork})
	must(err)
	manifest, err := rbac.Manifest(rbac.ManifestOptions{
		Gateway: join.Address, ClusterID: join.ClusterID, CAHash: join.CAHash, JoinToken: issued.Token,
		Namespace: access.AgentNamespace, Roles: roles,
	})
	must(err)

	kubeconfig := filepath.Join(r.dir, "cluster", "kubeconfig")
	apply := exec.CommandContext(ctx, killBinary(t, "kubectl"), "--kubeconfig", kubeconfig, "apply", "-f", "-")
	apply.Stdin = bytes.NewReader(manifest)
	if out, err := apply.CombinedOutput(); err != nil {
		t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	must(err)
	config.QPS = -1
	r.kube, err = kubernetes.NewForConfig(config)
	must(err)
	u, err := url.Parse(apiserver)
	must(err)
	for name, c := range map[string]*killChild{access.ProxyAccount: r.proxy, access.ReconcilerAccount: r.reconciler} {
		c.env = []string{"KUBERNETES_SERVICE_HOST=" + u.Hostname(), "KUBERNETES_SERVICE_PORT=" + u.Port()}
		c.args = append(c.args, r.pod(t, name, issued.Token)...)
	}
}

// pod writes the projected volumes of an agent's deployment and returns its
// arguments with the volumes' paths in place.
func (r *killRig) pod(t *testing.T, name, joinToken string) []string {
	t.Helper()
	dir := filepath.Join(r.dir, name)
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	token := func(audiences ...string) string {
		t.Helper()
		review, err := r.kube.CoreV1().ServiceAccounts(access.AgentNamespace).CreateToken(t.Context(), name,
			&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return review.Status.Token
	}
	ca, err := os.ReadFile(filepath.Join(r.dir, "cluster", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	write("account/token", token())
	write("account/gateway-token", token("sallyport"))
	write("account/ca.crt", string(ca))
	write("join/token", joinToken)
	d, err := r.kube.AppsV1().Deployments(access.AgentNamespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	args := slices.Clone(d.Spec.Template.Spec.Containers[0].Args)
	for i, arg := range args {
		args[i] = strings.ReplaceAll(arg, "/var/run/secrets/sallyport", dir)
	}
	return args
}

// source creates a resource and returns its id and its identity's token.
func (r *killRig) source(t *testing.T, resourceType, name string) (access.ResourceID, string) {
	t.Helper()
	ctx := t.Context()
	id, err := client.ResourceID(r.subscription.Subscription(), "kill", resourceType, name)
	if err != nil {
		t.Fatal(err)
	}
	_, p, err := r.api.PutResource(ctx, id, "eastus")
	if err == nil {
		err = p.Wait(ctx, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	cred, err := r.api.IdentityCredentials(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := client.ManagedIdentity(cred.Endpoint, cred.Header, client.DataPlaneAudience)
	if err != nil {
		t.Fatal(err)
	}
	token, err := tokens.Bearer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return id, token
}

func (r *killRig) binding(t *testing.T, name string) access.ResourceID {
	t.Helper()
	id, err := client.BindingID(r.cluster, name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// checkLogs looks for what a process says when it finds itself broken.
func (r *killRig) checkLogs(t *testing.T) {
	t.Helper()
	for _, c := range []*killChild{r.server, r.proxy, r.reconciler} {
		data, err := os.ReadFile(c.log)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, bad := range []string{"DATA RACE", "panic:", "panic serving", "fatal error:"} {
			if i := bytes.Index(data, []byte(bad)); i >= 0 {
				t.Errorf("%s: %s", c.name, data[max(0, i-200):min(len(data), i+3000)])
			}
		}
	}
}

// killOperations keeps the operations that replies to acknowledged writes name.
type killOperations struct {
	next http.RoundTripper

	mu    sync.Mutex
	named []string // URLs of Azure-AsyncOperation
}

func (o *killOperations) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := o.next.RoundTrip(req)
	if err == nil && req.Method != http.MethodGet {
		if u := resp.Header.Get("Azure-AsyncOperation"); u != "" {
			o.mu.Lock()
			o.named = append(o.named, u)
			o.mu.Unlock()
		}
	}
	return resp, err
}

// last is the newest operation named.
func (o *killOperations) last() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.named[len(o.named)-1]
}

func (o *killOperations) all() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.named)
}

// killOperation is the body at an operation's URL.
type killOperation struct {
	ID     string                 `json:"name"`
	Status access.OperationStatus `json:"status"`
	Error  struct {
		Code string `json:"code"`
	} `json:"error"`
}

// operation reads an operation. found is false when there is none.
func (r *killRig) operation(ctx context.Context, url string) (op killOperation, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	token, err := r.tokens.Bearer(ctx)
	if err != nil {
		return op, false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return op, false, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := r.operations.next.RoundTrip(req)
	if err != nil {
		return op, false, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return op, true, json.NewDecoder(resp.Body).Decode(&op)
	case http.StatusNotFound:
		return op, false, nil
	}
	return op, false, fmt.Errorf("%s: %s", url, resp.Status)
}

// ended waits for an operation's end. found is false when there is none.
func (r *killRig) ended(t *testing.T, url string) (op killOperation, found bool) {
	t.Helper()
	killPoll(t, "end of operation "+url, func(ctx context.Context) (err error) {
		if op, found, err = r.operation(ctx, url); err == nil && found && op.Status == access.OperationInProgress {
			err = fmt.Errorf("it is %s", op.Status)
		}
		return err
	})
	return op, found
}

// killPoll asks every 20 ms until try succeeds, and fails the test when that
// takes too long. It may be called from any goroutine.
func killPoll(t *testing.T, what string, try func(context.Context) error) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), killPatience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var why error // the last failure that is not the end of ctx itself
	for {
		err := try(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() == nil {
			why = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Errorf("%s: not within %s: %v", what, killPatience, why)
			return false
		}
	}
}
