package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idp"
	"github.com/sallyport/sallyport/internal/store"
)

const (
	workspaceType = "Microsoft.MachineLearningServices/workspaces"
	mlworkload    = workspaceType + "/mlworkload"
	inference     = workspaceType + "/inference-v1"

	// soon bounds every wait for something that takes well under a second on
	// an idle machine.
	soon = 20 * time.Second
)

// system is a whole Sallyport, started as a user would: a server, and the
// command line to work with it.
type system struct {
	t      *testing.T
	dir    string // data folder
	flags  []string
	server *process
	url    string
	logs   *buffer // of every server and agent of this system

	// run and runAgent are where the server and the command line, and the
	// agents, run; kube is the cluster they are for. newSystem leaves them at
	// this process and the cluster that tests share.
	run, runAgent runner
	kube          *kubeCluster
}

// runner runs one command line of ours to its end, as [run] does.
type runner func(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int

// newSystem starts a server on an empty data folder. Everything is stopped
// with the test, and must then have left no goroutine behind.
func newSystem(t *testing.T, flags ...string) *system {
	t.Helper()
	s := &system{t: t, flags: flags, run: run, runAgent: run}
	s.begin()
	return s
}

// begin is newSystem for a system that runs elsewhere.
func (s *system) begin() {
	t := s.t
	t.Helper()
	before := goleak.IgnoreCurrent()
	s.dir, s.logs = filepath.Join(t.TempDir(), "data"), &buffer{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last of the logs:\n%s", s.logs.tail(4000))
		}
		checkGoroutines(t, before)
	})
	s.start()
}

// cluster is the one that this system's agents are in.
func (s *system) cluster() *kubeCluster {
	s.t.Helper()
	if s.kube == nil {
		s.kube = theCluster(s.t)
	}
	return s.kube
}

// checkGoroutines fails the test if a goroutine began since and goes on.
func checkGoroutines(t *testing.T, since goleak.Option) {
	var leak error
	deadline := time.Now().Add(soon)
	for {
		// client-go and http.DefaultTransport keep idle connections, which are
		// the process's, not ours.
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		leak = goleak.Find(since,
			goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
			goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
			goleak.IgnoreAnyFunction("net/http.(*http2ClientConn).readLoop"),
			goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop"),
			goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"),
		)
		if leak == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("goroutines are left: %v", leak)
			return
		}
	}
}

// start starts the server on its data folder.
func (s *system) start(flags ...string) {
	s.t.Helper()
	args := slices.Concat([]string{"server", "--data-dir", s.dir, "--identity-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"}, s.flags, flags)
	if !slices.Contains(args, "--listen") {
		// A later start takes the same port: agents and kubeconfigs know it.
		args = append(args, "--listen", cmp.Or(strings.TrimPrefix(s.url, "https://"), "127.0.0.1:0"))
	}
	s.server = s.process("server", s.run, args...)
	s.await("the server is ready", func() bool {
		_, url, ok := strings.Cut(s.server.stdout.String(), "ready ")
		s.url = strings.TrimSpace(url)
		return ok || s.server.ended()
	})
	if s.server.ended() {
		s.t.Fatalf("the server ended with %d: %s", s.server.code, s.logs.tail(2000))
	}
}

// process is one command line of ours that goes on until it is stopped.
type process struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	code   int // valid after done
	stdout *buffer
	log    *buffer
}

