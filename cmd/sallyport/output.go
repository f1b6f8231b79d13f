package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/durable"
)

// format is the value of -o.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
	formatID    format = "id"
)

// String, Set and Type make format a flag.
func (f *format) String() string { return string(*f) }

// Set refuses an unknown format.
func (f *format) Set(s string) error {
	switch v := format(s); v {
	case formatTable, formatJSON, formatYAML, formatID:
		*f = v
		return nil
	}
	return fmt.Errorf("must be table, json, yaml or id")
}

// Type names the value in help.
func (f *format) Type() string { return "format" }

// print writes a body as the server wrote it, its id alone, or rows as an aligned table, the
// first of which is the heading.
func (c *cli) print(body json.RawMessage, rows ...[]string) error {
	switch c.format {
	case formatJSON:
		var out bytes.Buffer
		if err := json.Indent(&out, body, "", "  "); err != nil {
			return fmt.Errorf("print: %w", err)
		}
		out.WriteByte('\n')
		_, err := out.WriteTo(c.stdout)
		return err
	case formatYAML:
		out, err := yaml.JSONToYAML(body)
		if err != nil {
			return fmt.Errorf("print: %w", err)
		}
		_, err = c.stdout.Write(out)
		return err
	case formatID:
		return c.printIDs(body)
	}
	return table(c.stdout, rows)
}

// printIDs writes the id of a body, or of each in a list, for scripts.
func (c *cli) printIDs(body json.RawMessage) error {
	type identified struct {
		ID string `json:"id"`
	}
	var one struct {
		identified
		Value []identified `json:"value"`
	}
	if err := json.Unmarshal(body, &one); err != nil || one.ID == "" && one.Value == nil {
		return usagef("-o id: what this command prints has no id; use json")
	}
	all := one.Value
	if one.ID != "" {
		all = []identified{one.identified}
	}
	for _, item := range all {
		if _, err := fmt.Fprintln(c.stdout, printable(item.ID)); err != nil {
			return err
		}
	}
	return nil
}

func table(w io.Writer, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = strings.NewReplacer("\n", " ", "\t", " ").Replace(printable(cell))
			if cell == "" {
				row[i] = "-"
			}
		}
		if _, err := fmt.Fprintln(tw, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// listBody is ARM's body of a list, whatever pages it came in.
func listBody[T any](items []T, raw func(T) json.RawMessage) json.RawMessage {
	values := make([]json.RawMessage, len(items))
	for i, item := range items {
		values[i] = raw(item)
	}
	body, err := json.Marshal(map[string][]json.RawMessage{"value": values})
	if err != nil {
		return nil // cannot be: each was decoded from JSON
	}
	return body
}

// shellQuote writes a word so that a POSIX shell reads it back as it is.
func shellQuote(s string) string {
	safe := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_./:=@%+,", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// checkWritable refuses a file that exists, unless the user said to replace it.
func checkWritable(path string, overwrite bool) error {
	if _, err := os.Lstat(path); err == nil && !overwrite {
		return errExists(path)
	}
	return nil
}

func errExists(path string) error {
	return withHint(fmt.Errorf("file %s exists already: %w", path, access.ErrConflict), "add --overwrite to replace it")
}

// writePrivate writes a file that only its owner may read.
func writePrivate(path string, data []byte, overwrite bool) error {
	if overwrite {
		return durable.Replace(path, data)
	}
	err := durable.Create(path, data)
	if errors.Is(err, fs.ErrExist) {
		return errExists(path)
	}
	return err
}

// maxSecret bounds a file that holds a secret, in bytes.
const maxSecret = 1 << 20

// readSecret reads a private file, or stdin for "-".
func (c *cli) readSecret(path string) ([]byte, error) {
	if path == "-" {
		return readBounded(c.stdin, "stdin")
	}
	return readPrivate(path)
}

func readBounded(r io.Reader, name string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSecret+1))
	if err == nil && len(data) > maxSecret {
		err = fmt.Errorf("%s is larger than %d bytes: %w", name, maxSecret, access.ErrInvalid)
	}
	return data, err
}

// readPrivate reads a file that holds a secret, and refuses one that everybody
// may read or change. A group may: that is how secrets are mounted.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, withHint(fmt.Errorf("%s has mode %#o, so that everybody on this machine may use its secret: %w", path, info.Mode().Perm(), access.ErrInvalid), "chmod 600 %s", shellQuote(path))
	}
	return readBounded(f, path)
}
