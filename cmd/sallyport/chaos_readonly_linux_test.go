package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/sallyport/sallyport/internal/idp"
)

// failingDisk is a file with a file system that turns read-only at an error, as
// one on a disk that fails does, in mounts that only this process sees.
type failingDisk struct {
	t          *testing.T
	image, dir string
}

// newFailingDisk returns nil in the first process, when the second has done the
// test. A disk in memory would not do: no file system is remounted read-only
// while files in it are open for writing, so it has to do that by itself.
func newFailingDisk(t *testing.T) *failingDisk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a disk of the test's own, which can fail, takes root")
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		t.Skip("a disk of the test's own takes mkfs.ext4, which is not on the path")
	}
	if os.Getenv(ownMounts) == "" {
		runInNamespaces(t, ownMounts, syscall.CLONE_NEWNS)
		return nil
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	d := &failingDisk{t: t, image: filepath.Join(t.TempDir(), "image"), dir: filepath.Join(t.TempDir(), "disk")}
	// As large as what etcd lays out in advance.
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, 400<<20), os.Mkdir(d.dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	d.command(mkfs, "-q", "-F", d.image)
	if out, err := d.mount(); err != nil {
		t.Skipf("no file can be mounted as a disk here: %v\n%s", err, out)
	}
	t.Cleanup(func() { syscall.Unmount(d.dir, syscall.MNT_DETACH) }) // or it goes with the process
	if _, err := os.Stat(d.trigger()); err != nil {
		t.Skipf("this kernel's ext4 cannot be told to fail: %v", err)
	}
	return d
}

func (d *failingDisk) command(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func (d *failingDisk) mount() ([]byte, error) {
	return exec.Command("mount", "-o", "loop,errors=remount-ro", d.image, d.dir).CombinedOutput()
}

// trigger is the file by which ext4 is told to take this one file system to be
// faulty.
func (d *failingDisk) trigger() string {
	d.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		d.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == d.dir && strings.HasPrefix(f[0], "/dev/loop") {
			return filepath.Join("/sys/fs/ext4", filepath.Base(f[0]), "trigger_fs_error")
		}
	}
	d.t.Fatalf("nothing is mounted at %s", d.dir)
	return ""
}

// fail has the file system find itself faulty.
func (d *failingDisk) fail() {
	d.t.Helper()
	if err := os.WriteFile(d.trigger(), []byte("1\n"), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.dir, "probe"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		d.t.Fatalf("a write on the failed disk: %v", err)
	}
}

// mend is what its owner does: nothing may use it meanwhile.
func (d *failingDisk) mend() {
	d.t.Helper()
	if err := syscall.Unmount(d.dir, 0); err != nil {
		d.t.Fatal(err)
	}
	// 1 means that it was faulty and is not any more.
	out, err := exec.Command("e2fsck", "-fy", d.image).CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		d.t.Fatalf("e2fsck: %v\n%s", err, out)
	}
	if out, err := d.mount(); err != nil {
		d.t.Fatalf("mount: %v\n%s", err, out)
	}
}

// TestChaosDiskTurnsReadOnly has a disk turn read-only under a server that
// serves: that of everything, that of all but etcd, and etcd's alone. What
// cannot be recorded is refused, nobody whose consent was withdrawn gets in, and
// every acknowledged write is there when the disk has been mended.
func TestChaosDiskTurnsReadOnly(t *testing.T) {
	for name, on := range map[string]struct{ data, etcd bool }{
		"Data": {true, true}, "AuditLog": {data: true}, "Etcd": {etcd: true},
	} {
		t.Run(name, func(t *testing.T) {
			d := newFailingDisk(t)
			if d == nil {
				return
			}
			r := newReadOnlyRig(t, d, on.data, on.etcd)
			r.watchNews()
			d.fail()
			if on.data {
				r.refuses()
			}
			if !on.etcd {
				r.stays()
			}
			r.end(on.data, on.etcd)
			r.comesBack()
		})
	}
}

