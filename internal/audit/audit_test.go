package audit_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
)

func open(t *testing.T, path string) *audit.File {
	t.Helper()
	f, err := audit.Open(audit.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 0 && b[len(b)-1] != '\n' {
		t.Errorf("the file does not end with a line break: %q", b)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

func TestLineFormat(t *testing.T) {
	allowed := true
	when := time.Date(2026, 11, 21, 10, 11, 12, 13, time.UTC)
	path := filepath.Join(t.TempDir(), "audit.log")
	f := open(t, path)
	records := []struct {
		record audit.Record
		line   string
	}{
		{
			audit.Record{Time: when, Stage: audit.Decision, ID: "id1", TenantID: "t", ObjectID: "o", Source: "/s", Remote: "r:1", Cluster: "/c", Binding: "b", BindingUID: "u", Method: "GET", Path: "/api", Allowed: &allowed},
			`{"time":"2026-11-21T10:11:12.000000013Z","stage":"decision","id":"id1","tenantId":"t","objectId":"o","source":"/s","remote":"r:1","cluster":"/c","binding":"b","bindingUid":"u","method":"GET","path":"/api","allowed":true}`,
		},
		{
			audit.Record{Time: when, Stage: audit.Decision, ID: "id2", Allowed: new(bool), Reason: "no"},
			`{"time":"2026-11-21T10:11:12.000000013Z","stage":"decision","id":"id2","allowed":false,"reason":"no"}`,
		},
		{
			audit.Record{Time: when, Stage: audit.Complete, ID: "id1", Status: 200, Bytes: 5, Duration: time.Second},
			`{"time":"2026-11-21T10:11:12.000000013Z","stage":"complete","id":"id1","status":200,"bytes":5,"durationNs":1000000000}`,
		},
		{
			audit.Record{Time: when, Stage: audit.Revoked, ID: "id3", BindingUID: "u", Cut: 2},
			`{"time":"2026-11-21T10:11:12.000000013Z","stage":"revoked","id":"id3","bindingUid":"u","cut":2}`,
		},
		{
			audit.Record{Time: when, Stage: audit.Consent, ID: "id4", Action: "write", Detail: map[string]any{"roles": []string{"r"}}},
			`{"time":"2026-11-21T10:11:12.000000013Z","stage":"consent","id":"id4","action":"write","detail":{"roles":["r"]}}`,
		},
	}
	for _, r := range records {
		if err := f.Log(r.record); err != nil {
			t.Fatal(err)
		}
	}
	got := lines(t, path)
	if len(got) != len(records) {
		t.Fatalf("%d lines", len(got))
	}
	for i, r := range records {
		if got[i] != r.line {
			t.Errorf("line %d:\n got %s\nwant %s", i, got[i], r.line)
		}
	}
}

func TestModeAndAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	for i := range 2 {
		f := open(t, path)
		if err := f.Log(audit.Record{ID: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if got := lines(t, path); len(got) != 2 {
		t.Errorf("opening again did not append: %q", got)
	}
}

func TestTornLastLineIsCutOff(t *testing.T) {
	for name, before := range map[string]struct {
		content string
		lines   int
	}{
		"torn":       {`{"id":"whole"}` + "\n" + `{"id":"to`, 2},
		"torn alone": {`{`, 1},
		"whole":      {`{"id":"whole"}` + "\n", 2},
		"empty":      {"", 1},
	} {
		path := filepath.Join(t.TempDir(), "audit.log")
		if err := os.WriteFile(path, []byte(before.content), 0o600); err != nil {
			t.Fatal(err)
		}
		f := open(t, path)
		if err := f.Log(audit.Record{ID: "next"}); err != nil {
			t.Fatal(err)
		}
		got := lines(t, path)
		var last audit.Record
		if err := json.Unmarshal([]byte(got[len(got)-1]), &last); err != nil || last.ID != "next" || len(got) != before.lines {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestItem40NotWrittenIsAnError(t *testing.T) {
	closed := open(t, filepath.Join(t.TempDir(), "audit.log"))
	closed.Close()
	files := map[string]*audit.File{"closed": closed}
	if _, err := os.Stat("/dev/full"); err == nil {
		files["full"] = open(t, "/dev/full")
	}
	for name, f := range files {
		if err := f.Log(audit.Record{ID: "x"}); !errors.Is(err, access.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpenFails(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "missing", "audit.log"), ""} {
		if _, err := audit.Open(audit.Config{Path: path}); err == nil {
			t.Errorf("%q opened", path)
		}
	}
}

// A record that cannot be encoded must be refused like one that cannot be
// written, not be half written.
func TestUnencodableRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	f := open(t, path)
	if err := f.Log(audit.Record{ID: "x", Detail: func() {}}); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if b, _ := os.ReadFile(path); len(b) != 0 {
		t.Errorf("written: %q", b)
	}
}

// FuzzOneLine holds the log to one line a record, whatever a client wrote into
// its strings (checklist, item 40).
func FuzzOneLine(f *testing.F) {
	for _, s := range []string{
		"plain", "a\nb", "a\r\nb", `"}` + "\n" + `{"stage":"decision","allowed":true}`, "\u2028\u2029\u0085", "\x00\x1b[2J", "\xff\xfe", "</script>", strings.Repeat("x", 1<<16), `\n`,
	} {
		f.Add(s)
	}
	path := filepath.Join(f.TempDir(), "audit.log")
	log, err := audit.Open(audit.Config{Path: path})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { log.Close() })
	f.Fuzz(func(t *testing.T, s string) {
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
		in := audit.Record{Stage: audit.Decision, ID: s, Source: s, Remote: s, Method: s, Path: s, Reason: s, Detail: s}
		if err := log.Log(in); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Count(b, []byte("\n")) != 1 || b[len(b)-1] != '\n' || bytes.ContainsAny(b[:len(b)-1], "\r\x00\x1b\u2028\u2029") {
			t.Fatalf("not one clean line: %q", b)
		}
		var out audit.Record
		if err := json.Unmarshal(b, &out); err != nil || out.Stage != audit.Decision || out.Path != strings.ToValidUTF8(out.Path, "") {
			t.Fatalf("%q: %v", b, err)
		}
	})
}

func TestConcurrentWriters(t *testing.T) {
	const writers, each = 16, 100
	path := filepath.Join(t.TempDir(), "audit.log")
	f := open(t, path)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				if err := f.Log(audit.Record{ID: fmt.Sprintf("%d-%d", w, i), Reason: strings.Repeat("r", 3000)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	seen := map[string]bool{}
	for scan := bufio.NewScanner(file); scan.Scan(); {
		var r audit.Record
		if err := json.Unmarshal(scan.Bytes(), &r); err != nil {
			t.Fatalf("%v: %q", err, scan.Text())
		}
		seen[r.ID] = true
	}
	if len(seen) != writers*each {
		t.Errorf("%d records of %d", len(seen), writers*each)
	}
}
