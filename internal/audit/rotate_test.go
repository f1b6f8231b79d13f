package audit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
)

// childDir is the environment variable that makes the test binary the child
// of TestKill: a writer on that folder.
const childDir = "AUDIT_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// clock is a clock that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 22, 5, 0, 0, 0, time.UTC)} }

func openWith(t *testing.T, cfg audit.Config) *audit.File {
	t.Helper()
	f, err := audit.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// logged are the ids in each file of a folder, the current file's last.
func logged(t *testing.T, dir string) [][]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "audit-*.log"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	if current := filepath.Join(dir, "audit.log"); exists(current) {
		files = append(files, current)
	}
	var all [][]string
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", file, info.Mode())
		}
		ids := []string{}
		if info.Size() > 0 {
			for _, line := range lines(t, file) {
				var r audit.Record
				if err := json.Unmarshal([]byte(line), &r); err != nil {
					t.Errorf("%s: %q: %v", file, line, err)
				}
				ids = append(ids, r.ID)
			}
		}
		all = append(all, ids)
	}
	return all
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func log(t *testing.T, f *audit.File, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := f.Log(audit.Record{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRotation(t *testing.T) {
	// A record of these tests has 52 bytes.
	for name, c := range map[string]struct {
		cfg  audit.Config
		do   func(t *testing.T, f *audit.File, now *clock)
		want [][]string
	}{
		"by size, before the line that does not fit": {
			audit.Config{MaxSize: 160},
			func(t *testing.T, f *audit.File, _ *clock) { log(t, f, "a", "b", "c", "d", "e", "f", "g") },
			[][]string{{"a", "b", "c"}, {"d", "e", "f"}, {"g"}},
		},
		"a record larger than a file has one of its own": {
			audit.Config{MaxSize: 60},
			func(t *testing.T, f *audit.File, _ *clock) { log(t, f, "a", strings.Repeat("x", 100), "b") },
			[][]string{{"a"}, {strings.Repeat("x", 100)}, {"b"}},
		},
		"by age of the first record": {
			audit.Config{MaxAge: time.Hour},
			func(t *testing.T, f *audit.File, now *clock) {
				log(t, f, "a")
				now.add(59 * time.Minute)
				log(t, f, "b")
				now.add(time.Minute)
				log(t, f, "c")
			},
			[][]string{{"a", "b"}, {"c"}},
		},
		"an empty file does not age": {
			audit.Config{MaxAge: time.Hour},
			func(t *testing.T, f *audit.File, now *clock) {
				now.add(24 * time.Hour)
				log(t, f, "a")
			},
			[][]string{{"a"}},
		},
		"a clock that is set back": {
			audit.Config{MaxSize: 60},
			func(t *testing.T, f *audit.File, now *clock) {
				for _, id := range []string{"a", "b", "c", "d"} {
					log(t, f, id)
					now.add(-time.Hour)
				}
			},
			[][]string{{"a"}, {"b"}, {"c"}, {"d"}},
		},
		"no limits": {
			audit.Config{},
			func(t *testing.T, f *audit.File, now *clock) {
				log(t, f, "a")
				now.add(1000 * time.Hour)
				log(t, f, "b")
			},
			[][]string{{"a", "b"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, now := t.TempDir(), newClock()
			c.cfg.Path, c.cfg.Now = filepath.Join(dir, "audit.log"), now.Now
			c.do(t, openWith(t, c.cfg), now)
			if got := logged(t, dir); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("files hold %v, want %v", got, c.want)
			}
		})
	}
}

// The age of a file is that of its first record, also after a restart.
func TestAgeSurvivesRestart(t *testing.T) {
	dir, now := t.TempDir(), newClock()
	cfg := audit.Config{Path: filepath.Join(dir, "audit.log"), MaxAge: time.Hour, Now: now.Now}
	f := openWith(t, cfg)
	if err := f.Log(audit.Record{ID: "a", Time: now.Now()}); err != nil {
		t.Fatal(err)
	}
	f.Close()
	now.add(time.Hour)
	log(t, openWith(t, cfg), "b")
	if got := logged(t, dir); fmt.Sprint(got) != "[[a] [b]]" {
		t.Errorf("files hold %v", got)
	}
}

func TestKeep(t *testing.T) {
	dir, now := t.TempDir(), newClock()
	cfg := audit.Config{Path: filepath.Join(dir, "audit.log"), MaxSize: 60, Keep: 24 * time.Hour, Now: now.Now}
	others := []string{"audit-notes.log", "audit-20261122T050000Z.log", "audit-20200101T000000.000000000Z.log.gz", "audit-20200101T000000.000000000Zlog"}
	for _, other := range others {
		if err := os.WriteFile(filepath.Join(dir, other), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := openWith(t, cfg)
	log(t, f, "a", "b") // a is set aside now
	now.add(12 * time.Hour)
	log(t, f, "c") // b
	now.add(12*time.Hour + 1)
	f.Close()
	f = openWith(t, cfg) // looks at once
	deadline := time.Now().Add(20 * time.Second)
	for len(asides(t, dir)) != 1 {
		if time.Now().After(deadline) {
			t.Fatalf("kept: %v", asides(t, dir))
		}
	}
	for _, other := range others {
		if !exists(filepath.Join(dir, other)) {
			t.Errorf("%s, which is not ours, was removed", other)
		}
	}
	log(t, f, "d")
	var ids []string
	for r, err := range f.Tail(t.Context(), audit.Query{Last: 10}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	if fmt.Sprint(ids) != "[b c d]" {
		t.Errorf("read back: %v", ids)
	}
}

func asides(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "audit-20??????T??????.?????????Z.log"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A file that cannot be set aside takes no more records, and all it has stay.
func TestRotationFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	f := openWith(t, audit.Config{Path: filepath.Join(dir, "audit.log"), MaxSize: 60, Logger: slog.New(slog.NewTextHandler(&said, nil))})
	log(t, f, "a")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	cannotLog(t, f, dir)
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	log(t, f, "b")
	f.Close()
	saysOnce(t, said.String(), "aside")
	if got := logged(t, dir); fmt.Sprint(got) != "[[a] [b]]" {
		t.Errorf("files hold %v", got)
	}
}

// On a disk without room for the next file records are refused, with a reason,
// until there is room.
func TestDiskFullAtRotation(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a disk of three files can be mounted by root only")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "nr_inodes=3,size=1m"); err != nil {
		t.Skipf("a disk of three files cannot be mounted here: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	var said bytes.Buffer
	f, err := audit.Open(audit.Config{Path: filepath.Join(dir, "audit.log"), MaxSize: 60, Logger: slog.New(slog.NewTextHandler(&said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	log(t, f, "a")
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cannotLog(t, f, dir)
	for _, err := range f.Tail(t.Context(), audit.Query{Last: 10}) {
		if err != nil {
			t.Errorf("what there is cannot be read: %v", err)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	log(t, f, "b")
	f.Close()
	saysOnce(t, said.String(), syscall.ENOSPC.Error(), "free space")
	if got := logged(t, dir); fmt.Sprint(got) != "[[a] [b]]" {
		t.Errorf("files hold %v", got)
	}
}

// cannotLog tries a few times. Whoever is refused for it is not told of our
// folders.
func cannotLog(t *testing.T, f *audit.File, dir string) {
	t.Helper()
	for range 3 {
		if err := f.Log(audit.Record{ID: "lost"}); !errors.Is(err, access.ErrUnavailable) || strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "the server's log says why") {
			t.Errorf("error %v", err)
		}
	}
}

// saysOnce checks that a log says that records cannot be written, and why, and
// then that they can; and not for each record again.
func saysOnce(t *testing.T, log string, why ...string) {
	t.Helper()
	for _, want := range []string{"audit records cannot be written", "audit records are written again"} {
		if n := strings.Count(log, want); n != 1 {
			t.Errorf("the log says %q %d times:\n%s", want, n, log)
		}
	}
	for _, want := range why {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
}

// child logs from several goroutines into files of a few records, and prints
// an id once its record was acknowledged. It runs until it is killed.
func child(dir string) {
	f, err := audit.Open(audit.Config{Path: filepath.Join(dir, "audit.log"), MaxSize: 300})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	var mu sync.Mutex
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("p%d-w%d-%d", os.Getpid(), w, i)
				err := f.Log(audit.Record{ID: id})
				mu.Lock()
				if err != nil {
					fmt.Println("error", err)
				} else {
					fmt.Println("ack", id)
				}
				mu.Unlock()
			}
		})
	}
	writers.Wait()
}

// TestKill kills a writer that rotates at every few records, again and again
// on one folder, and looks for everything that was acknowledged: there, once,
// and every line whole.
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
	openWith(t, audit.Config{Path: filepath.Join(dir, "audit.log")}).Close() // cuts off the last kill's torn line
	seen := map[string]int{}
	files := logged(t, dir)
	for _, ids := range files {
		for _, id := range ids {
			seen[id]++
		}
	}
	for id := range acked {
		if seen[id] != 1 {
			t.Errorf("record %s is there %d times", id, seen[id])
		}
	}
	if len(files) < len(acked)/10 {
		t.Errorf("%d records in only %d files", len(acked), len(files))
	}
}

// killOne runs a writer until it has acknowledged so many records, kills it
// while it goes on, and collects all that it said.
func killOne(t *testing.T, dir string, records int, acked map[string]bool) {
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
	for said := bufio.NewScanner(out); said.Scan(); {
		id, ok := strings.CutPrefix(said.Text(), "ack ")
		if !ok {
			t.Errorf("the writer says %q", said.Text())
			break
		}
		acked[id] = true
		if count++; count == records {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	if count < records {
		cmd.Process.Kill()
		t.Errorf("the writer made %d records, want %d", count, records)
	}
	cmd.Wait() // killed: its error says only that
}
