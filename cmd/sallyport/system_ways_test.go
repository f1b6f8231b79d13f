package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// way is one of the two to the cluster's API server: through the gateway, or
// straight and as the user that the gateway makes of the source. What a client
// says and hears must be the same on both.
type way struct {
	name       string
	namespace  string // its own
	kubeconfig string
	home       string // folder of the clients, and for what they keep
	server     string // URL
	config     *rest.Config
	client     *kubernetes.Clientset
}

// ways returns both, each with a namespace of its own and all rights, which
// the cluster's admin gives the binding's user beside its role.
func (s *bound) ways() []*way {
	s.t.Helper()
	s.grant("everything", "aks:trustedaccess:ml",
		rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
		rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}})
	s.await("the admin's grant holds", func() bool {
		_, err := s.client.NodeV1().RuntimeClasses().List(s.t.Context(), metav1.ListOptions{})
		return err == nil
	})
	self, err := s.client.AuthenticationV1().SelfSubjectReviews().Create(s.t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	gated, plain := s.way("gated", s.kubeconfig, nil), s.way("plain", s.kube.kubeconfig(), &self.Status.UserInfo)
	return []*way{gated, plain}
}

// way makes one of a kubeconfig, as its user or as another.
func (s *bound) way(name, kubeconfig string, as *authenticationv1.UserInfo) *way {
	s.t.Helper()
	// Names of one length keep tables alike.
	ns, err := s.kube.admin.CoreV1().Namespaces().Create(s.t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-"}}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	file, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		s.t.Fatal(err)
	}
	current := file.Contexts[file.CurrentContext]
	current.Namespace = ns.Name
	if as != nil {
		user := file.AuthInfos[current.AuthInfo]
		user.Impersonate, user.ImpersonateGroups, user.ImpersonateUserExtra = as.Username, as.Groups, map[string][]string{}
		for key, values := range as.Extra {
			user.ImpersonateUserExtra[key] = values
		}
	}
	w := &way{name: name, namespace: ns.Name, home: s.t.TempDir(), server: file.Clusters[current.Cluster].Server}
	// Not all of bin/: "sallyport" is this test binary.
	for _, name := range []string{"kubectl", "helm"} {
		path, err := tool(name)
		if err == nil {
			err = os.Symlink(path, filepath.Join(w.home, name))
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	w.kubeconfig = filepath.Join(w.home, "kubeconfig")
	if err := clientcmd.WriteToFile(*file, w.kubeconfig); err != nil {
		s.t.Fatal(err)
	}
	if w.config, err = clientcmd.BuildConfigFromFlags("", w.kubeconfig); err != nil {
		s.t.Fatal(err)
	}
	w.config.QPS, w.config.Timeout = -1, time.Minute
	if w.client, err = kubernetes.NewForConfig(w.config); err != nil {
		s.t.Fatal(err)
	}
	return w
}

// shell runs a script as a user of this way would, with kubectl and Helm on the
// PATH, and returns all that it printed and its exit code.
func (w *way) shell(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+w.home+":"+os.Getenv("PATH"), "HOME="+w.home, "KUBECONFIG="+w.kubeconfig, "NS="+w.namespace)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Errorf("%s: %v", w.name, err)
	}
	return fmt.Sprintf("%sexit code %d\n", &output, cmd.ProcessState.ExitCode())
}

// incidental is what differs between two runs of one script.
func (w *way) incidental() []struct{ find, put string } {
	return []struct{ find, put string }{
		{regexp.QuoteMeta(w.server), "SERVER"},
		{regexp.QuoteMeta(w.namespace), "NAMESPACE"},
		{`(?m)^[EW]\d{4} .*\n`, ""}, // what client-go logs of its own accord
		{`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`, "UID"},
		{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`, "TIME"},
		{`\w{3}, \d\d \w{3} \d{4} [\d:]{8} \+0000`, "TIME"},
		{`\w{3} \w{3} [ \d]\d [\d:]{8} \d{4}`, "TIME"}, // Helm's, of which it has two
		{`\d{4}-\d\d-\d\d [\d:]{8}\.\d+ \+0000 UTC`, "TIME"},
		{`resourceVersion: "\d+"`, `resourceVersion: "N"`},
		{`"resourceVersion": ?"\d+"`, `"resourceVersion":"N"`},
		{`\b(\d+(ms|s|m))+\b`, "AGE"},
		{`[ \t]+`, " "}, // ages widen columns
	}
}

// bothWays runs a script both ways at once, holds the outputs against each other,
// and checks that they say something.
func bothWays(t *testing.T, ways []*way, script string, says ...string) {
	t.Helper()
	outputs := make([]string, len(ways))
	var all sync.WaitGroup
	for i, w := range ways {
		all.Go(func() {
			outputs[i] = w.shell(t, script)
			for _, r := range w.incidental() {
				outputs[i] = regexp.MustCompile(r.find).ReplaceAllString(outputs[i], r.put)
			}
		})
	}
	all.Wait()
	if outputs[0] != outputs[1] {
		t.Error(firstDifference(ways[0].name, outputs[0], ways[1].name, outputs[1]))
	}
	for _, want := range says {
		if !strings.Contains(outputs[0], want) {
			t.Errorf("nothing says %q in\n%s", want, outputs[0])
		}
	}
}

// firstDifference shows where two texts part.
func firstDifference(aName, a, bName, b string) string {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	i := 0
	for i < min(len(as), len(bs)) && as[i] == bs[i] {
		i++
	}
	context := strings.Join(as[max(0, i-3):i], "\n")
	some := func(lines []string) string { return strings.Join(lines[i:min(len(lines), i+5)], "\n") }
	return fmt.Sprintf("after line %d\n%s\n%s has\n%s\n%s has\n%s", i, context, aName, some(as), bName, some(bs))
}
