package main

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What a server of the default configuration listens on, as the kernel lists it:
// the TLS port, and on loopback the identity endpoint and the metrics. No etcd
// port, no pprof, nothing else.
func TestItem41OnlyThreePortsListen(t *testing.T) {
	before := listening(t)
	s := newSystem(t)
	var got []string
	for _, addr := range listening(t) {
		if !slices.Contains(before, addr) {
			got = append(got, addr)
		}
	}
	want := []string{strings.TrimPrefix(s.url, "https://"), strings.TrimPrefix(metricsURL(t, s.server), "http://")}
	if len(got) != 3 {
		t.Fatalf("%d ports listen: %q", len(got), got)
	}
	for _, addr := range want {
		if !slices.Contains(got, addr) {
			t.Errorf("%s does not listen; %q do", addr, got)
		}
	}
	for _, addr := range got {
		if host, _, err := net.SplitHostPort(addr); err != nil || !net.ParseIP(host).IsLoopback() {
			t.Errorf("%s listens, and is not loopback", addr)
		}
	}
}

// listening are the addresses on which this process listens.
func listening(t *testing.T) []string {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string]bool{}
	for _, fd := range fds {
		// One that was closed meanwhile is no matter.
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, "socket:[") {
			ours[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	var all []string
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue // no IPv6
		}
		for line := range strings.Lines(string(text)) {
			const listen = "0A"
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == listen && ours[f[9]] {
				all = append(all, kernelAddress(t, f[1]))
			}
		}
	}
	return all
}

// kernelAddress reads an address as /proc/net/tcp writes it: words in the byte
// order of the machine.
func kernelAddress(t *testing.T, text string) string {
	t.Helper()
	addr, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(addr)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort(net.IP(raw).String(), fmt.Sprint(n))
}
