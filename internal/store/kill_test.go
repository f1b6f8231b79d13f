package store_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/store"
)

const (
	// childDir is the environment variable that makes the test binary the child
	// of TestKill: a writer on that folder.
	childDir = "STORE_TEST_CHILD_DIR"
	// chaos makes tests take their long form, see `make chaos`.
	chaos = "SALLYPORT_CHAOS"
	// warm is how many writes the child makes before one that is killed. Their
	// times say how long a write takes.
	warm = 8
	// childRun is the child's number, since Linux gives process ids again.
	childRun = "STORE_TEST_CHILD_RUN"
	// childRotates makes the child replace the key instead, once it is warm.
	childRotates = "STORE_TEST_CHILD_ROTATES"
	rotateEvery  = 10 // children
)

// child writes, one commit after the other, and says on standard output when
// each begins and when it was acknowledged. A commit creates two records of one
// name, of different kinds, and deletes those of the one before: so it shows
// whether a commit is whole, and whether a delete lasts. It runs until it is
// killed.
func child(dir string) {
	fail := func(err error) { fmt.Println("error", err) }
	ring, err := keyring.Open(filepath.Join(dir, "encryption.key"))
	if err != nil {
		fail(err)
		return
	}
	ctx := context.Background()
	s, err := store.Open(ctx, store.Config{Dir: filepath.Join(dir, "etcd"), Keys: ring})
	if err != nil {
		fail(err)
		return
	}
	name := func(i int) string { return fmt.Sprintf("p%s-%d", os.Getenv(childRun), i) }
	var version int64
	for i := 0; ; i++ {
		if i >= warm && os.Getenv(childRotates) != "" {
			fmt.Println("begin", name(i), "rotate")
			if _, _, err := s.RotateKey(ctx); err != nil {
				fail(err)
				return
			}
			fmt.Println("ack", name(i), "rotate")
			continue
		}
		changes := []store.Change{
			s.Tenants.Creating(store.Tenant{ID: name(i)}),
			s.Applications.Creating(store.Application{ClientID: name(i), Name: strings.Repeat("x", i%5*1000)}),
		}
		if i%2 == 1 { // the even ones go, the odd ones stay
			changes = append(changes,
				s.Tenants.Deleting(store.Item[store.Tenant]{Value: store.Tenant{ID: name(i - 1)}, Version: version}),
				s.Applications.Deleting(store.Item[store.Application]{Value: store.Application{ClientID: name(i - 1)}, Version: version}))
		}
		fmt.Println("begin", name(i), "write")
		if version, err = s.Commit(ctx, changes...); err != nil {
			fail(err)
			return
		}
		fmt.Println("ack", name(i), "write")
	}
}

// killed is what is known of all the children's writes.
type killed struct {
	dir string
	// there and gone are what was acknowledged; open is what was under way.
	there, gone, open map[string]bool
	took              []time.Duration // of writes, from begin to acknowledgement
	before, after     int             // kills before and after the acknowledgement of what was aimed at
	rotating          int             // of them while the key was replaced
}

// TestKill kills a writer (SIGKILL) in the middle of a write, again and again
// on one folder, and looks for everything that was acknowledged. The kills are
// spread evenly over the time that a write takes, from before it begins until
// after it is acknowledged: with 1,000 of them (make chaos) each thousandth
// part of it has one. That is every point as the clock sees it, not every
// instruction, and it shows ordering and recovery of the process, not what the
// disk promises: what the kernel was given, it writes.
func TestKill(t *testing.T) {
	kills := 20
	switch {
	case os.Getenv(chaos) != "":
		kills = 1000
	case testing.Short():
		kills = 4
	}
	// A folder is looked into after each hundredth kill, and then another is
	// taken: the log that a start reads grows with each.
	const most = 100
	for first := 0; first < kills; first += most {
		t.Run(fmt.Sprintf("from %d", first), func(t *testing.T) {
			k := &killed{dir: t.TempDir(), there: map[string]bool{}, gone: map[string]bool{}, open: map[string]bool{}}
			n := min(most, kills-first)
			for i := range n {
				// Rounds interleave, so that each spreads over the whole write.
				k.one(t, i, (float64(i)+float64(first)/float64(kills))/float64(n))
				if t.Failed() {
					t.Fatalf("after %d kills", first+i+1)
				}
			}
			k.report(t, n)
		})
	}
}

