package store

import (
	"fmt"
	"net"
	"net/url"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/access"
)

// external connects to an etcd cluster that others run. Its compaction and
// its quota are theirs to set.
func external(cfg Config) (*connection, error) {
	for _, endpoint := range cfg.Endpoints {
		if err := checkEndpoint(endpoint, cfg.TLS != nil); err != nil {
			return nil, err
		}
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		TLS:                  cfg.TLS,
		DialTimeout:          5 * time.Second,
		DialKeepAliveTime:    10 * time.Second, // a dead connection is noticed and another member tried
		DialKeepAliveTimeout: 5 * time.Second,
		PermitWithoutStream:  true,
		Logger:               zapTo(cfg.Logger),
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %q: %v: %w", cfg.Endpoints, err, access.ErrUnavailable)
	}
	return &connection{
		client:     client,
		newWatcher: func() clientv3.Watcher { return clientv3.NewWatcher(client) },
		close:      client.Close,
	}, nil
}

// checkEndpoint refuses what would send consent in the clear. The scheme
// decides, because the client library drops its TLS settings for "http".
func checkEndpoint(endpoint string, secure bool) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.User != nil || (u.Path != "" && u.Path != "/") {
		return fmt.Errorf("etcd endpoint %q must be a URL such as https://10.0.0.5:2379: %w", endpoint, access.ErrInvalid)
	}
	switch {
	case secure && u.Scheme == "https":
		return nil
	case secure:
		return fmt.Errorf("etcd endpoint %q must begin with https:// because TLS is configured: %w", endpoint, access.ErrInvalid)
	case u.Scheme == "http" && net.ParseIP(u.Hostname()).IsLoopback():
		return nil
	default:
		return fmt.Errorf("etcd endpoint %q: without TLS only http:// and a loopback address such as 127.0.0.1 are accepted: %w", endpoint, access.ErrInvalid)
	}
}
