package audit

import (
	"fmt"
	"os"

	"github.com/sallyport/sallyport/access"
)

// Writable reports whether records can be written in this folder, before one
// has to be: it writes a file of a few records' size there and removes it. The
// error wraps [access.ErrUnavailable].
func Writable(dir string) error {
	probe, err := os.CreateTemp(dir, ".writable-*") // mode 0600
	if err != nil {
		return fmt.Errorf("audit log's folder: %w (%s): %w", err, advice(err), access.ErrUnavailable)
	}
	defer os.Remove(probe.Name())
	_, err = probe.Write(make([]byte, 16<<10))
	if closeErr := probe.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("audit log's folder: %w (%s): %w", err, advice(err), access.ErrUnavailable)
	}
	return nil
}