// report looks for everything that was acknowledged, and says what there was.
func (k *killed) report(t *testing.T, kills int) {
	t.Helper()
	made := k.check(t)
	slices.Sort(k.took)
	t.Logf("%d kills, spread over 1.5 times the median write (%s): %d before the acknowledgement, %d after it; %d while the key was replaced; of %d commits under way %d had been made, each whole; %d acknowledged commits there, %d acknowledged deletes last",
		kills, k.took[len(k.took)/2].Round(time.Microsecond), k.before, k.after, k.rotating, len(k.open), made, len(k.there), len(k.gone))
}

// one runs a child, lets it warm up, and kills it at a point of its next write,
// as a fraction of one and a half times what writes take. Replacing the key
// takes longer, so there it falls into the beginning.
func (k *killed) one(t *testing.T, run int, point float64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0]) // its cancellation is SIGKILL as well
	cmd.Env = append(os.Environ(), childDir+"="+k.dir, fmt.Sprintf("%s=%d", childRun, run))
	if run%rotateEvery == rotateEvery-1 {
		cmd.Env = append(cmd.Env, childRotates+"=1")
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() // killed: its error says only that
	defer io.Copy(io.Discard, out)
	defer cmd.Process.Kill()

	var begun time.Time
	var took []time.Duration
	var aim string
	acked := false
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		name, what, _ := strings.Cut(rest, " ")
		switch word {
		case "begin":
			begun = time.Now()
			if what == "write" {
				k.open[name] = true
			}
			if n == warm && aim == "" {
				aim = name
				if what == "rotate" {
					k.rotating++
				}
				slices.Sort(took)
				wait(time.Duration(point * 1.5 * float64(took[len(took)/2])))
				cmd.Process.Kill()
			}
		case "ack":
			took = append(took, time.Since(begun))
			acked = acked || name == aim
			n++
			if what == "write" {
				k.acknowledged(name)
			}
		default:
			t.Errorf("the writer says %q", lines.Text())
			return
		}
	}
	if aim == "" {
		t.Errorf("the writer ended after %d writes", len(took))
		return
	}
	k.took = append(k.took, took[:warm]...)
	if acked {
		k.after++
	} else {
		k.before++
	}
}

// wait is a sleep that ends on time: a timer's tick is longer than a write.
func wait(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
}

// acknowledged takes a write's acknowledgement: its own records are there, and
// of an odd one those of the even one before it are gone.
func (k *killed) acknowledged(name string) {
	delete(k.open, name)
	k.there[name] = true
	prefix, number, _ := strings.Cut(name, "-")
	var i int
	if fmt.Sscan(number, &i); i%2 == 1 {
		before := fmt.Sprintf("%s-%d", prefix, i-1)
		delete(k.there, before)
		k.gone[before] = true
	}
}

// check opens the store once more, holds it against what was said, and returns
// how many of the writes under way had been made.
func (k *killed) check(t *testing.T) (made int) {
	t.Helper()
	ring, err := keyring.Open(filepath.Join(k.dir, "encryption.key"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{Dir: filepath.Join(k.dir, "etcd"), Keys: ring})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	underKey(t, s, ring)
	tenants, _, err := s.Tenants.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	applications, _, err := s.Applications.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]int{}
	for _, item := range tenants {
		have[item.Key]++
	}
	for _, item := range applications {
		have[item.Key]++
	}
	under := map[string]bool{} // deletes under way: what they were of may be gone
	for name := range k.open {
		prefix, number, _ := strings.Cut(name, "-")
		var i int
		if fmt.Sscan(number, &i); i%2 == 1 {
			under[fmt.Sprintf("%s-%d", prefix, i-1)] = true
		}
		if have[name] > 0 {
			made++
		}
	}
	for name := range k.there {
		if have[name] == 0 && !under[name] {
			t.Errorf("acknowledged commit %s is lost", name)
		}
	}
	for name := range k.gone {
		if have[name] > 0 {
			t.Errorf("acknowledged delete of %s is undone", name)
		}
	}
	for name, n := range have {
		if n != 2 {
			t.Errorf("commit %s was made in part", name)
		}
		if !k.there[name] && !k.open[name] {
			t.Errorf("nobody wrote %s", name)
		}
	}
	return made
}