// process starts one, which is stopped with the test at the latest.
func (s *system) process(name string, run runner, args ...string) *process {
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{name: name, cancel: cancel, done: make(chan struct{}), stdout: &buffer{}, log: &buffer{}}
	go func() {
		defer close(p.done)
		p.code = run(ctx, args, strings.NewReader(""), p.stdout, io.MultiWriter(s.logs, p.log))
	}()
	s.t.Cleanup(func() { s.stop(p) })
	return p
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends a process as a signal would, and waits for it. It may be called
// again.
func (s *system) stop(p *process) {
	s.t.Helper()
	p.cancel()
	select {
	case <-p.done:
	case <-time.After(soon):
		s.t.Fatalf("%s did not end within %s", p.name, soon)
	}
	if p.code != exitOK {
		s.t.Errorf("%s ended with code %d:\n%s", p.name, p.code, p.log.tail(2000))
	}
}

// await waits until a condition holds.
func (s *system) await(what string, holds func() bool) time.Duration {
	s.t.Helper()
	begin, tick := time.Now(), time.NewTicker(25*time.Millisecond)
	defer tick.Stop()
	for {
		if holds() {
			return time.Since(begin)
		}
		if time.Since(begin) > soon {
			s.t.Fatalf("not within %s: %s", soon, what)
		}
		<-tick.C
	}
}

// result is what one command line did.
type result struct {
	code           int
	stdout, stderr string
}

// cli runs one command line, as the operator.
func (s *system) cli(args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	args = append(args, "--operator", filepath.Join(s.dir, "operator.json"))
	code := s.run(ctx, args, strings.NewReader(""), &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

// must is cli for what has to work; it returns the standard output.
func (s *system) must(args ...string) string {
	s.t.Helper()
	r := s.cli(args...)
	if r.code != exitOK {
		s.t.Fatalf("sallyport %s: code %d\n%s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.stdout
}

// refused is cli for what has to fail with that code, and say all of that.
func (s *system) refused(code int, says []string, args ...string) {
	s.t.Helper()
	r := s.cli(args...)
	if r.code != code {
		s.t.Errorf("sallyport %s: code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.stdout, r.stderr)
	}
	contains(s.t, "sallyport "+strings.Join(args[:2], " "), r.stderr, says...)
}

// contains checks that a text says all of that.
func contains(t *testing.T, what, text string, says ...string) {
	t.Helper()
	for _, want := range says {
		if !strings.Contains(text, want) {
			t.Errorf("%s says\n\t%s\nwithout %q", what, strings.TrimSpace(text), want)
		}
	}
}

// get reads one value of a JSON answer of the command line.
func get[T any](s *system, read func(map[string]any) any, args ...string) T {
	s.t.Helper()
	var body map[string]any
	if err := json.Unmarshal([]byte(s.must(append(args, "-o", "json")...)), &body); err != nil {
		s.t.Fatal(err)
	}
	v, ok := read(body).(T)
	if !ok {
		s.t.Fatalf("sallyport %s: %v has no such value", strings.Join(args, " "), body)
	}
	return v
}

func readID(body map[string]any) any { return body["id"] }

// register registers a cluster and returns its id.
func (s *system) register(name string) string {
	s.t.Helper()
	s.must("cluster", "register", "-n", name, "-l", "eastus")
	return get[string](s, readID, "cluster", "show", "-n", name)
}

// bind consents, and returns what the command said.
func (s *system) bind(cluster, name, source, roles string) string {
	s.t.Helper()
	return s.must("rolebinding", "create", "--cluster-name", cluster, "-n", name, "-s", source, "-r", roles)
}

func (s *system) state(cluster, binding string) string {
	s.t.Helper()
	return get[string](s, func(body map[string]any) any {
		return body["properties"].(map[string]any)["provisioningState"]
	}, "rolebinding", "show", "--cluster-name", cluster, "-n", binding)
}

// connected reports whether the server sees an agent on the cluster's feed.
func (s *system) connected(cluster string) bool {
	s.t.Helper()
	text := s.must("cluster", "show", "-n", cluster)
	return strings.Contains(text, "connected since") && !strings.Contains(text, "not connected")
}

// installed is an installed agent: the two deployments of the manifest.
type installed struct {
	s       *system
	cluster string
	kube    *kubeCluster
	dir     string
	args    map[string][]string // by half
	halves  map[string]*process
}

// install applies the manifest's YAML, exactly as printed, and takes what the
// pods of its two deployments would get: their arguments, the join token and
// the tokens of their accounts. It starts nothing.
func (s *system) install(cluster, roles string, flags ...string) *installed {
	s.t.Helper()
	kube := s.cluster()
	manifest := s.must(slices.Concat([]string{"agent", "manifest", "-n", cluster, "--roles", roles}, flags)...)
	if out, stderr, err := kube.kubectl(s.t, manifest, "apply", "-f", "-"); err != nil {
		s.t.Fatalf("apply the manifest: %v\n%s%s", err, out, stderr)
	}
	return s.pods(cluster)
}

// pods takes what the pods of the two deployments in the cluster would get.
func (s *system) pods(cluster string) *installed {
	s.t.Helper()
	kube := s.cluster()
	a := &installed{s: s, cluster: cluster, kube: kube, dir: s.t.TempDir(), args: map[string][]string{}, halves: map[string]*process{}}
	ctx, cancel := context.WithTimeout(s.t.Context(), soon)
	defer cancel()
	const namespace = "sallyport-system"
	join, err := kube.admin.CoreV1().Secrets(namespace).Get(ctx, "sallyport-join", metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	a.write("reconciler/join/token", join.Data["token"])
	for _, half := range []string{"reconciler", "proxy"} {
		for file, audiences := range map[string][]string{"token": nil, "gateway-token": {"sallyport"}} {
			token, err := kube.admin.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, "sallyport-"+half,
				&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}, metav1.CreateOptions{})
			if err != nil {
				s.t.Fatal(err)
			}
			a.write(half+"/account/"+file, []byte(token.Status.Token))
		}
		deployment, err := kube.admin.AppsV1().Deployments(namespace).Get(ctx, "sallyport-"+half, metav1.GetOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
		for _, arg := range deployment.Spec.Template.Spec.Containers[0].Args {
			a.args[half] = append(a.args[half], strings.Replace(arg, "/var/run/secrets/sallyport", filepath.Join(a.dir, half), 1))
		}
		// The pod's environment and its ConfigMap, which no kubelet gives here.
		a.args[half] = append(a.args[half], "--apiserver", kube.server, "--apiserver-ca", filepath.Join(kube.dir, "ca.crt"))
	}
	return a
}

func (a *installed) write(name string, data []byte) {
	a.s.t.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		a.s.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		a.s.t.Fatal(err)
	}
}

// start starts both halves and waits until they are connected.
func (a *installed) start() {
	a.s.t.Helper()
	tunnels := func() int { return strings.Count(a.s.server.log.String(), "agent connected") }
	before := tunnels()
	for half, args := range a.args {
		a.halves[half] = a.s.process("agent "+half, a.s.runAgent, args...)
	}
	a.s.await("the agent has its feed", func() bool { return a.s.connected(a.cluster) })
	a.s.await("the agent has its tunnel", func() bool { return tunnels() > before })
}

func (a *installed) stop() {
	a.s.t.Helper()
	for _, p := range a.halves {
		a.s.stop(p)
	}
}

// source is a cloud resource with a system-assigned identity.
type source struct {
	s            *system
	id, identity string // ARM id, identity file
}

// source creates an ML workspace.
func (s *system) source(name string) source {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), name+".identity")
	s.must("resource", "create", "-n", name, "--type", workspaceType, "-l", "eastus", "--identity-file", file)
	return source{s, get[string](s, readID, "resource", "show", "-n", name, "--type", workspaceType), file}
}

// token gets a token from the managed-identity endpoint, as the source would.
func (w source) token(audience string) string {
	w.s.t.Helper()
	return strings.TrimSpace(w.s.must("token", "get", "--identity-file", w.identity, "--resource", audience))
}

// kubeconfig writes the source's kubeconfig and returns its path. kubectl runs
// this test binary as its credential plugin: testscript put it on the path.
func (w source) kubeconfig(cluster string) string {
	w.s.t.Helper()
	file := filepath.Join(w.s.t.TempDir(), "kubeconfig")
	w.s.must("kubeconfig", "--cluster-name", cluster, "--resource", w.id, "--identity-file", w.identity, "--command", "sallyport", "-f", file)
	return file
}

// client is a client-go client of the cluster through the gateway.
func (w source) client(clusterID string) *kubernetes.Clientset {
	w.s.t.Helper()
	return w.s.gatewayClient(clusterID, w.token(idp.DataPlaneAudience))
}

func (s *system) gatewayClient(clusterID, token string) *kubernetes.Clientset {
	s.t.Helper()
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: s.url + "/k8s" + clusterID, BearerToken: token, Transport: s.transport(), QPS: -1, Timeout: time.Minute,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return client
}

// transport trusts the server's CA, as a kubeconfig of ours does.
func (s *system) transport() *http.Transport {
	s.t.Helper()
	pem, err := os.ReadFile(filepath.Join(s.dir, "ca.crt"))
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	s.t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// send makes one plain HTTPS request, and returns the answer and its body.
func (s *system) send(method, path, token, body string) (*http.Response, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	transport := s.transport()
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, string(text)
}

// operatorToken is an ARM token of the operator.
func (s *system) operatorToken() string {
	s.t.Helper()
	return s.applicationToken("https://management.azure.com/")
}

// applicationToken is the operator's for any audience.
func (s *system) applicationToken(audience string) string {
	s.t.Helper()
	c := &cli{operatorFile: filepath.Join(s.dir, "operator.json")}
	op, err := c.operator()
	if err != nil {
		s.t.Fatal(err)
	}
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {op.ClientID}, "client_secret": {op.ClientSecret}, "scope": {audience + "/.default"},
	}.Encode()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+"/"+op.TenantID+"/oauth2/v2.0/token", strings.NewReader(form))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	transport := s.transport()
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || body.Token == "" {
		s.t.Fatalf("no operator token: status %d, %v", resp.StatusCode, err)
	}
	return body.Token
}

// records reads the server's audit log.
func (s *system) records() []audit.Record {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, "audit.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	var all []audit.Record
	for line := range strings.Lines(string(data)) {
		var r audit.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			s.t.Fatalf("audit record %q: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

// forgery is a second identity provider that signs with the server's own keys,
// to make the tokens that the server itself would not.
type forgery struct {
	idp.Directory // nobody asks it anything else
	identity      idp.Identity
}

func (f forgery) API(context.Context, string, string) (store.Application, error) {
	return store.Application{ClientID: idp.DataPlaneAudience}, nil
}

func (f forgery) ManagedIdentity(context.Context, string, idp.WantedIdentity) (idp.Identity, error) {
	return f.identity, nil
}

// buffer is a [bytes.Buffer] for several goroutines.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write serves [io.Writer].
func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// String returns what was written so far.
func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *buffer) tail(n int) string {
	text := b.String()
	return text[max(0, len(text)-n):]
}
