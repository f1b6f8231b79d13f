package enroll_test

import (
	"context"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

// records is enroll.Records on the real store.
type records struct {
	store *store.Store
	// between, when set, runs in Enrol between reading and writing.
	between func()
}

var _ enroll.Records = (*records)(nil)

func newRecords(t *testing.T) *records {
	t.Helper()
	r := &records{store: storetest.New(t)}
	r.register(t, access.Cluster{ID: clusterID(t), UID: clusterUID})
	return r
}

func (r *records) register(t *testing.T, c access.Cluster) {
	t.Helper()
	if _, err := r.store.Clusters.Put(t.Context(), c, 0); err != nil {
		t.Fatal(err)
	}
}

func (r *records) Cluster(ctx context.Context, id access.ResourceID) (access.Cluster, error) {
	item, err := r.store.Clusters.Get(ctx, id.Key())
	return item.Value, err
}

func (r *records) AddJoinToken(ctx context.Context, token enroll.StoredToken) error {
	item, err := r.store.Clusters.Get(ctx, token.Cluster.Key())
	if err != nil {
		return err
	}
	if err := token.For(item.Value); err != nil {
		return err
	}
	cluster := item.Value
	cluster.JoinIssued = true
	_, err = r.store.Commit(ctx,
		r.store.Clusters.Updating(item, cluster),
		r.store.JoinTokens.Creating(store.JoinToken{ID: token.ID, ClusterID: token.Cluster, ClusterUID: token.ClusterUID, SecretHash: token.SecretHash, Expires: token.Expires, Reset: token.Reset}),
	)
	return err
}

func (r *records) Enrol(ctx context.Context, e enroll.Enrolment) (access.Cluster, error) {
	token, err := r.store.JoinTokens.Get(ctx, e.TokenID)
	if err != nil {
		return access.Cluster{}, err
	}
	item, err := r.store.Clusters.Get(ctx, e.Cluster.Key())
	if err != nil {
		return access.Cluster{}, err
	}
	v := token.Value
	stored := enroll.StoredToken{ID: v.ID, Cluster: v.ClusterID, ClusterUID: v.ClusterUID, SecretHash: v.SecretHash, Expires: v.Expires, Reset: v.Reset}
	cluster, err := stored.Admit(e, item.Value)
	if err != nil {
		return access.Cluster{}, err
	}
	if r.between != nil {
		r.between()
	}
	_, err = r.store.Commit(ctx, r.store.Clusters.Updating(item, cluster), r.store.JoinTokens.Deleting(token))
	return cluster, err
}

// slowRecords says when a reading has begun and waits to be let on.
type slowRecords struct {
	*records
	inside, leave chan struct{}
}

func (s *slowRecords) Cluster(ctx context.Context, id access.ResourceID) (access.Cluster, error) {
	s.inside <- struct{}{}
	<-s.leave
	return s.records.Cluster(ctx, id)
}
