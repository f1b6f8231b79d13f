package main

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestSystemBindingLimit: 20 writers at once find places for 8 bindings, as
// AKS has, and whoever comes later is told so.
func TestSystemBindingLimit(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	create := func(name string) result {
		source := fmt.Sprintf("%s/providers/%s/%s", strings.Split(cluster, "/providers/")[0], workspaceType, name)
		return s.cli("rolebinding", "create", "--cluster-name", "private", "-n", name, "-s", source, "-r", mlworkload)
	}
	var won atomic.Int64
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			r := create(fmt.Sprintf("b%d", i))
			if r.code == exitOK {
				won.Add(1)
				return
			}
			contains(t, "a refused create", r.stderr, "QuotaExceeded", "has 8 trusted access role bindings, the most it can have is 8")
		})
	}
	all.Wait()
	if won.Load() != 8 {
		t.Errorf("%d of 20 won, want 8", won.Load())
	}
	if n := strings.Count(s.must("rolebinding", "list", "--cluster-name", "private"), "Succeeded"); n != 8 {
		t.Errorf("%d bindings are listed, want 8", n)
	}
	contains(t, "one more", create("ninth").stderr, "QuotaExceeded", "'ninth' cannot be added")
}
