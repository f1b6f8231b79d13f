package durable_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/internal/durable"
)

// holds says that dir has one file, private and with this content.
func holds(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Fatalf("folder has %v, %v, want one file", entries, err)
	}
	if info, err := entries[0].Info(); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode is %v, %v, want a file of 0600", info.Mode(), err)
	}
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := durable.Create(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := durable.Create(path, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second Create: %v, want that it exists", err)
	}
	holds(t, path, "first")
}

// TestCreateAtOnce: one wins, and whoever lost finds what it made, whole.
func TestCreateAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	found := make([][]byte, 8)
	var all sync.WaitGroup
	for i := range found {
		all.Go(func() {
			err := durable.Create(path, bytes.Repeat([]byte{'a' + byte(i)}, 1<<16))
			if err != nil && !errors.Is(err, fs.ErrExist) {
				t.Error(err)
			}
			if found[i], err = os.ReadFile(path); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, f := range found {
		if !bytes.Equal(f, found[0]) {
			t.Fatal("not all found the same file")
		}
	}
	holds(t, path, string(bytes.Repeat(found[0][:1], 1<<16)))
}

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path, []byte("longer than the new one"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"new", ""} {
		if err := durable.Replace(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		holds(t, path, content)
	}
}

// TestLinks: what a symbolic link leads to stays as it is.
func TestLinks(t *testing.T) {
	target := filepath.Join(t.TempDir(), "target")
	path := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	if err := durable.Create(path, []byte("x")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create on a link: %v, want that it exists", err)
	}
	if err := durable.Replace(path, []byte("x")); err != nil {
		t.Fatal(err)
	}
	holds(t, path, "x")
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the target was touched: %v", err)
	}
}

// TestFails: nothing is left behind, and the error names the file.
func TestFails(t *testing.T) {
	dir := t.TempDir()
	if err := durable.Create(filepath.Join(dir, "none", "key"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	taken := filepath.Join(dir, "folder")
	if err := os.Mkdir(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.Replace(taken, []byte("x")); err == nil || !bytes.Contains([]byte(err.Error()), []byte(taken)) {
		t.Errorf("a folder in its place: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
