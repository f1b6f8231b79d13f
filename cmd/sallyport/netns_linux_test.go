package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// inNamespaces marks a test binary that runs one test in a network of its own.
const inNamespaces = "SALLYPORT_TEST_NETWORK"

// network is made of network namespaces. A test that calls newNetwork runs in
// another process, whose own network is new and empty: nothing the test does
// to routes and links touches the machine's, and it all goes with the process.
type network struct {
	t     *testing.T
	links int
	// here is the namespace of the test's own process.
	here *namespace
}

// newNetwork returns nil in the first process, when the second has done the
// test. It needs no root where users may make namespaces of their own.
func newNetwork(t *testing.T) *network {
	t.Helper()
	if os.Getenv(inNamespaces) == "" {
		runInNamespaces(t, inNamespaces, syscall.CLONE_NEWNET)
		return nil
	}
	n := &network{t: t}
	n.here = n.take("outside", netns.Get)
	return n
}

// runInNamespaces runs this test again, in a process with a network of its own,
// or with mounts of its own, which finds the mark in its environment.
func runInNamespaces(t *testing.T, mark string, of uintptr) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v"}
	if end, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+time.Until(end).String())
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), mark+"=1")
	var said buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(t.Output(), &said), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: of, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	// The signal that ends the child with us is bound to the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		t.Skipf("this user cannot make a namespace here, so try as root: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("in a namespace of its own: %v", err)
	}
	if !strings.Contains(said.String(), "--- PASS: "+t.Name()+" ") {
		t.Skip("it was skipped there, for the reason above")
	}
}

// namespace is a machine on the network: one thread lives in it, and the
// sockets that this thread opens and the processes it starts do so too.
type namespace struct {
	t      *testing.T
	name   string
	calls  chan func()
	handle netns.NsHandle
	links  *netlink.Handle
	pids   []int // of command lines of ours that run here
}

// machine adds one, with a loopback interface that works.
func (n *network) machine(name string, addresses ...string) *namespace {
	n.t.Helper()
	ns := n.take(name, netns.New)
	for _, a := range addresses {
		ns.address("lo", a)
	}
	return ns
}

// take starts the thread of a namespace. It ends with the test, and Linux then
// ends what the thread started.
func (n *network) take(name string, enter func() (netns.NsHandle, error)) *namespace {
	n.t.Helper()
	ns := &namespace{t: n.t, name: name, calls: make(chan func())}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never back: the thread ends with the goroutine
		for call := range ns.calls {
			call()
		}
	}()
	n.t.Cleanup(func() {
		close(ns.calls)
		<-done
		ns.links.Close()
		ns.handle.Close()
	})
	var err error
	ns.do(func() {
		if ns.handle, err = enter(); err == nil {
			ns.links, err = netlink.NewHandle()
		}
	})
	if err != nil {
		n.t.Fatalf("network namespace %s: %v", name, err)
	}
	ns.up("lo")
	return ns
}

// do runs f on the namespace's thread.
func (ns *namespace) do(f func()) {
	done := make(chan struct{})
	ns.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

func (ns *namespace) up(device string) {
	ns.t.Helper()
	ns.change(device, "set up", ns.links.LinkSetUp)
}

func (ns *namespace) address(device, cidr string) {
	ns.t.Helper()
	address, err := netlink.ParseAddr(cidr)
	if err != nil {
		ns.t.Fatal(err)
	}
	ns.change(device, "address "+cidr, func(l netlink.Link) error { return ns.links.AddrAdd(l, address) })
}

func (ns *namespace) change(device, what string, f func(netlink.Link) error) {
	ns.t.Helper()
	link, err := ns.links.LinkByName(device)
	if err == nil {
		err = f(link)
	}
	if err != nil {
		ns.t.Fatalf("%s: %s: %s: %v", ns.name, device, what, err)
	}
}

// cable is a link between two machines, and what each end is called.
type cable struct {
	a, b       *namespace
	endA, endB string
}

// connect lays a cable. The addresses are of one small network.
func (n *network) connect(a *namespace, addressA string, b *namespace, addressB string) cable {
	n.t.Helper()
	c := cable{a, b, fmt.Sprintf("veth%da", n.links), fmt.Sprintf("veth%db", n.links)}
	n.links++
	attrs := netlink.NewLinkAttrs()
	attrs.Name = c.endA
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: c.endB, PeerNamespace: netlink.NsFd(b.handle)}
	if err := a.links.LinkAdd(pair); err != nil {
		n.t.Fatalf("connect %s and %s: %v", a.name, b.name, err)
	}
	a.address(c.endA, addressA)
	b.address(c.endB, addressB)
	a.up(c.endA)
	b.up(c.endB)
	return c
}

