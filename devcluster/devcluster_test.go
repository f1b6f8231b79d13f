package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// asDevcluster makes the test binary be devcluster. A kube-apiserver can be
// started once per process, and a restart is part of what is tested.
const asDevcluster = "DEVCLUSTER_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asDevcluster) != "" {
		main()
	}
	os.Exit(m.Run())
}

// A process is a devcluster that has said it is ready.
type process struct {
	url string
	cmd *exec.Cmd
}

func startProcess(t *testing.T, args ...string) *process {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, append([]string{"start"}, args...)...)
	cmd.Env = append(os.Environ(), asDevcluster+"=1")
	cmd.Stderr = t.Output()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() // after a stop, an error that says so
		cmd.Wait()
	})

	lines := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(stdout).ReadString('\n') // "" if it exits
		lines <- line
	}()
	select {
	case line := <-lines:
		url, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
		if !ok {
			t.Fatalf("first line of output %q, want ready and a URL", line)
		}
		return &process{url: url, cmd: cmd}
	case <-time.After(readyTimeout + stopTimeout):
		t.Fatal("devcluster said nothing")
		return nil
	}
}

// stop sends SIGTERM and wants exit code 0 within the time that start allows
// itself.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatalf("stopped with %v, want exit code 0", err)
		}
	case <-time.After(stopTimeout + 5*time.Second):
		t.Fatal("devcluster did not stop")
	}
}

// restConfig reads the kubeconfig that a user would.
func restConfig(t *testing.T, dir string) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, kubeconfigFile))
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func clientFor(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestCluster is one story: start, use, stop with a watch open, start again, and
// find everything as it was.
func TestCluster(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	dir := filepath.Join(t.TempDir(), "cluster")

	first := startProcess(t, "--dir", dir)
	admin := restConfig(t, dir)
	if admin.Host != first.url {
		t.Errorf("the kubeconfig is for %s, but %s is ready", admin.Host, first.url)
	}
	client := clientFor(t, admin)
	checkModes(t, dir)
	checkClusterRoles(ctx, t, client)
	checkDiscovery(ctx, t, client)
	checkAudit(ctx, t, client, dir)
	service, err := client.CoreV1().Services(metav1.NamespaceDefault).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "hello"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	createPod(ctx, t, client)
	token := requestToken(ctx, t, client)
	checkToken(ctx, t, admin, token)
	t.Run("second on the same folder", func(t *testing.T) {
		checkRefused(t, []string{"--dir", dir}, "another devcluster is using it")
	})
	t.Run("second on the same port", func(t *testing.T) {
		port := strings.TrimPrefix(first.url, "https://127.0.0.1:")
		checkRefused(t, []string{"--dir", t.TempDir(), "--port", port}, "address already in use")
	})
	ca := readFile(t, dir, "ca.crt")

	watch, err := client.CoreV1().Services("").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	first.stop(t)

	port := freePort(t)
	second := startProcess(t, "--dir", dir, "--port", port, "--set-flag", "v=2")
	if want := "https://127.0.0.1:" + port; second.url != want {
		t.Errorf("ready at %s, want %s", second.url, want)
	}
	admin = restConfig(t, dir)
	found, err := clientFor(t, admin).CoreV1().Services(metav1.NamespaceDefault).Get(ctx, "hello", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if found.UID != service.UID {
		t.Errorf("after a restart, the service has UID %s, want %s", found.UID, service.UID)
	}
	checkToken(ctx, t, admin, token)
	if !bytes.Equal(ca, readFile(t, dir, "ca.crt")) {
		t.Error("a restart changed ca.crt")
	}
	if log := readFile(t, dir, apiServerLogFile); !bytes.Contains(log, []byte(`FLAG: --v="2"`)) {
		t.Errorf("%s does not show that --set-flag v=2 had an effect", apiServerLogFile)
	}
	second.stop(t)
}

func checkModes(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if entry.IsDir() {
			want = 0o700
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkClusterRoles(ctx context.Context, t *testing.T, client kubernetes.Interface) {
	t.Helper()
	roles, err := client.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, role := range roles.Items {
		names[role.Name] = true
	}
	for _, want := range []string{"cluster-admin", "admin", "edit", "view"} {
		if !names[want] {
			t.Errorf("no cluster role %s", want)
		}
	}
}

// checkDiscovery looks at what a verifier of service account tokens reads.
func checkDiscovery(ctx context.Context, t *testing.T, client kubernetes.Interface) {
	t.Helper()
	for path, want := range map[string]string{
		"/.well-known/openid-configuration": `"issuer":"` + issuer + `"`,
		"/openid/v1/jwks":                   `"alg":"RS256"`,
	} {
		body, err := client.CoreV1().RESTClient().Get().AbsPath(path).DoRaw(ctx)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if !strings.Contains(string(body), want) {
			t.Errorf("%s is %s, want %s in it", path, body, want)
		}
	}
}

// checkAudit reads the log once, right after the response: no polling is the
// promise.
func checkAudit(ctx context.Context, t *testing.T, client kubernetes.Interface, dir string) {
	t.Helper()
	const id = "devcluster-test-audit-id"
	err := client.CoreV1().RESTClient().Get().AbsPath("/api/v1/namespaces/default").SetHeader("Audit-ID", id).Do(ctx).Error()
	if err != nil {
		t.Fatal(err)
	}
	var stages []string
	for line := range bytes.Lines(readFile(t, dir, auditLogFile)) {
		var event struct {
			AuditID, Level, Stage, Verb string
			User                        struct{ Username string }
		}
		if err := json.Unmarshal(line, &event); err != nil {
			t.Fatalf("audit event %s: %v", line, err)
		}
		if event.AuditID != id {
			continue
		}
		stages = append(stages, event.Stage)
		if event.Level != "Metadata" || event.Verb != "get" || event.User.Username != "devcluster-admin" {
			t.Errorf("audit event %+v, want a get by devcluster-admin at level Metadata", event)
		}
	}
	if len(stages) != 1 || stages[0] != "ResponseComplete" {
		t.Errorf("the log has stages %q of the request, want ResponseComplete only", stages)
	}
}

// createPod shows that a pod needs no service account here.
func createPod(ctx context.Context, t *testing.T, client kubernetes.Interface) {
	t.Helper()
	_, err := client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "hello"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "hello", Image: "hello"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Errorf("creating a pod: %v", err)
	}
}

func requestToken(ctx context.Context, t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	accounts := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}
	if _, err := accounts.Create(ctx, account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	request, err := accounts.CreateToken(ctx, "robot", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return request.Status.Token
}

func checkToken(ctx context.Context, t *testing.T, admin *rest.Config, token string) {
	t.Helper()
	robot := rest.AnonymousClientConfig(admin)
	robot.BearerToken = token
	review, err := clientFor(t, robot).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := review.Status.UserInfo.Username, "system:serviceaccount:default:robot"; got != want {
		t.Errorf("the token is that of %s, want %s", got, want)
	}
}

// TestRefused has what is refused before anything starts.
func TestRefused(t *testing.T) {
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "thesis.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{name: "no folder", args: nil, want: `"dir" not set`},
		{name: "somebody's folder", args: []string{"--dir", foreign}, want: "files that devcluster did not make"},
		{name: "flag without value", args: []string{"--dir", t.TempDir(), "--set-flag", "v"}, want: "not name=value"},
		{name: "flag with dashes", args: []string{"--dir", t.TempDir(), "--set-flag", "--v=4"}, want: "leave out the dashes"},
		{name: "port", args: []string{"--dir", t.TempDir(), "--port", "70000"}, want: "invalid port"},
		{name: "every address", args: []string{"--dir", t.TempDir(), "--bind-address", "0.0.0.0"}, want: "not one IPv4 address"},
		{name: "no accounts for a node", args: []string{"--dir", t.TempDir(), "--kubelet", "--disable-local-accounts"}, want: "give one of the two"},
		{name: "host name", args: []string{"--dir", t.TempDir(), "--bind-address", "localhost"}, want: "not one IPv4 address"},
		{name: "somebody's address", args: []string{"--dir", t.TempDir(), "--bind-address", "192.0.2.1"}, want: "cannot assign requested address"},
	} {
		t.Run(tt.name, func(t *testing.T) { checkRefused(t, tt.args, tt.want) })
	}
}

func checkRefused(t *testing.T, args []string, want string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), append([]string{"start"}, args...), &stdout, &stderr); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if !strings.Contains(stderr.String(), want) {
		t.Errorf("stderr %q, want %q in it", stderr.String(), want)
	}
	if stdout.Len() != 0 {
		t.Errorf("stdout %q, want nothing", stdout.String())
	}
}

func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	startProcess(t, "--dir", dir).stop(t)
}