// readOnlyRig is a server process, some of whose folder is on a disk that can
// fail, with an agent and two sources, of which one has lost its consent.
type readOnlyRig struct {
	*system
	disk    *failingDisk
	child   *killChild
	ended   chan struct{} // closed when the server's process is over
	cluster string
	ml      source
	token   map[string]string // by name
	acked   []string          // bindings whose PUT was acknowledged on the failed disk
	news    watch.Interface
}

func newReadOnlyRig(t *testing.T, d *failingDisk, data, etcd bool) *readOnlyRig {
	t.Helper()
	place := func(onDisk bool, name string) string {
		if onDisk {
			return filepath.Join(d.dir, name)
		}
		return filepath.Join(t.TempDir(), name)
	}
	dir := place(data, "data")
	err := os.Mkdir(dir, 0o700)
	if data != etcd {
		apart := place(etcd, "etcd")
		err = errors.Join(err, os.Mkdir(apart, 0o700), os.Symlink(apart, filepath.Join(dir, "etcd")))
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &readOnlyRig{disk: d, child: chaosServer(t, dir)}
	r.system = at(t, dir, "")
	r.start()
	r.cluster = r.register("c")
	agent := r.install("c", "mlworkload,inference-v1")
	for half, args := range agent.args {
		r.process("agent "+half, r.runAgent, args...)
	}
	r.await("the agent is connected", func() bool { return r.connected("c") })
	r.ml = r.source("ml")
	gone := r.source("gone")
	r.bind("c", "ml", r.ml.id, inference)
	r.bind("c", "gone", gone.id, inference)
	r.token = map[string]string{"ml": r.ml.token(idp.DataPlaneAudience), "gone": gone.token(idp.DataPlaneAudience), "operator": r.operatorToken()}
	for _, who := range []string{"ml", "gone"} {
		r.await(who+" is served", func() bool { status, _ := r.pods(who); return status == http.StatusOK })
	}
	r.must("rolebinding", "delete", "--cluster-name", "c", "-n", "gone", "--yes")
	return r
}

func (r *readOnlyRig) start() {
	r.t.Helper()
	r.url = r.child.start(r.t)
	cmd, ended := r.child.cmd, make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait() // what it ended with is in its state
	}()
	r.ended = ended
	r.t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
}

// try sends one request, with the token of who; the status is 0 without an
// answer.
func (r *readOnlyRig) try(method, path, who, body string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token[who])
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	transport := r.transport()
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: soon}).Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}

func (r *readOnlyRig) pods(who string) (int, string) {
	r.t.Helper()
	return r.try(http.MethodGet, "/k8s"+r.cluster+"/api/v1/namespaces/default/pods", who, "")
}

func (r *readOnlyRig) consent(name string) (int, string) {
	r.t.Helper()
	return r.try(http.MethodPut, r.cluster+"/trustedAccessRoleBindings/"+name+"?api-version=2025-10-01", "operator",
		fmt.Sprintf(`{"properties":{"sourceResourceId":%q,"roles":[%q]}}`, r.ml.id, mlworkload))
}

