package controlplane

import (
	"context"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
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
	// Connected means both halves; without the reconciler no write comes into
	// force, without the proxy no request gets through.
	Connected  bool     `json:"connected"`
	Since      string   `json:"since,omitempty"`
	Reconciler link     `json:"reconciler"`
	Proxy      link     `json:"proxy"`
	Generation int64    `json:"generation"` // enrolments so far
	JoinIssued bool     `json:"joinIssued"`
	Revision   int64    `json:"sentRevision,omitempty"`
	Reported   string   `json:"lastReport,omitempty"`
	Foreign    []string `json:"foreign,omitempty"`
	ClusterUID string   `json:"clusterUid"`
	// What an agent must be told to find the gateway and to know it.
	GatewayAddress string `json:"gatewayAddress,omitempty"`
	CAHash         string `json:"caHash,omitempty"`
	// ClusterAddress is the URL of the cluster's host name on the gateway, where
	// clusters have one.
	ClusterAddress string `json:"clusterAddress,omitempty"`
}

// link is the connection of one half of an agent.
type link struct {
	Connected bool   `json:"connected"`
	Since     string `json:"since,omitempty"`
}

func newLink(h half) link {
	if !h.connected() {
		return link{}
	}
	return link{true, h.since.UTC().Format(time.RFC3339Nano)}
}

func (c *ControlPlane) getAgent(ctx context.Context, q *request) (reply, error) {
	cluster, err := q.cluster(ctx)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: q.extension(c.agentStatus(cluster.Value))}, nil
}

func (c *ControlPlane) agentStatus(cluster access.Cluster) agentStatus {
	agent := c.agent(cluster.UID)
	s := agentStatus{
		Connected: agent.connected(), Reconciler: newLink(agent.reconciler), Proxy: newLink(agent.proxy), Generation: cluster.Generation, JoinIssued: cluster.JoinIssued,
		Revision: agent.sent, Foreign: agent.foreign, ClusterUID: cluster.UID,
		GatewayAddress: c.cfg.GatewayAddress,
	}
	if hashes := c.cfg.CAHashes(); len(hashes) > 0 {
		s.CAHash = hashes[len(hashes)-1]
	}
	if c.cfg.ClusterAddress != nil {
		s.ClusterAddress = c.cfg.ClusterAddress(cluster.UID)
	}
	if agent.connected() {
		since := agent.reconciler.since
		if agent.proxy.since.After(since) {
			since = agent.proxy.since
		}
		s.Since = since.UTC().Format(time.RFC3339Nano)
	}
	if !agent.reported.IsZero() {
		s.Reported = agent.reported.UTC().Format(time.RFC3339Nano)
	}
	return s
}

// agent is what is known of a cluster's agent. A feed that is wedged, open and
// without life, is not noticed here until the network gives it up; a proxy's
// tunnel has heartbeats, so it says whether the proxy is there.
func (c *ControlPlane) agent(clusterUID string) presence {
	p := c.feeds.presence(clusterUID)
	if c.cfg.Tunnel != nil && c.cfg.Tunnel(clusterUID) == 0 {
		p.proxy = half{}
	}
	return p
}

type joinToken struct {
	Token     string `json:"token"`
	ExpiresOn string `json:"expiresOn"`
}

// postJoinToken gives the owner a one-time token. From the first one on, the
// cluster's writes wait for its agent: whoever issues the token records that
// with it, so that none waits for an agent that has no token to come with.
func (c *ControlPlane) postJoinToken(ctx context.Context, q *request) (reply, error) {
	if c.cfg.IssueJoinToken == nil {
		return reply{}, arm.NoRoute(q.path)
	}
	var body struct {
		Reset bool `json:"reset"`
	}
	if err := q.read(&body); err != nil {
		return reply{}, err
	}
	cluster, err := q.cluster(ctx)
	if err != nil {
		return reply{}, err
	}
	var detail any
	if body.Reset { // the owner waives the proof that it is the same cluster
		detail = map[string]any{"reset": true}
	}
	if err := q.allow(detail); err != nil {
		return reply{}, err
	}
	token, expires, err := c.cfg.IssueJoinToken(ctx, cluster.Value, body.Reset)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: joinToken{token, expires.UTC().Format(time.RFC3339)}}, nil
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
