package store

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy/adapter"

	"github.com/sallyport/sallyport/access"
)

// quota bounds the database file. etcd's default of 2 GiB is raised, but stays
// below the 8 GiB it advises as most.
const quota = 4 << 30

// embedded starts an etcd server in this process and connects to it in memory.
func embedded(ctx context.Context, dir string, log *slog.Logger) (*connection, error) {
	return embeddedWithQuota(ctx, dir, log, quota)
}

func embeddedWithQuota(ctx context.Context, dir string, log *slog.Logger, quota int64) (*connection, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the store: %v: %w", err, access.ErrUnavailable)
	}
	if err := os.Chmod(dir, 0o700); err != nil { // it may have existed with another mode
		return nil, fmt.Errorf("folder of the store: %v: %w", err, access.ErrUnavailable)
	}
	// etcd would wait without end for a folder that another process uses.
	lock, err := fileutil.TryLockFile(filepath.Join(dir, "lock"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("folder %q: %v (is another server using it? stop that one, or choose another folder): %w", dir, err, access.ErrUnavailable)
	}
	server, err := startServer(ctx, serverConfig(filepath.Join(dir, "etcd"), log, quota))
	if err != nil {
		lock.Close()
		return nil, err
	}
	client := v3client.New(server.Server)
	conn := &connection{
		client: client,
		newWatcher: func() clientv3.Watcher {
			return clientv3.NewWatchFromWatchClient(adapter.WatchServerToWatchClient(v3rpc.NewWatchServer(server.Server)), client)
		},
		close: func() error {
			client.Close() // always returns its own context's cancellation
			server.Close()
			return lock.Close()
		},
	}
	if err := freeSpace(ctx, server, client, log); err != nil {
		conn.close()
		return nil, err
	}
	return conn, nil
}

// serverConfig is etcd with its defaults, less its listeners. Syncing the log
// to disk before acknowledging is one of those defaults.
func serverConfig(dir string, log *slog.Logger, quota int64) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Name = "sallyport"
	cfg.Dir = dir
	// A member must have a peer URL; of a cluster of one it is only a label.
	// Nothing listens there and nothing dials it.
	label := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	cfg.AdvertisePeerUrls = []url.URL{label}
	cfg.InitialCluster = cfg.Name + "=" + label.String()
	cfg.ListenPeerUrls, cfg.ListenClientUrls, cfg.AdvertiseClientUrls = nil, nil, nil
	cfg.EnableGRPCGateway = false
	cfg.AuthToken = "" // nobody signs in
	// A cluster of one elects itself, and has nobody to wait for. With the
	// defaults, meant for networks, that wait is most of a server's start.
	cfg.TickMs, cfg.ElectionMs = 20, 100
	cfg.AutoCompactionMode = embed.CompactorModePeriodic
	cfg.AutoCompactionRetention = "1h" // a paged list or a watch may lag that far
	cfg.QuotaBackendBytes = quota
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapTo(log))
	return cfg
}

func startServer(ctx context.Context, cfg *embed.Config) (*embed.Etcd, error) {
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd in folder %q: %v: %w", cfg.Dir, err, access.ErrUnavailable)
	}
	select {
	case <-server.Server.ReadyNotify():
		return server, nil
	case <-server.Server.StopNotify():
		err = fmt.Errorf("etcd in folder %q stopped while starting: %w", cfg.Dir, access.ErrUnavailable)
	case <-ctx.Done():
		err = fmt.Errorf("etcd in folder %q was not ready in time: %v: %w", cfg.Dir, ctx.Err(), access.ErrUnavailable)
	}
	server.Close()
	return nil, err
}

// freeSpace is the way out of a used-up quota. etcd then refuses writes until
// old versions are dropped, the file is rewritten and the alarm is cleared,
// which is done with etcdctl on a server that listens; ours does it at start.
func freeSpace(ctx context.Context, server *embed.Etcd, client *clientv3.Client, log *slog.Logger) error {
	fail := func(err error) error {
		return fmt.Errorf("free space in etcd: %v: %w", err, access.ErrUnavailable)
	}
	alarms, err := client.AlarmList(ctx)
	if err != nil {
		return fail(err)
	}
	for _, alarm := range alarms.Alarms {
		if alarm.Alarm != etcdserverpb.AlarmType_NOSPACE {
			continue
		}
		log.Warn("etcd's space quota was used up; dropping old versions")
		now, err := client.Get(ctx, "/", clientv3.WithKeysOnly())
		if err != nil {
			return fail(err)
		}
		if _, err := client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical()); err != nil && !isCompacted(err) {
			return fail(err)
		}
		// The client in memory cannot defragment: it lacks a part (v3.6.8).
		if err := server.Server.Backend().Defrag(); err != nil {
			return fail(err)
		}
		if _, err := client.AlarmDisarm(ctx, (*clientv3.AlarmMember)(alarm)); err != nil {
			return fail(err)
		}
	}
	return nil
}
