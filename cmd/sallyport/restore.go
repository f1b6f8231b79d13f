package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/durable"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/store"
)

// restoreOptions are the flags of `sallyport restore`.
type restoreOptions struct {
	File, DataDir string
	// AuditLog is the audit log of the server that was backed up, as it was
	// last: consents withdrawn since the backup are in it.
	AuditLog string
	// KeepConsents leaves everything as it was in the backup.
	KeepConsents bool
	Etcd         serverConfig // its fields for an external etcd
}

// restored is what a restore did.
type restored struct {
	Backup  manifest  `json:"backup"`
	Locked  []string  `json:"locked"`            // clusters that admit nobody until they are unlocked
	Removed []string  `json:"removed"`           // consents withdrawn since the backup
	LogTo   time.Time `json:"logUntil,omitzero"` // of the last record of the audit log consulted
}

func newRestoreCommand(c *cli) *cobra.Command {
	var o restoreOptions
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a data folder from a backup, without reviving withdrawn consent",
		Long: `Restores a backup into an empty data folder, for 'sallyport server' to start on.

Consents withdrawn after the backup was made are in it still. So every cluster
comes up locked: nobody gets in until its owner has looked at its bindings and
unlocks it. With --audit-log, the audit log of the server that was backed up
(its data folder, or audit.log with the files set aside beside it), consents
that it says were withdrawn are removed, and only clusters of which anything else
was changed since are locked. The log must be the newest there is, and must
have the backup's own record: what is not in it is not known here.

Not undone are other changes since: applications' secrets, role assignments and
keys are as they were. Change again what was changed because others had it.`,
		Example: `  sallyport restore sallyport-2026-11-27.backup --data-dir ./restored
  sallyport server --data-dir ./restored
  sallyport rolebinding list --cluster-name prod && sallyport unlock --cluster-name prod
  sallyport restore sallyport-2026-11-27.backup --data-dir ./restored --audit-log /mnt/old/sallyport-data`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.File = args[0]
			if o.KeepConsents && o.AuditLog != "" {
				return usagef("--keep-consents and --audit-log exclude each other")
			}
			done, err := restore(cmd.Context(), o, slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
			if err != nil {
				return err
			}
			return c.printRestored(o, done)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.DataDir, "data-dir", "", "folder to make; it must be empty or not there")
	f.StringVar(&o.AuditLog, "audit-log", "", "newest audit log of the server that was backed up, its file or folder")
	f.BoolVar(&o.KeepConsents, "keep-consents", false, "lock nothing: you know that no consent was withdrawn or narrowed since the backup")
	f.StringSliceVar(&o.Etcd.EtcdEndpoints, "etcd-endpoints", nil, "external etcd cluster to restore into; it must hold no records")
	f.StringVar(&o.Etcd.EtcdCA, "etcd-ca", "", "PEM file with the external etcd cluster's CA")
	f.StringVar(&o.Etcd.EtcdCert, "etcd-cert", "", "PEM file with the client certificate for etcd")
	f.StringVar(&o.Etcd.EtcdKey, "etcd-key", "", "PEM file with that certificate's key")
	if err := cmd.MarkFlagRequired("data-dir"); err != nil {
		panic(err) // the flag named above is not defined
	}
	return cmd
}

func (c *cli) printRestored(o restoreOptions, done restored) error {
	when := keyTime(done.Backup.Time)
	switch {
	case o.KeepConsents:
		c.notef("every consent is in force as it was at %s; one withdrawn since is given again", when)
	case o.AuditLog != "":
		c.notef("%d consents withdrawn between %s and the log's end, %s, were removed; %d clusters of which anything else was changed are locked", len(done.Removed), when, keyTime(done.LogTo), len(done.Locked))
	default:
		c.notef("every cluster is locked (%d), since consents withdrawn after %s are not known: look at their bindings, then 'sallyport unlock --cluster-name NAME'", len(done.Locked), when)
	}
	c.notef("secrets, role assignments and keys are as they were at %s: change again what was changed since", when)
	raw, err := json.Marshal(done)
	if err != nil {
		return err
	}
	if len(done.Locked)+len(done.Removed) == 0 && c.format == formatTable {
		_, err := fmt.Fprintf(c.stdout, "restored in %s; no cluster is locked and no consent was removed\n", o.DataDir)
		return err
	}
	rows := [][]string{{"RESTORED", "RESOURCE"}}
	for _, id := range done.Locked {
		rows = append(rows, []string{"locked", id})
	}
	for _, id := range done.Removed {
		rows = append(rows, []string{"removed", id})
	}
	return c.print(raw, rows...)
}

