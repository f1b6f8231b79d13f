package controlplane

import (
	"context"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/store"
)

// extension is the body of a resource of our own beside one of ARM's.
type extension struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Type       string `json:"type"`
	Properties any    `json:"properties"`
}

// extension shows the resource that the path names.
func (q *request) extension(properties any) extension {
	return extension{ID: q.path.String(), Name: q.path[len(q.path)-1], Type: q.path.Type(), Properties: properties}
}

// agentStatus is what an owner sees of a cluster's agent.
type agentStatus struct {
	Connected  bool     `json:"connected"`
	Since      string   `json:"since,omitempty"`
	Generation int64    `json:"generation"` // enrolments so far
	JoinIssued bool     `json:"joinIssued"`
	Revision   int64    `json:"sentRevision,omitempty"`
	Reported   string   `json:"lastReport,omitempty"`
	Foreign    []string `json:"foreign,omitempty"`
	ClusterUID string   `json:"clusterUid"`
}

func (c *ControlPlane) getAgent(ctx context.Context, q *request) (reply, error) {
	cluster, err := q.cluster(ctx)
	if err != nil {
		return reply{}, err
	}
	agent := c.feeds.presence(cluster.Value.UID)
	s := agentStatus{
		Connected: agent.connected(), Generation: cluster.Value.Generation, JoinIssued: cluster.Value.JoinIssued,
		Revision: agent.sent, Foreign: agent.foreign, ClusterUID: cluster.Value.UID,
	}
	if agent.connected() {
		s.Since = agent.since.UTC().Format(time.RFC3339Nano)
	}
	if !agent.reported.IsZero() {
		s.Reported = agent.reported.UTC().Format(time.RFC3339Nano)
	}
	return reply{status: http.StatusOK, body: q.extension(s)}, nil
}

type joinToken struct {
	Token     string `json:"token"`
	ExpiresOn string `json:"expiresOn"`
}

// postJoinToken gives the owner a one-time token. From the first one on, the
// cluster's writes wait for its agent.
func (c *ControlPlane) postJoinToken(ctx context.Context, q *request) (reply, error) {
	if c.cfg.IssueJoinToken == nil {
		return reply{}, arm.NoRoute(q.path)
	}
	var cluster store.Item[access.Cluster]
	err := retry(ctx, func() (err error) {
		if cluster, err = q.cluster(ctx); err != nil {
			return err
		}
		if cluster.Value.JoinIssued {
			return q.allow(nil)
		}
		old := cluster
		cluster.Value.JoinIssued = true
		_, err = q.commit(ctx, c.store.Clusters.Updating(old, cluster.Value))
		return err
	})
	if err != nil {
		return reply{}, err
	}
	token, expires, err := c.cfg.IssueJoinToken(ctx, cluster.Value)
	return reply{status: http.StatusOK, body: joinToken{token, expires.UTC().Format(time.RFC3339)}}, err
}

// postEnrol hands an agent's request on; it has no bearer token of ARM's.
func (c *ControlPlane) postEnrol(_ context.Context, q *request) (reply, error) {
	if c.cfg.Enrol == nil {
		return reply{}, arm.NoRoute(q.path)
	}
	cluster, err := q.clusterID()
	if err != nil {
		return reply{}, err
	}
	c.cfg.Enrol(q.w, q.http, cluster, q.path[len(q.path)-1])
	return reply{served: true}, nil
}
