package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/durable"
	"github.com/sallyport/sallyport/internal/store"
)

// A backup is a gzipped tar: the manifest, then every file of the data folder
// that is state and not etcd's or the audit log's, then the records at one
// revision, one JSON object a line, encrypted as they are in etcd. gzip's
// checksum comes last, so that one that broke off is known as such.
const (
	backupFormat   = 1
	backupManifest = "manifest.json"
	backupFiles    = "files/"
	backupRecords  = "records.ndjson"
	backupKeyFile  = backupFiles + encryptionKeyFile
)

// encryptionKeyFile is the key file's name in the data folder and in backups.
const encryptionKeyFile = "encryption.key"

// manifest says what a backup is.
type manifest struct {
	Format   int       `json:"format"`
	ID       string    `json:"id"` // of its record in the audit log
	Time     time.Time `json:"time"`
	Version  string    `json:"version"`
	Revision int64     `json:"revision"` // of the store
	Records  int       `json:"records"`
}

// serveBackup streams a backup. Records come first, so that the keys, read
// after them, are all that they need, whatever is replaced meanwhile.
func (s *server) serveBackup(w http.ResponseWriter, r *http.Request) (err error) {
	m := manifest{Format: backupFormat, ID: uuid.NewString(), Time: time.Now().UTC(), Version: thisBuild().Version}
	if m.Revision, err = s.beginBackup(r.Context(), m.ID); err != nil {
		return err
	}
	// On disk meanwhile, since tar wants sizes first; encrypted, as in etcd.
	records, err := os.CreateTemp(s.cfg.DataDir, ".backup-*")
	if err != nil {
		return fmt.Errorf("back up: %w: %w", err, access.ErrUnavailable)
	}
	defer os.Remove(records.Name())
	defer records.Close()
	lines := json.NewEncoder(records)
	if err := s.store.Export(r.Context(), m.Revision, func(c store.Copy) error { m.Records++; return lines.Encode(c) }); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	files, err := s.stateFiles()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/gzip")
	out := gzip.NewWriter(w)
	if err := writeBackup(tar.NewWriter(out), m, files, records); err != nil {
		s.log.Error("backup broke off", "error", err)
		panic(http.ErrAbortHandler) // so that the reader sees an end that is none
	}
	return out.Close()
}

// beginBackup records a backup and returns the revision that it is of, with no
// write under way: what the audit log has before the record is in the backup,
// and what it has after it is not.
func (s *server) beginBackup(ctx context.Context, id string) (revision int64, err error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	if err := s.recordAdmin(ctx, id, "backup", nil); err != nil {
		return 0, err
	}
	return s.store.Revision(ctx)
}

// writing holds a backup off while a write is under way. It returns what ends
// that.
func (s *server) writing(r *http.Request) (done func()) {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return func() {}
	}
	s.writes.RLock()
	return s.writes.RUnlock
}

// stateFiles are the files of the data folder that a backup holds, by their
// name in it: all but etcd's, the audit log's, which grows beyond measure and
// is kept apart, and what a start makes anew.
func (s *server) stateFiles() (map[string]string, error) {
	files := map[string]string{backupKeyFile: s.ring.Path()}
	err := filepath.WalkDir(s.cfg.DataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(s.cfg.DataDir, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && name == "etcd":
			return fs.SkipDir
		case !d.Type().IsRegular(), name == encryptionKeyFile, name == "ca.crt",
			strings.HasPrefix(name, "audit"), strings.HasPrefix(d.Name(), "."):
			return nil
		}
		files[backupFiles+filepath.ToSlash(name)] = path
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("back up the data folder: %w: %w", err, access.ErrUnavailable)
	}
	return files, nil
}

func writeBackup(out *tar.Writer, m manifest, files map[string]string, records *os.File) error {
	add := func(name string, data []byte) error {
		err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), ModTime: m.Time})
		if err == nil {
			_, err = out.Write(data)
		}
		return err
	}
	head, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := add(backupManifest, head); err != nil {
		return err
	}
	for name, path := range files {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a key that was retired since the folder was listed
		}
		if err != nil {
			return err
		}
		if err := add(name, data); err != nil {
			return err
		}
	}
	size, err := records.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := records.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := out.WriteHeader(&tar.Header{Name: backupRecords, Mode: 0o600, Size: size, ModTime: m.Time}); err != nil {
		return err
	}
	if _, err := io.Copy(out, records); err != nil {
		return err
	}
	return out.Close()
}

