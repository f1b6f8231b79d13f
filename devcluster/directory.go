package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// The files that devcluster keeps in its folder. README.md says which of them
// are for the user.
const (
	lockFile          = "lock"
	kubeconfigFile    = "kubeconfig"
	auditLogFile      = "audit.log"
	auditPolicyFile   = "audit-policy.yaml"
	apiServerLogFile  = "apiserver.log"
	etcdLogFile       = "etcd.log"
	etcdDataDir       = "etcd"
	etcdSocketFile    = "etcd.sock"
	serviceAccountKey = "service-account.key"
	servingCAName     = "ca"                       // .crt, .key
	clientCAName      = "client-ca"                // .crt, .key
	frontProxyCAName  = "front-proxy-ca"           // .crt, .key
	servingName       = "apiserver"                // .crt, .key
	frontProxyName    = "front-proxy-client"       // .crt, .key
	kubeletClientName = "apiserver-kubelet-client" // .crt, .key
	podsDir           = "pods"
)

// A directory is a folder that this process has locked for itself.
type directory struct {
	path string
	lock *os.File
}

// openDirectory makes the folder if needed and locks it. A second devcluster
// on the same folder is refused here, at once: two would hang on etcd's lock
// and overwrite each other's certificates.
func openDirectory(path string) (*directory, error) {
	// The path ends up in URLs, flags and the kubeconfig.
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("finding the folder %s: %w", path, err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder: %w", err)
	}
	// The folder's mode is about to be narrowed, which would be a disaster for
	// /tmp or a home folder given by mistake.
	if err := checkOurs(path); err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder private: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock file: %w", err)
	}
	// The kernel drops this lock when the process ends, however it ends.
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errors.New("another devcluster is using it")
		}
		return nil, &hintError{err: fmt.Errorf("locking %s: %w", path, err), hint: "stop that devcluster first, or give another --dir"}
	}
	return &directory{path: path, lock: lock}, nil
}

// checkOurs refuses a folder with files in it none of which is our lock.
func checkOurs(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("reading the folder: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() == lockFile {
			return nil
		}
	}
	if len(entries) == 0 {
		return nil
	}
	return &hintError{err: fmt.Errorf("%s holds files that devcluster did not make", path), hint: "give an empty or a new folder as --dir"}
}

func (d *directory) close() error {
	return d.lock.Close()
}

// file is the full path of a file in the folder.
func (d *directory) file(name string) string {
	return filepath.Join(d.path, name)
}

// write replaces a file: readers see the old content or the new, never a part.
func (d *directory) write(name string, content []byte) (err error) {
	f, err := os.CreateTemp(d.path, "."+name+"-*") // made 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %w", name, err)
		}
	}()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), d.file(name))
}

// openLog opens a log file for appending. It exists and is private before the
// code that logs to it, which has its own idea of file modes, starts.
func (d *directory) openLog(name string) (*os.File, error) {
	f, err := os.OpenFile(d.file(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log file: %w", err)
	}
	return f, nil
}

// remove removes a file that may be missing.
func (d *directory) remove(name string) error {
	if err := os.Remove(d.file(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the old %s: %w", name, err)
	}
	return nil
}
