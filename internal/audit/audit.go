package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
)

// Stage tells which record of a request a line is.
type Stage string

// A request through the gateway has a decision before anything is forwarded
// and, if it was allowed, a completion under the same id. A write of consent
// has one record. A revocation has one when live requests were cut.
const (
	Decision Stage = "decision"
	Complete Stage = "complete"
	Consent  Stage = "consent"
	Revoked  Stage = "revoked"
)

// Record is one line. Empty fields are left out.
type Record struct {
	Time  time.Time `json:"time"`
	Stage Stage     `json:"stage"`
	ID    string    `json:"id"` // also the Audit-ID that kube-apiserver records

	// Who.
	TenantID string `json:"tenantId,omitempty"`
	ObjectID string `json:"objectId,omitempty"`
	Source   string `json:"source,omitempty"`
	Remote   string `json:"remote,omitempty"` // address of the connection

	// What.
	Cluster    string `json:"cluster,omitempty"`
	Binding    string `json:"binding,omitempty"`
	BindingUID string `json:"bindingUid,omitempty"`
	Method     string `json:"method,omitempty"`
	Path       string `json:"path,omitempty"` // without query
	Action     string `json:"action,omitempty"`
	Detail     any    `json:"detail,omitempty"`

	// Outcome.
	Allowed  *bool         `json:"allowed,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Status   int           `json:"status,omitempty"`
	Bytes    int64         `json:"bytes,omitempty"` // of the response body, or both ways of an upgraded stream
	Duration time.Duration `json:"durationNs,omitempty"`
	Cut      int           `json:"cut,omitempty"` // live requests that were ended
	// Skipped counts refusals of callers without an identity that were not
	// recorded before this one, because there were too many in a second.
	Skipped int `json:"skipped,omitempty"`
}

// Log records one line; an error means that it may not have been written.
type Log func(Record) error

// File appends records to one file.
type File struct {
	mu  sync.Mutex
	out *os.File
}

// Open opens or creates the file at path with mode 0600. A torn last line,
// left by a kill in the middle of a write, is cut off: its record was never
// acknowledged, and the request it was for went no further.
func Open(path string) (*File, error) {
	out, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	f := &File{out: out}
	// An older file may have been made with another mode.
	if err := out.Chmod(0o600); err != nil {
		out.Close()
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	if err := f.cutTornLine(); err != nil {
		out.Close()
		return nil, fmt.Errorf("open audit log %s: %w", path, err)
	}
	return f, nil
}

func (f *File) cutTornLine() error {
	end, err := f.out.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return err
	}
	// No record is nearly as long: each of its fields is bounded.
	tail := make([]byte, min(end, 1<<20))
	if _, err := f.out.ReadAt(tail, end-int64(len(tail))); err != nil {
		return err
	}
	last := bytes.LastIndexByte(tail, '\n')
	if last < 0 && end > int64(len(tail)) {
		return fmt.Errorf("not a log of lines: none ends in its last %d bytes", len(tail))
	}
	torn := len(tail) - 1 - last
	if torn == 0 {
		return nil
	}
	return f.out.Truncate(end - int64(torn))
}

// Log writes one record as one line. The error wraps [access.ErrUnavailable].
func (f *File) Log(r Record) error {
	var line bytes.Buffer
	enc := json.NewEncoder(&line) // ends the line
	enc.SetEscapeHTML(false)      // or one byte of a client's would become six
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("encode audit record: %w: %w", err, access.ErrUnavailable)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n, err := f.out.Write(line.Bytes()); err != nil {
		f.undo(n)
		return fmt.Errorf("audit record not written (%w): free space on the audit log's disk: %w", err, access.ErrUnavailable)
	}
	return nil
}

// undo takes back the n bytes of a line that could not be written whole, so
// that they do not swallow the next one. If that fails too, the next Open does.
func (f *File) undo(n int) {
	if end, err := f.out.Seek(0, io.SeekEnd); err == nil && n > 0 {
		_ = f.out.Truncate(end - int64(n))
	}
}

// Close closes the file; later records fail.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.Close()
}