// cut takes a cable away.
func (c cable) cut() {
	c.a.t.Helper()
	c.a.change(c.endA, "remove", c.a.links.LinkDel)
}

// route sends what is for one address to a neighbour. There are no other
// routes, but for the networks of the cables, and nobody forwards.
func (ns *namespace) route(to, via string) {
	ns.t.Helper()
	_, destination, err := net.ParseCIDR(to + "/32")
	if err != nil {
		ns.t.Fatal(err)
	}
	if err := ns.links.RouteAdd(&netlink.Route{Dst: destination, Gw: net.ParseIP(via)}); err != nil {
		ns.t.Fatalf("%s: route to %s by %s: %v", ns.name, to, via, err)
	}
}

// dial connects from this machine to an IP address and port.
func (ns *namespace) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	ns.do(func() { conn, err = (&net.Dialer{}).DialContext(ctx, network, address) })
	return conn, err
}

// listen listens on this machine until the end of the test.
func (ns *namespace) listen(address string) net.Listener {
	ns.t.Helper()
	var ln net.Listener
	var err error
	ns.do(func() { ln, err = net.Listen("tcp4", address) })
	if err != nil {
		ns.t.Fatalf("%s: %v", ns.name, err)
	}
	ns.t.Cleanup(func() { ln.Close() })
	return ln
}

// start starts a process on this machine.
func (ns *namespace) start(cmd *exec.Cmd) (err error) {
	ns.do(func() { err = cmd.Start() })
	return err
}

// sallyport runs command lines of ours as processes of this machine, with that
// added to their environment.
func (ns *namespace) sallyport(env ...string) runner {
	return func(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
		cmd := exec.CommandContext(ctx, "sallyport", args...) // which testscript put on the path
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = soon
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
		cmd.Env = append(os.Environ(), env...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := ns.start(cmd); err != nil {
			fmt.Fprintf(stderr, "start on %s: %v\n", ns.name, err)
			return exitFailed
		}
		ns.do(func() { ns.pids = append(ns.pids, cmd.Process.Pid) })
		cmd.Wait() // what matters of its error is the code
		return cmd.ProcessState.ExitCode()
	}
}

// listening returns the sockets that our processes on this machine listen on,
// as /proc tells them: local addresses in hexadecimal.
func (ns *namespace) listening() []string {
	ns.t.Helper()
	var pids []int
	ns.do(func() { pids = append(pids, ns.pids...) })
	var found []string
	for _, pid := range pids {
		found = append(found, listeningSockets(ns.t, pid)...)
	}
	return found
}

// listeningSockets joins a process's open files with its network's sockets.
func listeningSockets(t *testing.T, pid int) (found []string) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d", pid)
	entries, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return nil // it has ended
	}
	own := map[string]bool{}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(proc, "fd", e.Name())); err == nil {
			if inode, ok := strings.CutPrefix(target, "socket:["); ok {
				own[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	// The state of a TCP socket that listens is 0A, and that of a UDP socket
	// that takes packets from anybody is 07.
	for table, state := range map[string]string{"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"} {
		text, err := os.ReadFile(filepath.Join(proc, "net", table))
		if err != nil {
			if table == "tcp" {
				t.Fatal(err)
			}
			continue // no IPv6 here
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == state && own[f[9]] {
				found = append(found, table+" "+f[1])
			}
		}
	}
	return found
}
