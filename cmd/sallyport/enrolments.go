package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
	"github.com/sallyport/sallyport/internal/store"
)

// maxAttempts bounds how often a transaction is tried again after a conflict.
const maxAttempts = 10

// enrolments keeps join tokens and enrolments in the store.
type enrolments struct{ store *store.Store }

// Cluster implements [enroll.Records].
func (r enrolments) Cluster(ctx context.Context, id access.ResourceID) (access.Cluster, error) {
	item, err := r.store.Clusters.Get(ctx, id.Key())
	return item.Value, err
}

// AddJoinToken implements [enroll.Records].
func (r enrolments) AddJoinToken(ctx context.Context, t enroll.StoredToken) error {
	return r.change(ctx, t.Cluster, func(c access.Cluster) (access.Cluster, store.Change, error) {
		c.JoinIssued = true
		return c, r.store.JoinTokens.Creating(store.JoinToken{
			ID: t.ID, ClusterID: t.Cluster, ClusterUID: t.ClusterUID, SecretHash: t.SecretHash, Expires: t.Expires, Reset: t.Reset,
		}), t.For(c)
	})
}

// Enrol implements [enroll.Records].
func (r enrolments) Enrol(ctx context.Context, e enroll.Enrolment) (access.Cluster, error) {
	var enrolled access.Cluster
	err := r.change(ctx, e.Cluster, func(c access.Cluster) (access.Cluster, store.Change, error) {
		item, err := r.store.JoinTokens.Get(ctx, e.TokenID)
		if err != nil {
			return c, store.Change{}, err
		}
		stored := enroll.StoredToken{
			ID: item.Value.ID, Cluster: item.Value.ClusterID, ClusterUID: item.Value.ClusterUID,
			SecretHash: item.Value.SecretHash, Expires: item.Value.Expires, Reset: item.Value.Reset,
		}
		enrolled, err = stored.Admit(e, c)
		return enrolled, r.store.JoinTokens.Deleting(item), err
	})
	return enrolled, err
}

// change writes a cluster and one other change in one transaction, and tries
// again when another write came between.
func (r enrolments) change(ctx context.Context, id access.ResourceID, f func(access.Cluster) (access.Cluster, store.Change, error)) error {
	for range maxAttempts {
		item, err := r.store.Clusters.Get(ctx, id.Key())
		if err != nil {
			return err
		}
		next, other, err := f(item.Value)
		if err != nil {
			return err
		}
		_, err = r.store.Commit(ctx, other, r.store.Clusters.Updating(item, next))
		if !errors.Is(err, access.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("cluster %s is being written by others: %w", id, access.ErrConflict)
}
