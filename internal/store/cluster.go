package store

import (
	"time"

	"github.com/sallyport/sallyport/access"
)

// JoinToken is the record of a one-time token for an agent's enrolment. The
// secret itself is never stored.
type JoinToken struct {
	ID         string            `json:"id"`
	ClusterID  access.ResourceID `json:"clusterId"`
	ClusterUID string            `json:"clusterUid"`
	SecretHash []byte            `json:"secretHash"`
	Expires    time.Time         `json:"expires"`
	// Reset lets the enrolment replace the cluster's recorded identity without
	// proof of it.
	Reset bool `json:"reset,omitempty"`
}

// Clusters are found by id; those of a subscription or a group are the list
// under its id's Key() + "/". Join tokens are found by their own id, without
// regard to case: what is secret in them is the secret.

func clusterKey(v access.Cluster) (string, error) { return v.ID.Key(), nil }

func joinTokenKey(v JoinToken) (string, error) { return v.ID, nil }