// restore makes the data folder. It builds it beside the one that is meant and
// gives it the name last, so that a kill leaves none that looks whole.
func restore(ctx context.Context, o restoreOptions, log *slog.Logger) (done restored, err error) {
	if err := emptyFolder(o.DataDir); err != nil {
		return done, err
	}
	f, err := os.Open(o.File)
	if err != nil {
		return done, fmt.Errorf("backup: %w", err)
	}
	defer f.Close()
	build := filepath.Clean(o.DataDir) + ".restoring"
	if err := os.Mkdir(build, 0o700); err != nil {
		return done, withHint(fmt.Errorf("restore: %w", err), "%s is left of a restore that was killed; remove it", build)
	}
	defer os.RemoveAll(build) // gone when it got its name
	if done.Backup, err = restoreFiles(f, build); err != nil {
		return done, err
	}
	if err := restoreRecords(ctx, o, f, build, log, &done); err != nil {
		return done, err
	}
	if err := os.Remove(o.DataDir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return done, fmt.Errorf("restore: %w", err)
	}
	if err := os.Rename(build, o.DataDir); err != nil {
		return done, fmt.Errorf("restore: %w", err)
	}
	return done, durable.SyncDir(filepath.Dir(filepath.Clean(o.DataDir)))
}

// restoreFiles writes the keys and the rest, and reads the whole backup before
// anything is made of it.
func restoreFiles(f io.ReadSeeker, dir string) (manifest, error) {
	return readBackup(f, func(name string, data []byte) error {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		if err := durable.Create(path, data); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		return nil
	}, func(store.Copy) error { return nil })
}

func restoreRecords(ctx context.Context, o restoreOptions, f io.ReadSeeker, dir string, log *slog.Logger, done *restored) (err error) {
	ring, err := keyring.Open(filepath.Join(dir, encryptionKeyFile))
	if err != nil {
		return err
	}
	cfg := store.Config{Dir: filepath.Join(dir, "etcd"), Keys: ring, Logger: log}
	if len(o.Etcd.EtcdEndpoints) > 0 {
		cfg.Dir, cfg.Endpoints = "", o.Etcd.EtcdEndpoints
		if cfg.TLS, err = etcdTLS(o.Etcd); err != nil {
			return err
		}
	}
	s, err := store.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if empty, err := s.Empty(ctx); err != nil || !empty {
		if err != nil {
			return err
		}
		return fmt.Errorf("the etcd at %s holds records already; nothing is ever overwritten: %w", strings.Join(o.Etcd.EtcdEndpoints, ","), access.ErrConflict)
	}
	if _, err := readBackup(f, nil, func(c store.Copy) error { return s.Import(ctx, c) }); err != nil {
		return err
	}
	since, err := withdrawnSince(ctx, o.AuditLog, done.Backup)
	if err != nil {
		return err
	}
	done.LogTo = since.until
	r := restoring{store: s, since: since, options: o, done: done}
	if err := r.consents(ctx); err != nil {
		return err
	}
	for _, kid := range since.keys {
		path := filepath.Join(dir, "keys", "signing-"+filepath.Base(kid)+".pem")
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("restore: %w", err)
		}
	}
	return r.record(dir)
}

// restoring makes what a backup held safe to serve.
type restoring struct {
	store   *store.Store
	since   withdrawn
	options restoreOptions
	done    *restored
}

