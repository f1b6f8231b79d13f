package main

import (
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
)

// ownMounts marks a test binary that runs one test with mounts of its own.
const ownMounts = "SALLYPORT_TEST_MOUNTS"

// disk is a small one of its own, in memory, which only this process sees.
type disk struct {
	t   *testing.T
	dir string
}

// newDisk returns nil in the first process, when the second has done the test.
func newDisk(t *testing.T, megabytes int) *disk {
	t.Helper()
	if os.Getenv(ownMounts) == "" {
		runInNamespaces(t, ownMounts, syscall.CLONE_NEWNS)
		return nil
	}
	d := &disk{t, filepath.Join(t.TempDir(), "disk")}
	err := os.Mkdir(d.dir, 0o700)
	if err == nil {
		err = syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	}
	if err == nil {
		err = syscall.Mount("tmpfs", d.dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700", megabytes))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(d.dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

// fill leaves no byte, and returns what frees the space again.
func (d *disk) fill() (free func()) {
	d.t.Helper()
	f, err := os.Create(filepath.Join(d.dir, "filler"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			d.t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			d.t.Error(err)
		}
	}
}

// chaosServer is a server process whose folder a test chooses.
func chaosServer(t *testing.T, dir string) *killChild {
	t.Helper()
	self, err := exec.LookPath("sallyport") // this test binary, as a command: see TestMain
	if err != nil {
		t.Fatal(err)
	}
	web, identity := killAddresses(t)
	c := &killChild{name: "server", ready: true, log: filepath.Join(t.TempDir(), "server.log"),
		args: []string{self, "server", "--data-dir", dir, "--listen", web, "--identity-listen", identity, "--metrics-listen", ""}}
	t.Cleanup(func() {
		if c.cmd != nil {
			c.cmd.Process.Kill()
			c.cmd.Wait()
		}
	})
	return c
}

// at is the command line for a server that runs elsewhere.
func at(t *testing.T, dir, url string) *system {
	return &system{t: t, dir: dir, url: url, logs: &buffer{}, run: run, runAgent: run}
}

// TestChaosDiskFull fills the disk of a running server, all but etcd's: what
// cannot be recorded is refused, by requests and by writes, and what was
// acknowledged is there when there is space again, deletes included.
func TestChaosDiskFull(t *testing.T) {
	d := newDisk(t, 16)
	if d == nil {
		return
	}
	dir := filepath.Join(d.dir, "data")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Symlink(t.TempDir(), filepath.Join(dir, "etcd"))); err != nil {
		t.Fatal(err)
	}
	c := chaosServer(t, dir)
	s := at(t, dir, c.start(t))
	cluster := s.register("full")
	ml := s.source("ml")
	s.bind("full", "gone", ml.id, mlworkload)
	token := ml.token("839858a7-cb51-4fcf-ad2f-222fe0d2d0d0")
	s.must("rolebinding", "delete", "--cluster-name", "full", "-n", "gone", "--yes")

	free := d.fill()
	operator := s.operatorToken()
	put := func(i int) int {
		t.Helper()
		resp, _ := s.send(http.MethodPut, fmt.Sprintf("%s/trustedAccessRoleBindings/b%d?api-version=2025-10-01", cluster, i), operator,
			fmt.Sprintf(`{"properties":{"sourceResourceId":%q,"roles":[%q]}}`, ml.id, mlworkload))
		return resp.StatusCode
	}
	acked := 0 // what is left of a page of the audit log takes some more
	for acked < 7 && put(acked) == http.StatusCreated {
		acked++
	}
	refused := func() bool {
		resp, _ := s.send(http.MethodGet, "/k8s"+cluster+"/api/v1/pods", token, "")
		return resp.StatusCode == http.StatusServiceUnavailable && strings.Contains(c.tail(), "no space left on device")
	}
	s.await("requests that cannot be recorded are refused", refused)
	if got := put(7); got != http.StatusServiceUnavailable {
		t.Errorf("a write that cannot be recorded is answered with %d", got)
	}
	contains(t, "the server's log", c.tail(), "free space on the audit log's disk")

	// Killed on the full disk, it says why it does not start, and then does.
	c.kill(t)
	out, err := exec.Command(c.args[0], c.args[1:]...).CombinedOutput()
	if err == nil {
		t.Error("the server started on a full disk")
	}
	contains(t, "the server", string(out), "no space left on device", "hint: free space on the disk of data folder "+dir)
	free()
	s.url = c.start(t)
	for i := range acked {
		s.must("rolebinding", "show", "--cluster-name", "full", "-n", fmt.Sprintf("b%d", i))
	}
	s.refused(exitNotFound, nil, "rolebinding", "show", "--cluster-name", "full", "-n", "gone")
	s.refused(exitNotFound, nil, "rolebinding", "show", "--cluster-name", "full", "-n", "b7")
	s.bind("full", "b7", ml.id, mlworkload)
	t.Logf("%d writes acknowledged after the disk was full, all there", acked)
	c.kill(t)
}

// TestChaosEtcdDiskFull fills the disk of etcd alone, so that the audit log lets
// writes through to it: etcd ends the process rather than go on unsure, says
// what to do, and has every acknowledged write when it starts again.
func TestChaosEtcdDiskFull(t *testing.T) {
	d := newDisk(t, 200)
	if d == nil {
		return
	}
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	etcd := filepath.Join(d.dir, "etcd")
	if err := errors.Join(os.Mkdir(etcd, 0o700), os.Symlink(etcd, filepath.Join(dir, "etcd"))); err != nil {
		t.Fatal(err)
	}
	c := chaosServer(t, dir)
	s := at(t, dir, c.start(t))
	s.register("c")
	ml := s.source("ml")
	free := d.fill()
	acked := writeUntilFull(t, s, c)
	contains(t, "the server's log", c.tail(), "no space left on device", "hint=", "nothing acknowledged is lost")
	free()
	s.url = c.start(t)
	for _, name := range acked {
		s.must("resource", "show", "-n", name, "--type", workspaceType)
	}
	s.bind("c", "after", ml.id, mlworkload)
	t.Logf("%d writes acknowledged on the full disk, all there", len(acked))
	c.kill(t)
}

// writeUntilFull writes resources with large tags until the server ends, and
// returns those that were acknowledged.
func writeUntilFull(t *testing.T, s *system, c *killChild) (acked []string) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.cmd.Wait() // what it ended with is in its state
	}()
	token := s.operatorToken()
	prefix, _, _ := strings.Cut(get[string](s, readID, "resource", "show", "-n", "ml", "--type", workspaceType), "/providers/")
	body := fmt.Sprintf(`{"location":"eastus","properties":{"blob":%q}}`, strings.Repeat("x", 512<<10))
	transport := s.transport()
	for i := 0; ; i++ {
		select {
		case <-ended:
			if code := c.cmd.ProcessState.ExitCode(); code == 0 {
				t.Error("the server ended as if all were well")
			}
			c.cmd = nil
			return acked
		default:
		}
		if i > 2000 {
			t.Fatal("etcd's disk did not get full")
		}
		name := fmt.Sprintf("r%d", i)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.url+prefix+"/providers/"+workspaceType+"/"+name+"?api-version=2024-04-01", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := (&http.Client{Transport: transport, Timeout: 30 * time.Second}).Do(req)
		if err != nil {
			continue // it ended, or will have
		}
		resp.Body.Close()
		switch {
		case resp.StatusCode/100 == 2:
			acked = append(acked, name)
		case resp.StatusCode < 500:
			t.Fatalf("write %d: %s", i, resp.Status)
		}
	}
}

// TestChaosDiskReadOnly starts a server on a disk that has become read-only.
func TestChaosDiskReadOnly(t *testing.T) {
	d := newDisk(t, 400)
	if d == nil {
		return
	}
	dir := filepath.Join(d.dir, "data")
	c := chaosServer(t, dir)
	s := at(t, dir, c.start(t))
	s.register("kept")
	c.kill(t)
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("", d.dir, "", syscall.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(syscall.MS_RDONLY)
	out, err := exec.Command(c.args[0], c.args[1:]...).CombinedOutput()
	if err == nil {
		t.Error("the server started on a read-only disk")
	}
	contains(t, "the server", string(out), "read-only file system", "hint: the disk of data folder "+dir+" is read-only; mount it for writing")
	remount(0)
	s.url = c.start(t)
	s.must("cluster", "show", "-n", "kept")
	c.kill(t)
}
