package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestSystemFiles: what the server keeps is for its owner alone, and a lost or
// leaked operator file can be replaced.
func TestSystemFiles(t *testing.T) {
	s := newSystem(t)
	s.register("private")
	s.private()
	current, old := filepath.Join(s.dir, "operator.json"), filepath.Join(t.TempDir(), "operator.json")
	data, err := os.ReadFile(current)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(old, data, 0o600); err != nil {
		t.Fatal(err)
	}

	s.stop(s.server)
	s.start()
	s.must("cluster", "show", "-n", "private")
	if again, err := os.ReadFile(current); err != nil || string(again) != string(data) {
		t.Errorf("a plain restart changed operator.json: %v", err)
	}

	s.stop(s.server)
	s.start("--new-operator")
	s.must("cluster", "show", "-n", "private")
	s.private()
	// The secret that was replaced is worth nothing.
	if err := os.Rename(current, current+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(old, current); err != nil {
		t.Fatal(err)
	}
	s.refused(exitRefused, []string{"hint: the operator file"}, "cluster", "show", "-n", "private")

	// A file that is gone is written again, with a new secret.
	if err := os.Remove(current); err != nil {
		t.Fatal(err)
	}
	s.stop(s.server)
	s.start()
	s.must("cluster", "show", "-n", "private")
	if err := os.Rename(current+".new", current); err != nil {
		t.Fatal(err)
	}
	s.refused(exitRefused, nil, "cluster", "show", "-n", "private")
}

// private checks the modes of the whole data folder.
func (s *system) private() {
	s.t.Helper()
	files := 0
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		} else {
			files++
		}
		if info.Mode().Perm() != want {
			s.t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil || files < 5 {
		s.t.Errorf("the data folder has %d files, %v", files, err)
	}
}