// consents removes what is known to be withdrawn, and locks what may be.
func (r *restoring) consents(ctx context.Context) error {
	tokens, _, err := r.store.JoinTokens.List(ctx, "")
	if err != nil {
		return err
	}
	for _, t := range tokens { // one used since would be good again
		if err := r.store.JoinTokens.Delete(ctx, t.Key, t.Version); err != nil {
			return err
		}
	}
	if r.options.KeepConsents {
		return nil
	}
	clusters, _, err := r.store.Clusters.List(ctx, "")
	if err != nil {
		return err
	}
	for _, c := range clusters {
		if err := r.cluster(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (r *restoring) cluster(ctx context.Context, c store.Item[access.Cluster]) error {
	bindings, _, err := r.store.Bindings.List(ctx, c.Key+"/")
	if err != nil {
		return err
	}
	for _, b := range bindings {
		if !r.since.deleted[b.Value.UID] && !r.since.deleted[c.Value.UID] {
			continue
		}
		// With its tombstone, so that the agent clears the roles away.
		if _, err := r.store.Commit(ctx, r.store.Bindings.Deleting(b), r.store.Tombstones.Creating(access.Tombstone{
			Cluster: c.Value.ID, Name: b.Value.Name(), UID: b.Value.UID, Deleted: time.Now().UTC(),
		})); err != nil {
			return err
		}
		r.done.Removed = append(r.done.Removed, b.Value.ID.String())
	}
	if r.since.known && !r.since.changed[c.Key] && !r.since.changed[anyCluster] || c.Value.Policy.Locked {
		return nil
	}
	next := c.Value
	next.Policy.Locked, next.Policy.ETag = true, uuid.NewString()
	next.Policy.LockReason = fmt.Sprintf("restored from the backup of %s; consents withdrawn since may be among these, look before you unlock", keyTime(r.done.Backup.Time))
	next.Policy.Written = access.Consent{At: time.Now().UTC()}
	if _, err := r.store.Clusters.Put(ctx, next, c.Version); err != nil {
		return err
	}
	r.done.Locked = append(r.done.Locked, c.Value.ID.String())
	return nil
}

// record begins the new folder's audit log with what was done.
func (r *restoring) record(dir string) error {
	log, err := audit.Open(audit.Config{Path: filepath.Join(dir, "audit.log")})
	if err != nil {
		return err
	}
	allowed := true
	err = log.Log(audit.Record{
		Time: time.Now().UTC(), Stage: audit.Consent, ID: uuid.NewString(), Remote: "local", Action: "Sallyport.Gateway/restore/action", Allowed: &allowed,
		Detail: map[string]any{"backup": r.done.Backup.ID, "of": r.done.Backup.Time, "locked": r.done.Locked, "removed": r.done.Removed, "keepConsents": r.options.KeepConsents},
	})
	return errors.Join(err, log.Close())
}

// withdrawn is what an audit log says of the time since a backup.
type withdrawn struct {
	known   bool            // there is a log
	deleted map[string]bool // uids of bindings and clusters
	changed map[string]bool // keys of clusters of which anything else was written
	keys    []string        // ids of signing keys that were retired
	until   time.Time       // of the last record
}

// withdrawnSince reads the audit log from the backup's own record on. Without
// that record the log is not of the server that was backed up, or lacks the
// time since, and the error wraps [access.ErrInvalid].
func withdrawnSince(ctx context.Context, path string, backup manifest) (w withdrawn, err error) {
	w = withdrawn{deleted: map[string]bool{}, changed: map[string]bool{}}
	if path == "" {
		return w, nil
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, "audit.log")
	}
	found := false
	err = audit.ReadFiles(ctx, path, backup.Time.Add(-time.Minute), func(r audit.Record) error {
		if r.Time.After(w.until) {
			w.until = r.Time
		}
		if r.Stage == audit.Unreadable {
			return fmt.Errorf("%s has a line that is no record: %w", path, access.ErrInvalid)
		}
		if found { // what comes before is in the backup
			w.take(r)
		}
		found = found || r.ID == backup.ID
		return nil
	})
	if err != nil {
		return w, fmt.Errorf("--audit-log: %w", err)
	}
	if !found {
		return w, withHint(fmt.Errorf("--audit-log: %s has no record %s of this backup: %w", path, backup.ID, access.ErrInvalid),
			"it is another server's log, or its files from before were moved away; without --audit-log everything is restored locked")
	}
	w.known = true
	return w, nil
}

// take looks at one record. A delete says what went. Of other writes to a
// cluster, or below it, nobody here can say what they took away. Requests by
// POST, and agents' certificates, take nothing away.
func (w *withdrawn) take(r audit.Record) {
	if r.Stage != audit.Consent || r.Allowed == nil || !*r.Allowed {
		return
	}
	detail, _ := r.Detail.(map[string]any)
	text := func(name string) string { v, _ := detail[name].(string); return v }
	switch {
	case r.Method == "DELETE" && text("bindingUid") != "":
		w.deleted[text("bindingUid")] = true
	case r.Method == "DELETE" && text("clusterUid") != "":
		w.deleted[text("clusterUid")] = true
	case r.Action == "Sallyport.Gateway/keys/retire/action" && text("what") == keySigning:
		w.keys = append(w.keys, text("id"))
	case r.Method == "POST", r.Method == "" && r.Action != "agents/enrol":
	case r.Cluster != "":
		w.changed[strings.ToLower(r.Cluster)] = true
	default: // a source, a group or an assignment: it may be any cluster's
		w.changed[anyCluster] = true
	}
}

// anyCluster stands for all of them.
const anyCluster = "*"
