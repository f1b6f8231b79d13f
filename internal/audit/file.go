package audit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/access"
)

// Config says where records go, and how long they stay.
type Config struct {
	// Path is the file that records are appended to. Files set aside stay
	// beside it, as NAME-TIME.EXT.
	Path string
	// MaxSize, in bytes, is what a file may grow to before it is set aside; 0
	// for no limit.
	MaxSize int64
	// MaxAge is how old the first record of a file may grow before the file is
	// set aside; 0 for no limit.
	MaxAge time.Duration
	// Keep is how long a file that was set aside stays; 0 for ever.
	Keep time.Duration
	// Logger hears of what went wrong beside the records; default: discarded.
	Logger *slog.Logger
	// Now is the clock; default [time.Now].
	Now func() time.Time
}

// File appends records to a file, sets it aside when it is full or old, and
// reads them back. It is safe for concurrent use.
type File struct {
	cfg  Config
	stop chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	out     *os.File // nil after a rotation that could not make the next file
	shelf   shelf
	begun   time.Time // of the first record in out; zero while there is none
	torn    int       // bytes at the end of out that are no whole line
	dirty   bool      // out may hold what is not on disk
	unsaved error     // why the last sync failed; the next record is refused with it
	readers map[chan struct{}]bool

	failing atomic.Bool // the last record could not be written, and Logger knows
}

// Open opens or creates the file with mode 0600. A torn last line, left by a
// kill in the middle of a write, is cut off: its record was never acknowledged,
// and the request it was for went no further.
func Open(cfg Config) (*File, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	f := &File{cfg: cfg, stop: make(chan struct{}), readers: map[chan struct{}]bool{}}
	err := f.open()
	if err == nil {
		f.shelf.old, err = setAside(cfg.Path)
	}
	if err != nil {
		if f.out != nil {
			f.out.Close()
		}
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	f.done.Go(f.keepHouse)
	return f, nil
}

// open opens or creates the current file, and learns what is in it.
func (f *File) open() error {
	out, err := os.OpenFile(f.cfg.Path, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	// An older file may have been made with another mode.
	if err := out.Chmod(0o600); err != nil {
		out.Close()
		return err
	}
	size, err := cutTornLine(out)
	if err != nil {
		out.Close()
		return fmt.Errorf("%s: %w", f.cfg.Path, err)
	}
	f.out, f.shelf.size, f.begun, f.torn = out, size, time.Time{}, 0
	if size > 0 {
		f.begun = f.firstTime(out)
	}
	return nil
}

// maxLine is more than any record has, in bytes: each of its fields is bounded.
const maxLine = 1 << 20

func cutTornLine(out *os.File) (size int64, err error) {
	end, err := out.Seek(0, io.SeekEnd)
	if err == nil {
		size, err = wholeLines(out)
	}
	if err != nil || size == end {
		return size, err
	}
	return size, out.Truncate(size)
}

// wholeLines is how many bytes a file has up to the end of its last whole line.
func wholeLines(file *os.File) (size int64, err error) {
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return 0, err
	}
	tail := make([]byte, min(end, maxLine))
	if _, err := file.ReadAt(tail, end-int64(len(tail))); err != nil {
		return 0, err
	}
	last := bytes.LastIndexByte(tail, '\n')
	if last < 0 && end > int64(len(tail)) {
		return 0, fmt.Errorf("not a log of lines: none ends in its last %d bytes", len(tail))
	}
	return end - int64(len(tail)-1-last), nil
}

// firstTime is when the file began. Without a record that says so it is now.
func (f *File) firstTime(file io.ReaderAt) time.Time {
	for line := range forward(file, 0, maxLine) {
		if r := decode(line); !r.Time.IsZero() {
			return r.Time
		}
		break
	}
	return f.cfg.Now()
}

// errNotRecorded is what those are told who are refused for it. The cause names
// a path of ours, and is for the log.
var errNotRecorded = fmt.Errorf("audit record not written, and what is not recorded is refused; the server's log says why: %w", access.ErrUnavailable)

// Log writes one record as one line. The error wraps [access.ErrUnavailable],
// and then the record may not be there: the request must be refused. Its cause
// is told to the logger, once until records can be written again.
func (f *File) Log(r Record) error {
	var line bytes.Buffer
	enc := json.NewEncoder(&line) // ends the line
	enc.SetEscapeHTML(false)      // or one byte of a client's would become six
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("encode audit record: %w: %w", err, access.ErrUnavailable)
	}
	out, err := f.append(line.Bytes())
	if err == nil && r.Stage == Consent && r.Allowed != nil && *r.Allowed {
		err = save(out) // the deed will be on disk, and so must its record
	}
	f.tell(err)
	if err != nil {
		return errNotRecorded
	}
	return nil
}

