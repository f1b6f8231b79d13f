package addresses

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"
)

// OpenServiceTags reads the service-tag file at path, which [Tags.Follow] then
// follows. The error wraps [access.ErrInvalid] or is that of package os.
func OpenServiceTags(path string) (*Tags, error) {
	t := &Tags{path: path}
	if _, err := t.reload(); err != nil {
		return nil, err
	}
	return t, nil
}

// Follow reads the file again whenever it has changed, looking every so often,
// until ctx ends; it returns the cause. It looks instead of waiting for a
// signal or for the file system, because that also works for a file that
// another machine or a Kubernetes volume replaces. A file that is gone or wrong
// is logged and tried again, and the tags stay as they are.
func (t *Tags) Follow(ctx context.Context, every time.Duration, log *slog.Logger) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	said := "" // the last failure, which is not logged at every look
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		changed, err := t.reload()
		switch {
		case err != nil && err.Error() != said:
			said = err.Error()
			log.Error("service tags not read again, the earlier ones stay in force", "error", err)
		case changed:
			said = ""
			log.Info("service tags read again", "file", t.path, "tags", len(*t.table.Load()))
		}
	}
}

// reload reads the file if it is not the one in force.
func (t *Tags) reload() (changed bool, err error) {
	// Looked at before it is read: what changes meanwhile is seen next time.
	now, err := os.Stat(t.path)
	if err != nil {
		return false, fmt.Errorf("service tags: %w", err)
	}
	if t.seen != nil && os.SameFile(t.seen, now) && t.seen.ModTime().Equal(now.ModTime()) && t.seen.Size() == now.Size() {
		return false, nil
	}
	file, err := os.Open(t.path)
	if err != nil {
		return false, fmt.Errorf("service tags: %w", err)
	}
	defer file.Close()
	table, err := parseTags(file)
	if err != nil {
		return false, fmt.Errorf("%s: %w", t.path, err)
	}
	t.table.Store(&table)
	t.seen = now
	return true, nil
}
