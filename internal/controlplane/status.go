package controlplane

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
)

// States of a binding in its cluster, as the status resource shows them.
const (
	stateNotConnected = "NotConnected"
	stateWaiting      = "Waiting"
	stateInForce      = "InForce"
	stateFailed       = "Failed"
)

// bindingStatus is what ARM's provisioningState cannot say: whether the
// binding is in force in the cluster, since when, and if not, why.
type bindingStatus struct {
	State             string   `json:"state"`
	Generation        int64    `json:"generation"`
	AppliedGeneration int64    `json:"appliedGeneration"`
	AppliedAt         string   `json:"appliedAt,omitempty"`
	TookMs            int64    `json:"tookMs,omitempty"`
	Message           string   `json:"message,omitempty"`
	WaitingFor        string   `json:"waitingFor,omitempty"`
	Foreign           []string `json:"foreign,omitempty"`
	UID               string   `json:"uid"`
	SourceObjectID    string   `json:"sourceObjectId,omitempty"`
}

func newBindingStatus(cluster access.Cluster, b access.RoleBinding, agent presence) bindingStatus {
	s := bindingStatus{
		Generation: b.Generation, AppliedGeneration: b.Applied.Generation, TookMs: b.Applied.Took.Milliseconds(),
		Message: b.Applied.Message, UID: b.UID, SourceObjectID: b.SourceOID,
	}
	if !b.Applied.At.IsZero() {
		s.AppliedAt = b.Applied.At.UTC().Format(time.RFC3339Nano)
	}
	switch {
	case !cluster.JoinIssued:
		s.State, s.WaitingFor = stateNotConnected, "a join token to be issued and an agent to connect with it"
	case b.State == access.Failed:
		s.State = stateFailed
	case b.Applied.Generation == b.Generation && b.Applied.Message == "":
		s.State = stateInForce
	case !agent.reconciler.connected():
		s.State, s.WaitingFor = stateNotConnected, "an agent to connect"
	default:
		s.State, s.WaitingFor = stateWaiting, fmt.Sprintf("the agent to report generation %d in force", b.Generation)
	}
	for _, object := range agent.foreign {
		if strings.Contains(object, ":"+b.Name()+":") {
			s.Foreign = append(s.Foreign, object)
		}
	}
	return s
}

func (c *ControlPlane) getBindingStatus(ctx context.Context, q *request) (reply, error) {
	cluster, item, err := q.binding(ctx)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: q.extension(newBindingStatus(cluster.Value, item.Value, c.feeds.presence(cluster.Value.UID)))}, nil
}

// clusterStatus is all that can change under an owner's eyes, in one answer:
// who follows it asks again and compares.
type clusterStatus struct {
	Agent    agentStatus                `json:"agent"`
	Policy   arm.AccessPolicyProperties `json:"accessPolicy"`
	Bindings []statusOfBinding          `json:"bindings"`
}

// statusOfBinding is the status of one of a cluster's bindings.
type statusOfBinding struct {
	Name   string                     `json:"name"`
	Status bindingStatus              `json:"status"`
	Policy arm.AccessPolicyProperties `json:"accessPolicy"`
}

func (c *ControlPlane) getClusterStatus(ctx context.Context, q *request) (reply, error) {
	cluster, err := q.cluster(ctx)
	if err != nil {
		return reply{}, err
	}
	items, _, err := c.store.Bindings.List(ctx, cluster.Value.ID.Key()+"/")
	if err != nil {
		return reply{}, err
	}
	s := clusterStatus{
		Agent: c.agentStatus(cluster.Value), Policy: arm.PolicyProperties(cluster.Value.Policy), Bindings: make([]statusOfBinding, len(items)),
	}
	agent := c.feeds.presence(cluster.Value.UID)
	for i, item := range items {
		b := item.Value
		s.Bindings[i] = statusOfBinding{b.Name(), newBindingStatus(cluster.Value, b, agent), arm.PolicyProperties(b.Policy)}
	}
	return reply{status: http.StatusOK, body: q.extension(s)}, nil
}