func newBackupCommand(c *cli) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write all that a running server keeps into one file",
		Long: `Writes a backup of a running server, which goes on meanwhile: all records as
they were at one moment, and the keys, the CA and the operator's credential. The
audit log is not in it; copy its files apart, and often: with the log at hand a
restore knows which consents were withdrawn since the backup.

FILE is as secret as the data folder: whoever reads it can act as the server.
It is written with mode 0600 and is not encrypted as a whole.`,
		Example: `  sallyport backup /secure/sallyport-$(date +%F).backup --data-dir /var/lib/sallyport
  sallyport restore /secure/sallyport-2026-11-27.backup --data-dir ./restored`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkWritable(args[0], false); err != nil {
				return err
			}
			m, size, err := newAdmin(dir).backup(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			c.notef("%s holds this server's keys and its operator's credential: whoever reads it can act as the server; keep it as you keep those", args[0])
			raw, err := json.Marshal(m)
			if err != nil {
				return err
			}
			return c.print(raw, []string{"FILE", "TIME", "RECORDS", "BYTES"}, []string{args[0], keyTime(m.Time), fmt.Sprint(m.Records), fmt.Sprint(size)})
		},
	}
	dataDirFlag(cmd, &dir)
	return cmd
}

// backup fetches a backup into a file, which is there whole or not at all, and
// reads it back: a backup that nobody has read is none.
func (a admin) backup(ctx context.Context, path string) (m manifest, size int64, err error) {
	resp, err := a.do(ctx, http.MethodGet, "/v1/backup", nil)
	if err != nil {
		return m, 0, err
	}
	defer resp.Body.Close()
	f, err := os.CreateTemp(filepath.Dir(path), ".backup-*") // mode 0600
	if err != nil {
		return m, 0, fmt.Errorf("write backup: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if size, err = io.Copy(f, resp.Body); err != nil {
		return m, 0, fmt.Errorf("write backup %s (is there space?): %w: %w", path, err, access.ErrUnavailable)
	}
	if err := f.Sync(); err != nil {
		return m, 0, fmt.Errorf("write backup %s: %w: %w", path, err, access.ErrUnavailable)
	}
	if m, err = readBackup(f, nil, func(store.Copy) error { return nil }); err != nil {
		return m, 0, err
	}
	if err := os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		return m, 0, errExists(path)
	} else if err != nil {
		return m, 0, fmt.Errorf("write backup: %w", err)
	}
	return m, size, durable.SyncDir(filepath.Dir(path))
}

// readBackup reads a backup from its start to its checksum. It hands files,
// by their name below the data folder, and then records to who wants them. The
// error wraps [access.ErrInvalid] for what is no whole backup.
func readBackup(f io.ReadSeeker, file func(name string, data []byte) error, record func(store.Copy) error) (m manifest, err error) {
	broken := func(why any) error {
		return fmt.Errorf("the backup is not whole, or none of this program: %v: %w", why, access.ErrInvalid)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return m, broken(err)
	}
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return m, broken(err)
	}
	in := tar.NewReader(unzipped)
	records := 0
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return m, broken(err)
		}
		switch name, isFile := strings.CutPrefix(h.Name, backupFiles); {
		case h.Name == backupManifest:
			if err := json.NewDecoder(in).Decode(&m); err != nil || m.Format != backupFormat {
				return m, broken(fmt.Sprintf("format %d, want %d (%v)", m.Format, backupFormat, err))
			}
		case isFile && filepath.IsLocal(name) && h.Size <= maxBackupFile:
			data, err := io.ReadAll(in)
			if err != nil {
				return m, broken(err)
			}
			if file != nil {
				if err := file(name, data); err != nil {
					return m, err
				}
			}
		case h.Name == backupRecords:
			lines := json.NewDecoder(in)
			for lines.More() {
				var c store.Copy
				if err := lines.Decode(&c); err != nil {
					return m, broken(err)
				}
				if err := record(c); err != nil {
					return m, err
				}
				records++
			}
		default:
			return m, broken(fmt.Sprintf("it holds %q", access.Clip(h.Name, 100)))
		}
	}
	if _, err := io.Copy(io.Discard, unzipped); err != nil { // the checksum
		return m, broken(err)
	}
	if m.Format == 0 || records != m.Records {
		return m, broken(fmt.Sprintf("%d records, want %d", records, m.Records))
	}
	return m, nil
}

// maxBackupFile is more than any file of state has.
const maxBackupFile = 16 << 20

// emptyFolder refuses a folder in which there is anything.
func emptyFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("data folder: %w", err)
	}
	if len(entries) > 0 {
		names := make([]string, 0, 3)
		for _, e := range entries[:min(len(entries), 3)] {
			names = append(names, e.Name())
		}
		slices.Sort(names)
		return withHint(fmt.Errorf("folder %s is not empty (%s): %w", dir, strings.Join(names, ", "), access.ErrConflict),
			"restore into a new folder with --data-dir; nothing is ever overwritten")
	}
	return nil
}
