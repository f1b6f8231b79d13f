package client

import (
	"context"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/access"
)

// Cluster is the registration of a Kubernetes cluster.
type Cluster struct {
	Body
	ID         access.ResourceID `json:"id"`
	Name       string            `json:"name"`
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags"`
	Properties struct {
		ProvisioningState access.State `json:"provisioningState"`
	} `json:"properties"`
}

// ClusterParameters is what a registration needs to say.
type ClusterParameters struct {
	Location string            `json:"location"`
	Tags     map[string]string `json:"tags,omitempty"`
}

// JoinTokenParameters is what may be said of a new join token.
type JoinTokenParameters struct {
	// Reset lets the agent enrol without a proof that it is of the cluster that
	// is enrolled: its service-account keys were rotated or are gone, or it is
	// another cluster. Whoever holds such a token can take the agent's place.
	Reset bool `json:"reset,omitempty"`
}

// JoinToken lets an agent enrol once. It is a secret.
type JoinToken struct {
	Body
	Token   string    `json:"token"`
	Expires time.Time `json:"expiresOn"`
}

// AgentStatus says whether a cluster's agent is connected.
type AgentStatus struct {
	Body
	Properties AgentStatusProperties `json:"properties"`
}

// UnmarshalJSON reads the properties, wrapped or not.
func (s *AgentStatus) UnmarshalJSON(b []byte) error { return decodeProperties(b, &s.Properties) }

// AgentStatusProperties is what the gateway sees of an agent.
type AgentStatusProperties struct {
	// Reconciler and Proxy are its two halves; Connected is true of both.
	Reconciler AgentLink `json:"reconciler"`
	Proxy      AgentLink `json:"proxy"`
	Connected  bool      `json:"connected"`
	Since      time.Time `json:"since"`      // when it connected; zero while it is not
	Generation int64     `json:"generation"` // of the enrolment; 0 before the first

	GatewayAddress string `json:"gatewayAddress"` // host:port that agents dial
	CAHash         string `json:"caHash"`         // of the CA that agents know the gateway by
	// ClusterAddress is the cluster's own host on the gateway, https://host:port,
	// where the server gives each cluster one.
	ClusterAddress string `json:"clusterAddress"`
}

// AgentLink is the connection of one half of an agent.
type AgentLink struct {
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"` // when it connected; zero while it is not
}

// PutCluster registers a cluster, or replaces its registration.
func (c *Client) PutCluster(ctx context.Context, id access.ResourceID, params ClusterParameters) (Cluster, *Poller, error) {
	var cl Cluster
	body := struct {
		ClusterParameters
		Properties struct{} `json:"properties"`
	}{ClusterParameters: params}
	p, err := c.put(ctx, id.String(), containerVersion, body, &cl)
	return cl, p, err
}

// Cluster reads one registration.
func (c *Client) Cluster(ctx context.Context, id access.ResourceID) (Cluster, error) {
	var cl Cluster
	return cl, c.get(ctx, id.String(), containerVersion, &cl)
}

// Clusters lists the clusters of a subscription or a resource group.
func (c *Client) Clusters(ctx context.Context, scope access.ResourceID) ([]Cluster, error) {
	return listOf[Cluster](ctx, c, scope.String()+"/providers/"+access.ClusterType, containerVersion)
}

// DeleteCluster removes a registration and its bindings. existed is false when
// there was none.
func (c *Client) DeleteCluster(ctx context.Context, id access.ResourceID) (existed bool, p *Poller, err error) {
	return c.remove(ctx, id.String(), containerVersion)
}

// agentPath is our extension resource under a cluster (design, "ARM is the API").
func agentPath(cluster access.ResourceID) string {
	return cluster.String() + "/providers/Sallyport.Gateway/agents/default"
}

// NewJoinToken issues a join token. From then on writes of bindings wait for an
// agent. It is never repeated by itself: each call issues another secret.
func (c *Client) NewJoinToken(ctx context.Context, cluster access.ResourceID, params JoinTokenParameters) (JoinToken, error) {
	var t JoinToken
	r, err := c.send(ctx, http.MethodPost, c.resolve(agentPath(cluster)+"/joinToken", genericVersion), params)
	if err != nil {
		return t, err
	}
	return t, r.into(&t)
}

// AgentStatus reads whether the cluster's agent is connected.
func (c *Client) AgentStatus(ctx context.Context, cluster access.ResourceID) (AgentStatus, error) {
	var s AgentStatus
	return s, c.get(ctx, agentPath(cluster), genericVersion, &s)
}

// ClusterStatus is all that can change about a cluster and its bindings, at one
// moment.
type ClusterStatus struct {
	Body
	Properties ClusterStatusProperties `json:"properties"`
}

// UnmarshalJSON reads the properties, wrapped or not.
func (s *ClusterStatus) UnmarshalJSON(b []byte) error { return decodeProperties(b, &s.Properties) }

// ClusterStatusProperties is what the control plane knows of a cluster.
type ClusterStatusProperties struct {
	Agent    AgentStatusProperties  `json:"agent"`
	Policy   AccessPolicyProperties `json:"accessPolicy"` // of the cluster; zero bounds nothing
	Bindings []NamedBindingStatus   `json:"bindings"`     // by name
}

// NamedBindingStatus is one of a cluster's bindings.
type NamedBindingStatus struct {
	Name   string                  `json:"name"`
	Status BindingStatusProperties `json:"status"`
	Policy AccessPolicyProperties  `json:"accessPolicy"` // of the binding; zero bounds nothing
}

// ClusterStatus reads the status of a cluster, its agent and its bindings.
func (c *Client) ClusterStatus(ctx context.Context, cluster access.ResourceID) (ClusterStatus, error) {
	var s ClusterStatus
	return s, c.get(ctx, cluster.String()+"/providers/Sallyport.Gateway/status/default", genericVersion, &s)
}
