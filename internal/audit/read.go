package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
)

// Unreadable is the stage of a line that is no record. No writer of ours leaves
// one; whoever reads should know that something did.
const Unreadable Stage = "unreadable"

// Query says which records [File.Tail] gives.
type Query struct {
	// Last is how many of the newest requests to begin with; records of one id
	// are one request. 0 for none.
	Last int
	// Since leaves out what is older; zero for nothing.
	Since time.Time
	// Match leaves out what it reports false of. Nil matches every record.
	Match func(Record) bool
	// Follow goes on with the records that come, until the context ends.
	Follow bool
}

// maxScan bounds the reading of files that were written before.
const maxScan = 30 * time.Second

var errScan = fmt.Errorf("not all of the audit log could be read within %s", maxScan)

// maxReaders bounds those who follow: each record wakes all of them.
const maxReaders = 64

// Tail gives the newest records, oldest first, and with Follow those that come.
// It never makes a writer wait. It ends with an error that wraps
// [access.ErrUnavailable], or without one: when all was given, when ctx ended
// while it followed, or with the file.
func (f *File) Tail(ctx context.Context, q Query) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		var wake chan struct{}
		if q.Follow {
			var err error
			if wake, err = f.join(); err != nil {
				yield(Record{}, err)
				return
			}
			defer f.leave(wake)
		}
		at := f.shot()
		limited, cancel := context.WithTimeoutCause(ctx, maxScan, errScan)
		found, err := f.backlog(limited, q, at)
		cancel()
		if err != nil {
			yield(Record{}, fmt.Errorf("read the audit log: %w: %w", err, access.ErrUnavailable))
			return
		}
		for _, r := range found {
			if !yield(r, nil) {
				return
			}
		}
		if q.Follow {
			f.follow(ctx, q, at, wake, yield)
		}
	}
}

// disorder bounds how far a record's time may lie before that of one written
// earlier: it was made before it waited for its turn.
const disorder = time.Minute

// backlog reads the newest records of the files there were at a moment.
func (f *File) backlog(ctx context.Context, q Query, at shelf) ([]Record, error) {
	var found []Record
	ids := map[string]bool{}
	for n := at.current(); n >= at.first && q.Last > 0; n-- {
		if n < at.current() {
			aside, _ := nameTime(filepath.Clean(f.cfg.Path), at.old[n-at.first])
			if aside.Before(q.Since.Add(-disorder)) {
				break // as all in it is
			}
		}
		more, err := f.backlogOf(ctx, q, n, at, func(r Record) bool {
			if !ids[r.ID] && len(ids) == q.Last {
				return false
			}
			ids[r.ID] = true
			found = append(found, r)
			return true
		})
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
	}
	slices.Reverse(found)
	return found, nil
}

// backlogOf takes the records of file n from its end, and reports whether
// older files may have more.
func (f *File) backlogOf(ctx context.Context, q Query, n int, at shelf, take func(Record) bool) (more bool, err error) {
	file, size, err := f.openFile(n)
	if err != nil || file == nil {
		return true, err
	}
	defer file.Close()
	if n == at.current() {
		size = at.size // what came since is for who follows
	}
	for line, err := range backward(file, size) {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return false, fmt.Errorf("%s: %w", file.Name(), err)
		}
		r := decode(line)
		switch {
		case r.Time.Before(q.Since.Add(-disorder)) && r.Stage != Unreadable:
			return false, nil
		case r.Time.Before(q.Since), q.Match != nil && !q.Match(r):
		case !take(r):
			return false, nil
		}
	}
	return true, nil
}