// watchNews opens a watch that says when a pod of that name is made.
func (r *readOnlyRig) watchNews() {
	r.t.Helper()
	var err error
	r.news, err = r.gatewayClient(r.cluster, r.token["ml"]).CoreV1().Pods("default").Watch(r.t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=news"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(r.news.Stop)
}

// refuses tries what cannot be recorded. Where etcd is on the disk as well, the
// server may have ended: that is a refusal too.
func (r *readOnlyRig) refuses() {
	r.t.Helper()
	deed := map[string]func() (int, string){
		"a request":                             func() (int, string) { return r.pods("ml") },
		"a request whose consent was withdrawn": func() (int, string) { return r.pods("gone") },
		"consent":                               func() (int, string) { return r.consent("lost") },
		"withdrawal": func() (int, string) {
			return r.try(http.MethodDelete, r.cluster+"/trustedAccessRoleBindings/ml?api-version=2025-10-01", "operator", "")
		},
		"readiness": func() (int, string) { return r.try(http.MethodGet, "/readyz?verbose", "", "") },
	}
	for what, do := range deed {
		status, text := do()
		if status == 0 {
			r.await("the server, which does not answer, has ended: "+text, r.isOver)
			continue
		}
		if status != http.StatusServiceUnavailable {
			r.t.Errorf("%s: status %d: %s", what, status, text)
		}
		says := map[string]string{"consent": "/readyz?verbose", "withdrawal": "/readyz?verbose", "readiness": "[-]audit failed"}[what]
		contains(r.t, what, text, cmp.Or(says, "the server's log says why"))
	}
}

// stays holds what is not touched: reads of ARM, and streams that were recorded.
func (r *readOnlyRig) stays() {
	r.t.Helper()
	r.must("rolebinding", "show", "--cluster-name", "c", "-n", "ml")
	log, err := os.ReadFile(r.child.log)
	if err != nil {
		r.t.Fatal(err)
	}
	contains(r.t, "the server's log", string(log), "audit records cannot be written", "read-only file system", "the audit log's disk is read-only")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "news"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}}}
	if _, err := r.kube.admin.CoreV1().Pods("default").Create(r.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	select {
	case event, open := <-r.news.ResultChan():
		if !open || event.Type != watch.Added {
			r.t.Errorf("the watch that was open says %v", event)
		}
	case <-time.After(soon):
		r.t.Error("the watch that was open says nothing")
	}
}

func (r *readOnlyRig) isOver() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// end has the server ended: by etcd, if that is on the disk and is written to,
// else by us. It does not start again on such a disk.
func (r *readOnlyRig) end(data, etcd bool) {
	r.t.Helper()
	if etcd && !data {
		r.await("etcd ends the process", func() bool {
			name := fmt.Sprintf("b%d", len(r.acked))
			if status, _ := r.consent(name); status/100 == 2 {
				r.acked = append(r.acked, name)
			}
			if status, text := r.pods("gone"); status/100 == 2 {
				r.t.Errorf("withdrawn consent is answered with %d %s", status, text)
			}
			return r.isOver()
		})
	}
	if r.isOver() {
		if code := r.child.cmd.ProcessState.ExitCode(); code == 0 {
			r.t.Error("the server ended as if all were well")
		}
		// How the disk failed it says in its own words: the file system may say EROFS or EIO.
		contains(r.t, "the server's log", r.child.tail(), "hint=", "nothing acknowledged is lost")
	} else {
		r.child.cmd.Process.Kill()
		<-r.ended
	}
	r.child.cmd = nil
	out, err := exec.Command(r.child.args[0], r.child.args[1:]...).CombinedOutput()
	if err == nil {
		r.t.Error("the server started on a read-only disk")
	}
	contains(r.t, "the server", string(out), "read-only file system", "hint: the disk of data folder "+r.dir+" is read-only; mount it for writing")
}

// comesBack mends the disk and looks for everything.
func (r *readOnlyRig) comesBack() {
	r.t.Helper()
	r.disk.mend()
	r.start()
	for _, name := range append(r.acked, "ml") {
		r.must("rolebinding", "show", "--cluster-name", "c", "-n", name)
	}
	r.await("ml is served again", func() bool { status, _ := r.pods("ml"); return status == http.StatusOK })
	if status, text := r.pods("gone"); status != http.StatusForbidden {
		r.t.Errorf("withdrawn consent is answered with %d %s", status, text)
	}
	for _, name := range []string{"gone", "lost"} {
		r.refused(exitNotFound, nil, "rolebinding", "show", "--cluster-name", "c", "-n", name)
	}
	if status, text := r.consent("after"); status != http.StatusCreated {
		r.t.Errorf("consent on the mended disk is answered with %d %s", status, text)
	}
	r.t.Logf("%d writes acknowledged on the read-only disk, all there", len(r.acked))
}