// tell logs that records cannot be written, or can again, when that is news.
func (f *File) tell(err error) {
	failing := err != nil
	switch {
	case f.failing.Load() == failing || !f.failing.CompareAndSwap(!failing, failing):
	case failing:
		f.cfg.Logger.Error("audit records cannot be written; all that cannot be recorded is refused", "error", err, "hint", advice(err))
	default:
		f.cfg.Logger.Info("audit records are written again")
	}
}

// advice says what to do about a disk that takes no records.
func advice(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "free space on the audit log's disk; files set aside may be moved away"
	case errors.Is(err, syscall.EROFS):
		return "the audit log's disk is read-only: look in the kernel's log why, stop the server, mend the disk, mount it for writing and start again"
	}
	return "look after the audit log's disk"
}

// append writes one line and returns the file it is in.
func (f *File) append(line []byte) (*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.ready(int64(len(line))); err != nil {
		return nil, err
	}
	n, err := f.out.Write(line)
	if err != nil {
		f.torn = n
		_ = f.undo() // or the next record is refused, or the next Open does it
		return nil, err
	}
	if f.begun.IsZero() {
		f.begun = f.cfg.Now()
	}
	f.shelf.size += int64(n)
	f.dirty = true
	for wake := range f.readers {
		select {
		case wake <- struct{}{}:
		default: // it is awake
		}
	}
	return f.out, nil
}

// ready makes out a file that may take a line of n bytes. It is called with
// the lock held.
func (f *File) ready(n int64) error {
	if f.closed {
		return os.ErrClosed
	}
	if err := f.unsaved; err != nil {
		f.unsaved = nil // said once: what is written from now on is synced anew
		return fmt.Errorf("earlier records did not reach the disk: %w", err)
	}
	if err := f.undo(); err != nil {
		return err
	}
	if f.due(n) {
		if err := f.rotate(); err != nil {
			return err
		}
	}
	if f.out == nil {
		return f.next()
	}
	return nil
}

// undo takes back a line that could not be written whole, so that it does not
// swallow the next one.
func (f *File) undo() error {
	if f.torn == 0 {
		return nil
	}
	end, err := f.out.Seek(0, io.SeekEnd)
	if err == nil {
		err = f.out.Truncate(end - int64(f.torn))
	}
	if err != nil {
		return fmt.Errorf("a torn line cannot be taken back: %w", err)
	}
	f.torn = 0
	return nil
}

// save brings what was written to out to the disk. A file that is closed was
// synced by who closed it.
func save(out *os.File) error {
	if err := out.Sync(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// syncEvery is how long a record of a request may be in memory only.
const syncEvery = time.Second

// keepHouse syncs, sets old files aside and removes those that are no longer
// kept, until Close.
func (f *File) keepHouse() {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for pruned := (time.Time{}); ; {
		if now := f.cfg.Now(); now.Sub(pruned) > time.Hour {
			pruned = now
			f.prune(now)
		}
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
		if err := f.syncCurrent(); err != nil {
			f.cfg.Logger.Error("audit log not synced", "error", err)
		}
	}
}

// syncCurrent syncs what was written since the last time, without the lock, and
// sets a file aside that has grown too old.
func (f *File) syncCurrent() error {
	f.mu.Lock()
	out, dirty := f.out, f.dirty
	f.dirty = false
	var err error
	if f.due(0) && !f.closed {
		err = f.rotate()
	}
	f.mu.Unlock()
	if !dirty || out == nil || err != nil {
		return err
	}
	if err = save(out); err != nil {
		f.mu.Lock()
		f.unsaved = err
		f.mu.Unlock()
	}
	return err
}

// Close syncs and closes the file; later records fail, and readers that follow
// end.
func (f *File) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return fmt.Errorf("close audit log: %w", os.ErrClosed)
	}
	f.closed = true
	for wake := range f.readers {
		close(wake)
	}
	clear(f.readers)
	var err error
	if f.out != nil {
		err = errors.Join(f.out.Sync(), f.out.Close())
	}
	f.mu.Unlock()
	close(f.stop)
	f.done.Wait()
	return err
}
