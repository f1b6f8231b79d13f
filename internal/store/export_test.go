package store

import (
	"context"
	"log/slog"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Client lets tests compact, and look under the store.
func Client(s *Store) *clientv3.Client { return s.conn.client }

// Prefix begins the store's keys.
func Prefix(s *Store) string { return s.prefix }

// OpenSmall opens a store with another quota.
func OpenSmall(ctx context.Context, dir string, quota int64) (*Store, error) {
	log := slog.New(slog.DiscardHandler)
	conn, err := embeddedWithQuota(ctx, dir, log, quota)
	if err != nil {
		return nil, err
	}
	return newStore(conn, &sealer{}, Config{Prefix: "/small/", Logger: log}), nil
}

// ZapTo is the logger that etcd gets.
func ZapTo(log *slog.Logger) *zap.Logger { return zapTo(log) }