// follow gives what was written after a moment, file by file.
func (f *File) follow(ctx context.Context, q Query, from shelf, wake <-chan struct{}, yield func(Record, error) bool) {
	n, offset := from.current(), from.size
	for {
		now := f.shot() // before the file is read: what it says is complete is
		file, size, err := f.openFile(n)
		if err != nil {
			yield(Record{}, fmt.Errorf("follow the audit log: %w: %w", err, access.ErrUnavailable))
			return
		}
		if file != nil {
			more := f.give(ctx, q, file, offset, size, yield)
			file.Close()
			if !more {
				return
			}
		}
		if n < now.current() {
			n, offset = n+1, 0
			continue
		}
		offset = max(offset, size)
		select {
		case _, open := <-wake:
			if !open {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (f *File) give(ctx context.Context, q Query, file *os.File, offset, size int64, yield func(Record, error) bool) bool {
	for line, err := range forward(file, offset, size) {
		if err != nil {
			yield(Record{}, fmt.Errorf("follow the audit log: %w: %w", err, access.ErrUnavailable))
			return false
		}
		r := decode(line)
		if ctx.Err() != nil || (q.Match == nil || q.Match(r)) && !yield(r, nil) {
			return false
		}
	}
	return true
}

// Find returns the records with an id, oldest first. It reads the newest files
// first, and none that is older than the decision. The error wraps
// [access.ErrNotFound], [access.ErrInvalid], or, when ctx ended first,
// [access.ErrUnavailable].
func (f *File) Find(ctx context.Context, id string) ([]Record, error) {
	if !access.IsGUID(id) {
		return nil, fmt.Errorf("request id %q is not a GUID: %w", access.Clip(id, 64), access.ErrInvalid)
	}
	id = strings.ToLower(id) // as ids are minted
	ctx, cancel := context.WithTimeoutCause(ctx, maxScan, errScan)
	defer cancel()
	var found []Record
	at := f.shot()
	for n := at.current(); n >= at.first; n-- {
		records, err := f.findIn(ctx, n, id)
		if err != nil {
			return nil, fmt.Errorf("find %s in the audit log: %w: %w", id, err, access.ErrUnavailable)
		}
		found = append(records, found...)
		// A completion may come days after its decision, anything else follows
		// at once.
		if slices.ContainsFunc(records, func(r Record) bool { return r.Stage != Complete }) {
			break
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no request %s in the audit log: %w", id, access.ErrNotFound)
	}
	return found, nil
}

func (f *File) findIn(ctx context.Context, n int, id string) (found []Record, err error) {
	file, size, err := f.openFile(n)
	if err != nil || file == nil {
		return nil, err
	}
	defer file.Close()
	for line, err := range forward(file, 0, size) {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file.Name(), err)
		}
		if !bytes.Contains(line, []byte(id)) {
			continue
		}
		if r := decode(line); r.ID == id {
			found = append(found, r)
		}
	}
	return found, nil
}

// openFile opens file n to read, and says how many bytes of it are whole lines.
// It is nil when there is none: not any more, or not yet.
func (f *File) openFile(n int) (*os.File, int64, error) {
	for {
		at := f.shot()
		path := f.cfg.Path
		switch {
		case n < at.first || n > at.current():
			return nil, 0, nil
		case n < at.current():
			path = at.old[n-at.first]
		}
		file, err := os.Open(path)
		if n == at.current() && f.shot().current() != n {
			if err == nil {
				file.Close() // it was set aside meanwhile, and this may be the next one
			}
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, 0, nil
		}
		if err != nil || n == at.current() {
			return file, at.size, err
		}
		info, err := file.Stat()
		if err != nil {
			file.Close()
			return nil, 0, err
		}
		return file, info.Size(), nil
	}
}

// join makes a channel that each record wakes, and that is closed with the file.
func (f *File) join() (chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, fmt.Errorf("follow the audit log: %w: %w", os.ErrClosed, access.ErrUnavailable)
	}
	if len(f.readers) >= maxReaders {
		return nil, fmt.Errorf("%d readers follow the audit log, and more are not served: %w", maxReaders, access.ErrUnavailable)
	}
	wake := make(chan struct{}, 1)
	f.readers[wake] = true
	return wake, nil
}

func (f *File) leave(wake chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.readers, wake)
}

func decode(line []byte) Record {
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		return Record{Stage: Unreadable, Reason: fmt.Sprintf("a line of %d bytes is no record: %v", len(line), err)}
	}
	return r
}

// forward gives the lines between two offsets, which both lie at the end of
// one. A line is good until the next one is asked for.
func forward(r io.ReaderAt, from, to int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		lines := bufio.NewScanner(io.NewSectionReader(r, from, to-from))
		lines.Buffer(make([]byte, 64<<10), maxLine)
		for lines.Scan() {
			if !yield(lines.Bytes(), nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(nil, err)
		}
	}
}

// block is what backward reads at a time, in bytes.
const block = 64 << 10

// backward gives the lines of the first size bytes, last line first.
func backward(r io.ReaderAt, size int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var rest []byte // of a line whose beginning was not read yet
		for end := size; end > 0; {
			n := min(end, block)
			buf := make([]byte, int(n)+len(rest))
			copy(buf[n:], rest)
			if _, err := r.ReadAt(buf[:n], end-n); err != nil {
				yield(nil, err)
				return
			}
			if end == size {
				buf = bytes.TrimSuffix(buf, []byte("\n"))
			}
			end -= n
			for i := bytes.LastIndexByte(buf, '\n'); i >= 0; i = bytes.LastIndexByte(buf, '\n') {
				if !yield(buf[i+1:], nil) {
					return
				}
				buf = buf[:i]
			}
			if rest = buf; len(rest) > maxLine {
				yield(nil, fmt.Errorf("not a log of lines: one has more than %d bytes", maxLine))
				return
			}
		}
		if size > 0 {
			yield(rest, nil)
		}
	}
}

// ReadFiles reads the records of a log that nobody writes any more: of the file
// at path and of those set aside beside it, oldest first. Files set aside
// before since are left out, and so is a torn last line, whose record was never
// acknowledged. Any other line that is no record comes as one of stage
// [Unreadable]. It ends with f's error, or with one that wraps
// [access.ErrUnavailable].
func ReadFiles(ctx context.Context, path string, since time.Time, f func(Record) error) error {
	path = filepath.Clean(path)
	aside, err := setAside(path)
	if err != nil {
		return fmt.Errorf("read the audit log: %w: %w", err, access.ErrUnavailable)
	}
	var names []string
	for _, name := range aside {
		if at, _ := nameTime(path, name); !at.Before(since) {
			names = append(names, name)
		}
	}
	for _, name := range append(names, path) {
		file, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("read the audit log: %w: %w", err, access.ErrUnavailable)
		}
		err = readFile(ctx, file, f)
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return nil
}

func readFile(ctx context.Context, file *os.File, f func(Record) error) error {
	size, err := wholeLines(file)
	if err != nil {
		return fmt.Errorf("read the audit log: %w: %w", err, access.ErrUnavailable)
	}
	for line, err := range forward(file, 0, size) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read the audit log: %w: %w", err, access.ErrUnavailable)
		}
		if err := f(decode(line)); err != nil {
			return err
		}
	}
	return nil
}
