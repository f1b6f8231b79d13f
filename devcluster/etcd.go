package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/embed"
)

// maxSocketPath is how long the path of a unix socket may be; the kernels' own
// limits are 107 bytes (Linux) and 103 (macOS).
const maxSocketPath = 100

// An etcdServer is a running etcd that only this machine's files lead to.
type etcdServer struct {
	// endpoint is what --etcd-servers wants.
	endpoint string

	server *embed.Etcd
	// tempDir holds the socket if its path in DIR would be too long.
	tempDir string
}

// startEtcd starts a single etcd and returns when it answers.
func startEtcd(ctx context.Context, dir *directory) (_ *etcdServer, err error) {
	e := &etcdServer{}
	defer func() {
		if err != nil {
			e.close()
			err = fmt.Errorf("starting etcd (see %s): %w", dir.file(etcdLogFile), err)
		}
	}()

	socket := dir.file(etcdSocketFile)
	if len(socket) > maxSocketPath {
		e.tempDir, err = os.MkdirTemp("", "devcluster-") // made 0700
		if err != nil {
			return nil, err
		}
		socket = filepath.Join(e.tempDir, etcdSocketFile)
	}
	endpoint := url.URL{Scheme: "unix", Path: socket}
	e.endpoint = endpoint.String()

	log, err := dir.openLog(etcdLogFile)
	if err != nil {
		return nil, err
	}
	log.Close() // etcd opens it by name; it is private now

	config := embed.NewConfig()
	config.Name = "devcluster"
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.Dir = dir.file(etcdDataDir)
	config.ListenClientUrls = []url.URL{endpoint}
	// A cluster of one has nobody to listen for. The peer and client URLs that
	// it still advertises stay at their defaults; nobody reads them.
	config.ListenPeerUrls = nil
	config.LogOutputs = []string{dir.file(etcdLogFile)}
	config.LogLevel = "warn"
	// A crash of this process loses nothing without fsync, only one of the
	// machine does; on slow disks fsync is most of the time of a write.
	config.UnsafeNoFsync = true
	// The flag's default, which NewConfig leaves out: with zero, etcd warns of
	// every request.
	config.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration

	if e.server, err = embed.StartEtcd(config); err != nil {
		return nil, err
	}
	// DIR is private, and so is the socket in it; this only makes it look so.
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, err
	}
	select {
	case <-e.server.Server.ReadyNotify():
		return e, nil
	case <-e.server.Server.StopNotify():
		return nil, errors.New("it stopped")
	case err := <-e.server.Err():
		return nil, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// failed reports an error that ends etcd while it should run.
func (e *etcdServer) failed() <-chan error {
	return e.server.Err()
}

func (e *etcdServer) close() {
	if e.server != nil {
		e.server.Close()
	}
	if e.tempDir != "" {
		os.RemoveAll(e.tempDir)
	}
}
