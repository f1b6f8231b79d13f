package store_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/store"
)

// childDir is the environment variable that makes the test binary the child
// of TestKill: a writer on that folder.
const childDir = "STORE_TEST_CHILD_DIR"

// child writes records from several goroutines, each key named by the
// process, and prints a key once its write was acknowledged. It runs until it
// is killed.
func child(dir string) {
	s, err := store.Open(context.Background(), store.Config{Dir: dir})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	var mu sync.Mutex
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("p%d-w%d-%d", os.Getpid(), w, i)
				_, err := s.Tenants.Put(context.Background(), store.Tenant{ID: key}, 0)
				mu.Lock()
				if err != nil {
					fmt.Println("error", err)
				} else {
					fmt.Println("ack", key)
				}
				mu.Unlock()
			}
		})
	}
	writers.Wait()
}

// TestKill kills the writer under load, again and again on one folder, and
// looks for everything that was acknowledged.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	kills := 10
	if testing.Short() {
		kills = 2
	}
	acked := map[string]bool{}
	for kill := range kills {
		killOne(t, dir, 50+37*kill, acked)
	}
	s, err := store.Open(t.Context(), store.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	list, _, err := s.Tenants.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range list {
		delete(acked, item.Key)
	}
	if len(acked) > 0 {
		t.Errorf("%d acknowledged writes are lost, such as %v", len(acked), acked)
	}
	t.Logf("%d records after %d kills", len(list), kills)
}

// killOne runs a writer until it has acknowledged so many writes, kills it
// while it goes on, and collects all that it said.
func killOne(t *testing.T, dir string, writes int, acked map[string]bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0]) // its cancellation is SIGKILL as well
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	count := 0
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var word, key string
		if n, _ := fmt.Sscan(lines.Text(), &word, &key); n != 2 || word != "ack" {
			t.Errorf("the writer says %q", lines.Text())
			break
		}
		acked[key] = true
		if count++; count == writes {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	if count < writes {
		cmd.Process.Kill()
		t.Errorf("the writer made %d writes, want %d", count, writes)
	}
	cmd.Wait() // killed: its error says only that
}
