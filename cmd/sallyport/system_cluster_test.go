package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// kubeCluster is a real kube-apiserver in a child process. One serves the
// whole test binary: it is started by the first test that needs it, and the
// tests that use it run one after the other.
type kubeCluster struct {
	dir    string
	server string // https://127.0.0.1:port
	admin  *kubernetes.Clientset

	// flags are devcluster's, by default those of a cluster with pods that run.
	// startChild and dial start a process where the cluster is, and reach it from
	// there, by default in the network of this process.
	flags      []string
	startChild func(*exec.Cmd) error
	dial       func(ctx context.Context, network, address string) (net.Conn, error)

	once  sync.Once
	err   error
	stdin io.Closer // closing it ends the child
	child *exec.Cmd
}

// shared is the exception to "no package state": a cluster costs seconds.
var shared kubeCluster

// mainWithCluster ends the cluster after the last test.
type mainWithCluster struct{ *testing.M }

// Run serves testscript.Main.
func (m mainWithCluster) Run() int {
	code := m.M.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the cluster:", err)
		return max(code, 1)
	}
	return code
}

// theCluster returns the shared cluster, with nothing of an earlier test's
// bindings in it.
func theCluster(t *testing.T) *kubeCluster {
	t.Helper()
	shared.once.Do(func() { shared.err = shared.start() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	t.Cleanup(func() { shared.clear(t) })
	return &shared
}

// tool is the path of a binary that `make build` makes.
func tool(name string) (string, error) {
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", name))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("run make build first: %w", err)
	}
	return path, nil
}

func (c *kubeCluster) start() error {
	devcluster, err := tool("devcluster")
	if err != nil {
		return err
	}
	if c.dir, err = os.MkdirTemp("", "sallyport-cluster"); err != nil {
		return err
	}
	// The shell ends the child when its standard input does, so a test binary
	// that is killed leaves no cluster behind.
	if c.flags == nil {
		c.flags = []string{"--kubelet"}
	}
	flags := slices.Concat([]string{"-c", `"$0" start --dir "$@" & read -r _; kill $!; wait`, devcluster, c.dir}, c.flags)
	c.child = exec.Command("sh", flags...)
	stdin, err := c.child.StdinPipe()
	if err != nil {
		return err
	}
	c.stdin = stdin
	stdout, err := c.child.StdoutPipe()
	if err != nil {
		return err
	}
	c.child.Stderr = os.Stderr
	if err := c.startIn(c.child); err != nil {
		return fmt.Errorf("start devcluster: %w", err)
	}
	ready := make(chan string, 1)
	go func() { // ends when the child is ready, or ends
		defer close(ready)
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		if url, ok := strings.CutPrefix(line, "ready "); ok {
			ready <- strings.TrimSpace(url)
		}
	}()
	var ok bool
	select {
	case c.server, ok = <-ready:
	case <-time.After(2 * time.Minute):
	}
	if !ok {
		return fmt.Errorf("devcluster did not become ready; see %s/apiserver.log", c.dir)
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig())
	if err != nil {
		return err
	}
	config.QPS, config.Dial = -1, c.dial
	c.admin, err = kubernetes.NewForConfig(config)
	return err
}

// stop ends the child, if there is one, and removes its folder.
func (c *kubeCluster) stop() error {
	if c.stdin == nil {
		return nil
	}
	c.stdin.Close()
	done := make(chan error, 1)
	go func() { done <- c.child.Wait() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		c.child.Process.Kill()
		return fmt.Errorf("devcluster did not end; it may still run in %s", c.dir)
	}
	return os.RemoveAll(c.dir)
}

// startIn starts a process where the cluster is.
func (c *kubeCluster) startIn(cmd *exec.Cmd) error {
	if c.startChild != nil {
		return c.startChild(cmd)
	}
	return cmd.Start()
}

// kubectl runs kubectl as the admin, where the cluster is.
func (c *kubeCluster) kubectl(t *testing.T, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return kubectlBy(t, c.startIn, c.kubeconfig(), stdin, args...)
}

func (c *kubeCluster) kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }

// clear removes what bindings and tests left, so that the next test's agent
// meets no strangers.
func (c *kubeCluster) clear(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, name := range c.objects(t) {
		kind, name, _ := strings.Cut(name, " ")
		var err error
		if kind == "ClusterRole" {
			err = c.admin.RbacV1().ClusterRoles().Delete(ctx, name, metav1.DeleteOptions{})
		} else {
			err = c.admin.RbacV1().ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{})
		}
		if err != nil {
			t.Errorf("remove %s %s: %v", kind, name, err)
		}
	}
	services, err := c.admin.CoreV1().Services("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Errorf("list services: %v", err)
		return
	}
	for _, s := range services.Items {
		if s.Name == "kubernetes" {
			continue
		}
		if err := c.admin.CoreV1().Services("default").Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("remove service %s: %v", s.Name, err)
		}
	}
}

// objects lists what bears a binding's name, such as
// "ClusterRole aks:trustedaccessrole:b:mlworkload".
func (c *kubeCluster) objects(t *testing.T) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	roles, err := c.admin.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatalf("list ClusterRoles: %v", err)
	}
	bindings, err := c.admin.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatalf("list ClusterRoleBindings: %v", err)
	}
	var names []string
	for _, o := range roles.Items {
		if strings.HasPrefix(o.Name, "aks:trustedaccess") {
			names = append(names, "ClusterRole "+o.Name)
		}
	}
	for _, o := range bindings.Items {
		if strings.HasPrefix(o.Name, "aks:trustedaccess") {
			names = append(names, "ClusterRoleBinding "+o.Name)
		}
	}
	return names
}

// kubectl runs kubectl with a kubeconfig, and returns what it printed.
func kubectl(t *testing.T, kubeconfig, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return kubectlBy(t, (*exec.Cmd).Start, kubeconfig, stdin, args...)
}

// kubectlBy is kubectl for one that start starts elsewhere.
func kubectlBy(t *testing.T, start func(*exec.Cmd) error, kubeconfig, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	path, err := tool("kubectl")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"--kubeconfig", kubeconfig, "--cache-dir", t.TempDir()}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := start(cmd); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	return out.String(), errs.String(), err
}
