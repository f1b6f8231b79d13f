package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Create writes a file that does not exist yet. When the name is taken, be it
// by a symbolic link that leads nowhere, the error wraps [io/fs.ErrExist], and
// what has the name is on disk.
func Create(path string, data []byte) error { return write(path, data, os.Link) }

// Replace writes a file in the place of the one that is there, if any. A
// symbolic link is replaced, not followed.
func Replace(path string, data []byte) error { return write(path, data, os.Rename) }

func write(path string, data []byte, name func(temp, path string) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // a link leaves it, a failure as well; after a rename it is gone
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return errors.Join(name(f.Name(), path), SyncDir(dir))
}

// SyncDir makes the names in dir last, as they are now.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
