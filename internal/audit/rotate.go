package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/durable"
)

// shelf says which files there are. The slice is replaced, never changed, so
// that a copy taken under the lock stays true of its moment.
type shelf struct {
	first int      // number of the oldest file
	old   []string // paths of the files set aside, oldest first
	size  int64    // bytes of whole lines in the current file
}

// current is the number of the file that records are appended to.
func (s shelf) current() int { return s.first + len(s.old) }

// stamp is the time in the name of a file that was set aside, in UTC: of one
// length, so that names sort as times do.
const stamp = "20060102T150405.000000000Z"

// name is path with the time in it: audit.log becomes audit-TIME.log.
func name(path string, at time.Time) string {
	ext := filepath.Ext(path)
	return strings.TrimSuffix(path, ext) + "-" + at.UTC().Format(stamp) + ext
}

// nameTime is when a file was set aside; ok is false for the name of any other
// file.
func nameTime(path, old string) (at time.Time, ok bool) {
	ext := filepath.Ext(path)
	text, isOld := strings.CutPrefix(old, strings.TrimSuffix(path, ext)+"-")
	text, hasExt := strings.CutSuffix(text, ext)
	at, err := time.Parse(stamp, text)
	return at, isOld && hasExt && err == nil && len(text) == len(stamp)
}

// setAside lists the files that were set aside, oldest first.
func setAside(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var old []string
	for _, e := range entries { // in the order of names
		file := filepath.Join(filepath.Dir(path), e.Name())
		if _, ok := nameTime(filepath.Clean(path), file); ok && e.Type().IsRegular() {
			old = append(old, file)
		}
	}
	return old, nil
}

// due reports whether the current file must be set aside before n more bytes
// are written.
func (f *File) due(n int64) bool {
	size := f.shelf.size
	if f.out == nil || size == 0 {
		return false
	}
	return f.cfg.MaxSize > 0 && size+n > f.cfg.MaxSize || f.cfg.MaxAge > 0 && f.cfg.Now().Sub(f.begun) >= f.cfg.MaxAge
}

// rotate sets the current file aside and begins the next one. It is called
// with the lock held and the file's lines whole. After a failure, or a kill at
// any place, no record is lost: the file has its old name or its new one, and
// the next record, or the next Open, makes the file that is missing.
func (f *File) rotate() error {
	if err := f.out.Sync(); err != nil {
		return fmt.Errorf("set %s aside: %w", f.cfg.Path, err)
	}
	aside, err := f.asideName()
	if err == nil {
		err = os.Rename(f.cfg.Path, aside)
	}
	if err != nil {
		return fmt.Errorf("set %s aside: %w", f.cfg.Path, err)
	}
	_ = f.out.Close() // it is synced
	f.out, f.begun = nil, time.Time{}
	f.shelf = shelf{first: f.shelf.first, old: append(slices.Clone(f.shelf.old), aside)}
	return f.next()
}

// asideName is a name behind those of all files that were set aside, also when
// the clock was set back.
func (f *File) asideName() (string, error) {
	at := f.cfg.Now().UTC()
	path := filepath.Clean(f.cfg.Path)
	if old := f.shelf.old; len(old) > 0 {
		if last, ok := nameTime(path, old[len(old)-1]); ok && !at.After(last) {
			at = last.Add(1)
		}
	}
	aside := name(path, at)
	if _, err := os.Lstat(aside); !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s exists already", aside)
	}
	return aside, nil
}

// next makes the current file, and both names last.
func (f *File) next() error {
	if err := f.open(); err != nil {
		return fmt.Errorf("begin the next audit log: %w", err)
	}
	if err := durable.SyncDir(filepath.Dir(f.cfg.Path)); err != nil {
		f.out.Close()
		f.out = nil
		return fmt.Errorf("begin the next audit log: %w", err)
	}
	return nil
}

// prune removes the files whose every record is older than Keep. One that
// cannot be removed stays, with those after it, until the next time.
func (f *File) prune(now time.Time) {
	if f.cfg.Keep <= 0 {
		return
	}
	old, gone := f.shot().old, 0
	for _, file := range old {
		at, _ := nameTime(filepath.Clean(f.cfg.Path), file)
		if !at.Before(now.Add(-f.cfg.Keep)) {
			break
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.cfg.Logger.Error("an audit log that is no longer kept cannot be removed", "file", file, "error", err)
			break
		}
		gone++
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shelf.first, f.shelf.old = f.shelf.first+gone, slices.Clone(f.shelf.old[gone:])
}

// shot is the shelf at this moment.
func (f *File) shot() shelf {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shelf
}