// TestBindAddress listens where it is told to and nowhere else, and the
// certificate and the kubeconfig say so, too.
func TestBindAddress(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("127.0.0.2 is an address of this machine without more ado on Linux only")
	}
	dir := filepath.Join(t.TempDir(), "cluster")
	p := startProcess(t, "--dir", dir, "--bind-address", "127.0.0.2")
	port, ok := strings.CutPrefix(p.url, "https://127.0.0.2:")
	if !ok {
		t.Fatalf("ready at %s, want 127.0.0.2", p.url)
	}
	if conn, err := net.Dial("tcp4", "127.0.0.1:"+port); err == nil {
		conn.Close()
		t.Error("it listens on 127.0.0.1 as well")
	}
	checkFrontProxy(t.Context(), t, clientFor(t, restConfig(t, dir)), dir)
	p.stop(t)
}

// TestDisableLocalAccounts signs a certificate for an admin: it is nobody's.
func TestDisableLocalAccounts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	p := startProcess(t, "--dir", dir, "--disable-local-accounts")
	config := restConfig(t, dir)
	if len(config.CertData) > 0 || config.BearerToken != "" {
		t.Error("the kubeconfig holds a credential")
	}
	if _, err := clientFor(t, config).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("without a credential: %v, want forbidden", err)
	}
	locked, err := openDirectory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer locked.close()
	locked.path = dir // whose own lock is the process's
	ca, err := loadAuthority(locked, clientCAName)
	if err != nil {
		t.Fatal(err)
	}
	if config.CertData, config.KeyData, err = ca.issue(x509.Certificate{
		Subject:     pkix.Name{CommonName: "root", Organization: []string{"system:masters"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := clientFor(t, config).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("with a certificate: %v, want unauthorized", err)
	}
	p.stop(t)
}

// checkFrontProxy reads what the server of an aggregated API would: by which
// authority, and which name, it knows kube-apiserver.
func checkFrontProxy(ctx context.Context, t *testing.T, client kubernetes.Interface, dir string) {
	t.Helper()
	config, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, "extension-apiserver-authentication", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"requestheader-client-ca-file": string(readFile(t, dir, frontProxyCAName+".crt")),
		"requestheader-allowed-names":  `["` + frontProxyUser + `"]`,
	} {
		if got := config.Data[key]; got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

// freePort is free now, and very likely still when it is used.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func readFile(t *testing.T, dir, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}
