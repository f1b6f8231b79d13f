package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport/sallyport/internal/audit"
)

// bound is a system with an agent in the cluster, and a source that is bound
// with inference-v1.
type bound struct {
	*system
	clusterID  string
	agent      *installed
	ml         source
	kubeconfig string
	config     *rest.Config
	client     *kubernetes.Clientset
}

func newBound(t *testing.T, flags ...string) *bound {
	t.Helper()
	return bindOn(newSystem(t, flags...))
}

// bindOn is newBound on a system that may run elsewhere.
func bindOn(sys *system) *bound {
	sys.t.Helper()
	// Of a binary with the race detector, the credential plugin would rest a
	// second before it ends.
	sys.t.Setenv("GORACE", "atexit_sleep_ms=0")
	s := &bound{system: sys, clusterID: sys.register("private")}
	s.agent = s.install("private", "mlworkload,inference-v1")
	s.agent.start()
	s.ml = s.source("ml")
	s.bind("private", "ml", s.ml.id, inference)
	s.kubeconfig, s.config, s.client = s.as(s.ml)
	return s
}

// as is what a source's user has: a kubeconfig, and what client-go makes of it.
func (s *bound) as(w source) (string, *rest.Config, *kubernetes.Clientset) {
	s.t.Helper()
	file := w.kubeconfig("private")
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		s.t.Fatal(err)
	}
	config.QPS, config.Timeout = -1, time.Minute
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		s.t.Fatal(err)
	}
	return file, config, client
}

// pod runs one, with something idle if there is no command, until the end of
// the test.
func (s *bound) pod(name string, stdin bool, command ...string) {
	s.t.Helper()
	pods := s.kube.admin.CoreV1().Pods("default")
	_, err := pods.Create(s.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers:    []corev1.Container{{Name: "main", Image: "none", Command: command, Stdin: stdin, StdinOnce: stdin}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		err := pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		if err != nil && !apierrors.IsNotFound(err) {
			s.t.Errorf("remove pod %s: %v", name, err)
		}
	})
	s.await("pod "+name+" runs", func() bool {
		p, err := pods.Get(s.t.Context(), name, metav1.GetOptions{})
		return err == nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Running != nil
	})
}

// grant has the cluster's admin give a binding's user more than its roles hold.
func (s *bound) grant(name, user string, rules ...rbacv1.PolicyRule) {
	s.t.Helper()
	rbac := s.kube.admin.RbacV1()
	meta := metav1.ObjectMeta{Name: name}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		if err := errors.Join(rbac.ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{}), rbac.ClusterRoles().Delete(ctx, name, metav1.DeleteOptions{})); err != nil {
			s.t.Errorf("remove what the admin granted: %v", err)
		}
	})
	role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}
	if _, err := rbac.ClusterRoles().Create(s.t.Context(), role, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	if _, err := rbac.ClusterRoleBindings().Create(s.t.Context(), binding, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// podRule is what exec, attach and port-forward ask for.
func podRule(resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get", "create"}, APIGroups: []string{""}, Resources: resources}
}

// liveKubectl is a kubectl that goes on.
type liveKubectl struct {
	s              *bound
	what           string
	stdin          io.WriteCloser
	stdout, stderr buffer
	kill           context.CancelFunc // as SIGKILL does
	done           chan struct{}
	code           int // valid after done
}

// live starts kubectl as the source; it is killed with the test at the latest.
func (s *bound) live(what string, args ...string) *liveKubectl {
	s.t.Helper()
	path, err := tool("kubectl")
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	k := &liveKubectl{s: s, what: what, kill: cancel, done: make(chan struct{})}
	cmd := exec.CommandContext(ctx, path, append([]string{"--kubeconfig", s.kubeconfig, "--cache-dir", s.t.TempDir()}, args...)...)
	cmd.Stdout, cmd.Stderr = &k.stdout, &k.stderr
	if k.stdin, err = cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(k.done)
		cmd.Wait() // what matters of its error is the code
		k.code = cmd.ProcessState.ExitCode()
	}()
	s.t.Cleanup(func() {
		cancel()
		<-k.done
	})
	return k
}

// shows waits until standard output has that text.
func (k *liveKubectl) shows(text string) {
	k.s.t.Helper()
	k.s.await(k.what+" shows "+text, func() bool {
		if strings.Contains(k.stdout.String(), text) {
			return true
		}
		if k.ended() {
			k.s.t.Fatalf("%s ended with %d without %q:\n%s%s", k.what, k.code, text, k.stdout.String(), k.stderr.String())
		}
		return false
	})
}

func (k *liveKubectl) says(line string) {
	k.s.t.Helper()
	if _, err := io.WriteString(k.stdin, line+"\n"); err != nil {
		k.s.t.Fatalf("%s: %v", k.what, err)
	}
}

func (k *liveKubectl) ended() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

// ends waits for its end, and returns the exit code.
func (k *liveKubectl) ends() int {
	k.s.t.Helper()
	k.s.await(k.what+" ends", k.ended)
	return k.code
}

// exchange returns the completion of the latest request whose path ends so,
// when it is there.
func (s *bound) exchange(t *testing.T, suffix string) audit.Record {
	t.Helper()
	var complete audit.Record
	s.await("the completion of "+suffix, func() bool {
		var decision audit.Record
		complete = audit.Record{}
		for _, r := range s.records() {
			switch {
			case r.Stage == audit.Decision && strings.HasSuffix(r.Path, suffix):
				decision = r
			case r.Stage == audit.Complete && r.ID == decision.ID:
				complete = r
			}
		}
		return complete.ID != "" && complete.ID == decision.ID
	})
	return complete
}

// kubeCompleted reports whether the API server has recorded the end of a
// request, not only of its answer's header.
func (s *bound) kubeCompleted(id string) bool {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.kube.dir, "audit.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, `"auditID":"`+id+`"`) && strings.Contains(line, `"stage":"ResponseComplete"`) {
			return true
		}
	}
	return false
}
